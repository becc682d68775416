cimport cython
from libc.stdint cimport int64_t, uint64_t

from lb.balancing.draw cimport Draw
from lb.balancing.policy cimport Policy
from lb.endpoints.choice cimport Choice
from lb.endpoints.set cimport EndpointSet


cdef class PowerOfTwo(Policy):
    cdef int choices
    cdef Draw draw

    @cython.locals(endpoints=EndpointSet, draw=Draw, i=int, best=int, weight=int64_t, load=int64_t,
                   best_load=int64_t, best_weight=int64_t)
    cpdef int pick(self, Choice choice) except -2
