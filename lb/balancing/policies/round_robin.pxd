cimport cython
from libc.stdint cimport int64_t, uint64_t

from lb.balancing.policy cimport Policy
from lb.endpoints.choice cimport Choice
from lb.endpoints.set cimport EndpointSet


cdef class RoundRobin(Policy):
    cdef int64_t[::1] current
    cdef int[::1] weights
    cdef int ahead

    @cython.locals(index=int)
    cpdef int pick(self, Choice choice) except -2

    @cython.locals(endpoints=EndpointSet, i=int, best=int, weight=int, known=int, total=int64_t, changed=bint)
    cdef int turn(self, Choice choice) noexcept

    @cython.locals(i=int)
    cdef void restart(self) noexcept
