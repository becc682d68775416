cimport cython
from libc.stdint cimport uint64_t

from lb.balancing.policy cimport Policy
from lb.balancing.stride cimport Stride
from lb.endpoints.choice cimport Choice
from lb.endpoints.set cimport EndpointSet


cdef class ClientSideWeightedRoundRobin(Policy):
    cdef Stride turns
    cdef int[::1] known
    cdef uint64_t blackout
    cdef uint64_t expiration
    cdef uint64_t update
    cdef uint64_t filled_at
    cdef double penalty
    cdef bint filled

    @cython.locals(index=int)
    cpdef int pick(self, Choice choice) except -2

    @cython.locals(index=int, other=int)
    cdef int choose(self, Choice choice) except -2

    @cython.locals(index=int)
    cdef int turn(self, Choice choice) noexcept

    @cython.locals(start=uint64_t, seen=uint64_t, index=int)
    cdef int any(self, Choice choice) noexcept

    @cython.locals(i=int)
    cdef int refill(self, uint64_t now) except -1

    @cython.locals(weight=int)
    cdef bint changed(self, int i) noexcept

    @cython.locals(endpoints=EndpointSet, i=int, known=int, share=double, total=double, smallest=double)
    cpdef list weights(self, uint64_t now)

    @cython.locals(endpoints=EndpointSet, at=uint64_t)
    cdef double reported(self, int index, uint64_t now) noexcept
    cpdef double weight(self, double utilization, double qps, double eps) noexcept
