from libc.stdint cimport uint64_t

from lb.endpoints.set cimport EndpointSet


cdef class Latencies:
    cdef EndpointSet endpoints
    cdef double decay_rate
    cdef bint peaks

    cdef double faded(self, int index, uint64_t now) noexcept
    cdef double pending(self, int index) noexcept
    cdef double kept(self, int index, uint64_t now) noexcept
    cdef void add(self, int index, uint64_t now, uint64_t latency_ns, bint ok) noexcept
    cdef double highest(self, uint64_t now) noexcept
