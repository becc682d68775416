cimport cython
from libc.stdint cimport uint64_t

from lb.endpoints.set cimport EndpointSet


# As a C global: a name of the module would be looked up and boxed at every use.
cdef double _UNKNOWN_NS


cdef class Latencies:
    cdef EndpointSet endpoints
    cdef double decay_rate
    cdef bint peaks

    @cython.locals(latency=double)
    cdef double faded(self, int index, uint64_t now) noexcept

    @cython.locals(latency=double)
    cdef double pending(self, int index) noexcept

    @cython.locals(updated=uint64_t)
    cdef double kept(self, int index, uint64_t now) noexcept

    @cython.locals(average=double, sample=double, kept=double)
    cdef void add(self, int index, uint64_t now, uint64_t latency_ns, bint ok) noexcept

    @cython.locals(i=int, highest=double)
    cdef double highest(self, uint64_t now) noexcept
