"""A worker's own socket of a udp listener. Every flow comes to one of the workers' sockets, always the same."""

from libc.stdint cimport uint32_t, uint64_t
from lb.core.datagram cimport tg_flow_key
from lb.proxy.udp_pool cimport UdpPool
from lb.proxy.udp_session cimport UdpSocket


cdef class UdpListener(UdpSocket):
    cdef UdpPool upstream
    cdef Py_ssize_t max_sessions
    cdef uint32_t max_per_source      # 0 = no limit

    cdef void take(self, unsigned int count) noexcept
    cdef void *begin(self, const tg_flow_key *key, uint64_t hashed) noexcept
    cdef void refuse(self, int word) noexcept
