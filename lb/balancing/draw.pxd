cimport cython
from libc.stdint cimport int64_t, uint64_t

from lb.endpoints.choice cimport Choice
from lb.endpoints.set cimport EndpointSet


# As a C global: a name of the module would be looked up and boxed at every use.
cdef int _ATTEMPTS


cdef class Draw:
    cdef EndpointSet endpoints
    cdef uint64_t state
    cdef int ceiling
    cdef int[::1] taken
    cdef int count

    cdef void begin(self, Choice choice) noexcept

    @cython.locals(index=int)
    cdef int another(self, Choice choice) noexcept

    @cython.locals(endpoints=EndpointSet, i=int, weight=int)
    cdef int draw(self, Choice choice) noexcept

    @cython.locals(endpoints=EndpointSet, i=int, weight=int, highest=int, chosen=int, total=int64_t, rest=int64_t)
    cdef int draw_by_scan(self, Choice choice) noexcept

    @cython.locals(at=int)
    cdef bint is_taken(self, int index) noexcept

    @cython.locals(x=uint64_t)
    cdef int64_t below(self, uint64_t n) noexcept
