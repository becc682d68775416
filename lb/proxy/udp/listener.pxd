"""A worker's own socket of a udp listener. Every flow comes to one of the workers' sockets, always the same."""

from libc.stdint cimport uint32_t, uint64_t
from lb.net.datagram cimport tg_flow_key
from lb.net.flows cimport tg_flow
from lb.shared.segment cimport Segment
from lb.proxy.accept.source_guard cimport SourceGuard
from lb.proxy.udp.pool cimport UdpPool, UdpSplit
from lb.proxy.udp.session cimport UdpSocket


cdef class UdpListener(UdpSocket):
    cdef UdpSplit split               # None = one pool takes all sessions
    cdef list members                 # the UdpPools of new sessions
    cdef bint by_id                   # some of them know sessions by the connection ids of QUIC
    cdef Segment segment
    cdef unsigned int series_index
    cdef uint64_t max_sessions        # over all workers
    cdef SourceGuard guard            # None: everybody may begin sessions, as often as they like
    cdef tuple network                # bits of addresses by which `sources` counts
    cdef uint32_t max_per_source      # likewise; 0 = no limit
    cdef tg_flow_key own              # where the socket is

    cdef void take(self, unsigned int count) noexcept
    cdef uint64_t sessions_open(self) noexcept
    cdef bint enter(self) noexcept
    cdef void retire(self) noexcept
    # The session of a flow of QUIC, whose datagram names its endpoint, or is of a connection that another client's
    # address has had.
    cdef void *session_by_id(self, const tg_flow_key *key, const unsigned char *data, size_t size) noexcept
    cdef UdpPool pool_by_id(self, const unsigned char *data, size_t size, int *index)
    cdef UdpPool pool_of(self, const tg_flow_key *key, uint64_t *kept, int *wanted)
    # The session of `flow`, unless its endpoint is down: then it is over. NULL.
    cdef void *alive(self, tg_flow *flow) noexcept
    # Begins a session; `upstream` None = with the pool that its flow has or gets; at the endpoint `wanted` if that is
    # not -1.
    cdef void *begin(self, const tg_flow_key *key, uint64_t hashed, UdpPool upstream, int wanted) noexcept
    cdef void refuse(self, int word) noexcept
