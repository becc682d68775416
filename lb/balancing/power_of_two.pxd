cimport cython
from libc.stdint cimport int64_t, uint64_t

from lb.balancing.policy cimport Policy
from lb.endpoints.set cimport EndpointSet


# As a C global: a name of the module would be looked up and boxed at every use.
cdef int _ATTEMPTS


cdef class PowerOfTwo(Policy):
    cdef uint64_t state
    cdef int ceiling

    @cython.locals(endpoints=EndpointSet, first=int, second=int, first_load=int64_t, second_load=int64_t)
    cpdef int pick(self, uint64_t now, uint64_t key, int exclude) except -2

    @cython.locals(endpoints=EndpointSet, i=int, weight=int)
    cdef int draw(self, int exclude, int taken) noexcept

    @cython.locals(endpoints=EndpointSet, i=int, weight=int, highest=int, chosen=int, total=int64_t, rest=int64_t)
    cdef int draw_by_scan(self, int exclude, int taken) noexcept

    @cython.locals(x=uint64_t)
    cdef int64_t below(self, uint64_t n) noexcept
