cimport cython
from libc.stdint cimport int64_t, uint64_t

from lb.balancing.bound cimport Bound
from lb.balancing.hash_policy cimport HashPolicy
from lb.endpoints.choice cimport Choice
from lb.endpoints.set cimport EndpointSet


# As a C global: a name of the module would be looked up and boxed at every use.
cdef double _UNIT


cdef class Rendezvous(HashPolicy):
    cdef uint64_t[::1] seeds

    @cython.locals(endpoints=EndpointSet, i=int, best=int, weight=int, u=double, inverse=double, lowest=double)
    cdef int first(self, Choice choice, Bound bound) except -2
