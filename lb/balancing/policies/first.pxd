cimport cython
from libc.stdint cimport int64_t, uint64_t

from lb.balancing.policy cimport Policy
from lb.endpoints.choice cimport Choice
from lb.endpoints.set cimport EndpointSet


cdef class First(Policy):
    cdef int64_t fill

    @cython.locals(endpoints=EndpointSet, i=int, best=int, weight=int64_t, load=int64_t,
                   best_load=int64_t, best_weight=int64_t)
    cpdef int pick(self, Choice choice) except -2
