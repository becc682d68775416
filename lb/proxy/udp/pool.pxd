"""A pool as a udp listener uses it: which endpoint gets a session, and what is known of those that were not there."""

from libc.stdint cimport uint32_t, uint64_t
from lb.net.address cimport Address
from lb.net.buffer cimport tg_buffer
from lb.net.datagram cimport tg_flow_key
from lb.proxy.routing.split cimport Split
from lb.proxy.udp.affinity cimport FlowAffinity, QuicAffinity
from lb.upstream.pool cimport Pool


cdef class UdpPool:
    cdef readonly Pool pool
    cdef uint64_t **words             # per endpoint: this worker's words of its datagrams (UDP_ENDPOINT of words.py)
    cdef uint32_t *slots              # per endpoint: its record in the segment
    cdef FlowAffinity flows           # None = sessions end with their worker
    cdef QuicAffinity quic            # None = datagrams are of any protocol
    cdef bint sends_header            # of the PROXY protocol, version 2
    cdef bint key_port                # of the client is part of the policy's key,
    cdef bint key_destination         # and where its datagrams went to is

    # Connects a socket to an endpoint for the flow `key`, which came to the socket bound to `own`: its descriptor, with
    # the endpoint's index in *index and one more in flight there. `wanted` is the endpoint that the flow belongs to,
    # -1 = none is known; a flow that names its endpoint gets no other. Else minus the UDP_LISTENER_DROPPED_… word
    # that counts why not, with nothing held.
    cdef int connect(self, const tg_flow_key *key, const tg_flow_key *own, int wanted, uint64_t now,
                     int *index) noexcept
    # Appends the PROXY header of the flow to `out`. 0, or -1 where memory is out.
    cdef int write_header(self, tg_buffer *out, const tg_flow_key *key, const tg_flow_key *own) noexcept
    # Whether the endpoint goes on with sessions that it has.
    cdef bint keeps(self, int index, uint64_t now) noexcept
    # The endpoint is not there: it counts, and new sessions go elsewhere for a while, in every worker.
    cdef void failed(self, int index, uint64_t now) noexcept
    # The endpoint has answered: what `failed` noted is over.
    cdef void answered(self, int index) noexcept
    # Whether its checks have found the endpoint down.
    cdef bint down(self, int index) noexcept
    cdef int choose(self, uint64_t now, uint64_t key) noexcept
    cdef int open_socket(self, Address address, const tg_flow_key *key) noexcept
    cdef uint64_t key_of(self, const tg_flow_key *key, const tg_flow_key *own) noexcept
    # Whether it was not there lately; `second` is that of now.
    cdef bint missed(self, int index, uint32_t second) noexcept


cdef class UdpSplit:
    """Pools that share the sessions of a udp listener by weight."""
    cdef Split split
    cdef dict pools                   # name -> UdpPool

    # That of a new session for the flow `key`.
    cdef UdpPool choose(self, const tg_flow_key *key)
