cimport cython
from libc.stdint cimport uint64_t

from lb.balancing.draw cimport Draw
from lb.balancing.policy cimport Policy


cdef class Random(Policy):
    cdef Draw draw

    @cython.locals(index=int)
    cpdef int pick(self, uint64_t now, uint64_t key, int exclude) except -2
