cimport cython
from libc.stdint cimport uint64_t

from lb.balancing.bound cimport Bound
from lb.balancing.hash_policy cimport HashPolicy
from lb.balancing.slots cimport SlotTable
from lb.balancing.weights cimport WeightWatch
from lb.endpoints.choice cimport Choice
from lb.endpoints.set cimport EndpointSet


cdef class Maglev(HashPolicy):
    cdef readonly SlotTable table
    cdef WeightWatch watch

    @cython.locals(index=int)
    cdef int first(self, Choice choice, Bound bound) except -2
