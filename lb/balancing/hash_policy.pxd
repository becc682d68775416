cimport cython
from libc.stdint cimport uint64_t

from lb.balancing.bound cimport Bound
from lb.balancing.policy cimport Policy


cdef class HashPolicy(Policy):
    cdef readonly Bound bound

    @cython.locals(index=int, other=int)
    cpdef int pick(self, uint64_t now, uint64_t key, int exclude) except -2
    cdef int first(self, uint64_t key, int exclude, Bound bound) except -2
