cimport cython
from libc.stdint cimport uint64_t

from lb.balancing.latency cimport Latencies
from lb.balancing.policy cimport Policy
from lb.endpoints.choice cimport Choice
from lb.endpoints.set cimport EndpointSet


cdef class LeastTime(Policy):
    cdef Latencies latencies

    @cython.locals(endpoints=EndpointSet, i=int, best=int, weight=double, pending=double, load=double,
                   best_load=double, own=double)
    cpdef int pick(self, Choice choice) except -2
    cpdef void observe(self, int index, uint64_t now, uint64_t latency_ns, bint ok)
