cimport cython
from libc.stdint cimport uint64_t

from lb.balancing.draw cimport Draw
from lb.balancing.latency cimport Latencies
from lb.balancing.policy cimport Policy
from lb.endpoints.choice cimport Choice
from lb.endpoints.set cimport EndpointSet


cdef class PeakEwma(Policy):
    cdef int choices
    cdef Draw draw
    cdef Latencies latencies

    @cython.locals(draw=Draw, i=int, best=int, load=double, best_load=double)
    cpdef int pick(self, Choice choice) except -2
    cpdef void observe(self, int index, uint64_t now, uint64_t latency_ns, bint ok)

    @cython.locals(running=double, weight=double, average=double)
    cdef double load(self, int index, Choice choice) noexcept
