from libc.stdint cimport uint64_t

from lb.balancing.draw cimport Draw
from lb.balancing.policy cimport Policy
from lb.endpoints.choice cimport Choice


cdef class Random(Policy):
    cdef Draw draw

    cpdef int pick(self, Choice choice) except -2
