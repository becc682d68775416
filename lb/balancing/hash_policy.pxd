from libc.stdint cimport uint64_t

from lb.balancing.bound cimport Bound
from lb.balancing.policy cimport Policy
from lb.endpoints.choice cimport Choice


cdef class HashPolicy(Policy):
    cdef readonly Bound bound

    cpdef int pick(self, Choice choice) except -2
    cdef int first(self, Choice choice, Bound bound) except -2
