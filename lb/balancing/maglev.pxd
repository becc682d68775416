cimport cython
from libc.stdint cimport uint64_t

from lb.balancing.policy cimport Policy
from lb.balancing.slots cimport SlotTable
from lb.endpoints.set cimport EndpointSet


cdef class Maglev(Policy):
    cdef readonly SlotTable table
    cdef int[::1] weights
    cdef int watched

    @cython.locals(endpoints=EndpointSet, index=int)
    cpdef int pick(self, uint64_t now, uint64_t key, int exclude) except -2
    cdef bint outdated(self) noexcept

    @cython.locals(weight=int)
    cdef bint changed(self, int i) noexcept
