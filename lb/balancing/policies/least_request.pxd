cimport cython
from libc.stdint cimport int64_t, uint64_t

from lb.balancing.policy cimport Policy
from lb.endpoints.choice cimport Choice
from lb.endpoints.set cimport EndpointSet


# As a C global: a name of the module would be looked up and boxed at every use.
cdef int _ALWAYS_ALL


cdef class LeastRequest(Policy):
    cdef int64_t ceiling

    @cython.locals(endpoints=EndpointSet, i=int, best=int, weight=int64_t, load=int64_t,
                   best_load=int64_t, best_weight=int64_t)
    cpdef int pick(self, Choice choice) except -2
