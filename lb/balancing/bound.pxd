from libc.stdint cimport int64_t

from lb.endpoints.choice cimport Choice
from lb.endpoints.set cimport EndpointSet


cdef class Bound:
    cdef EndpointSet endpoints
    cdef double factor
    cdef double total
    cdef double weight

    cdef bint fits(self, int index, Choice choice) noexcept
    cdef void measure(self, Choice choice) noexcept
    cdef bint room(self, int index, Choice choice) noexcept
