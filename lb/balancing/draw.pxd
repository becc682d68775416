from libc.stdint cimport int64_t, uint64_t

from lb.endpoints.choice cimport Choice
from lb.endpoints.set cimport EndpointSet


cdef class Draw:
    cdef EndpointSet endpoints
    cdef uint64_t state
    cdef int ceiling
    cdef int[::1] taken
    cdef int count

    cdef void begin(self, Choice choice) noexcept
    cdef int another(self, Choice choice) noexcept
    cdef int draw(self, Choice choice) noexcept
    cdef int draw_by_scan(self, Choice choice) noexcept
    cdef bint is_taken(self, int index) noexcept
    cdef int64_t below(self, uint64_t n) noexcept
