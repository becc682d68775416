"""A worker's own socket of a udp listener. Every flow comes to one of the workers' sockets, always the same."""

from libc.stdint cimport uint32_t, uint64_t
from lb.net.datagram cimport tg_flow_key
from lb.shared.segment cimport Segment
from lb.proxy.udp.pool cimport UdpPool, UdpSplit
from lb.proxy.udp.session cimport UdpSocket


cdef class UdpListener(UdpSocket):
    cdef UdpPool upstream             # of new sessions; None = one of `split`
    cdef UdpSplit split
    cdef Segment segment
    cdef unsigned int series_index
    cdef uint64_t max_sessions        # over all workers
    cdef uint32_t max_per_source      # likewise; 0 = no limit

    cdef void take(self, unsigned int count) noexcept
    cdef uint64_t sessions_open(self) noexcept
    cdef bint enter(self) noexcept
    cdef void retire(self) noexcept
    cdef void *begin(self, const tg_flow_key *key, uint64_t hashed) noexcept
    cdef void refuse(self, int word) noexcept
