cimport cython
from libc.stdint cimport uint64_t

from lb.balancing.bound cimport Bound
from lb.balancing.hash_policy cimport HashPolicy
from lb.balancing.ring cimport Ring
from lb.balancing.weights cimport WeightWatch
from lb.endpoints.choice cimport Choice


cdef class RingHash(HashPolicy):
    cdef readonly Ring ring
    cdef WeightWatch watch
    cdef int points

    cdef int first(self, Choice choice, Bound bound) except -2

    @cython.locals(ring=Ring, at=int, step=int, index=int)
    cdef int walk(self, Choice choice, Bound bound) noexcept
    cdef bint will_do(self, int index, Choice choice, Bound bound) noexcept

    @cython.locals(i=int)
    cdef bint anyone(self, Choice choice, Bound bound) noexcept
