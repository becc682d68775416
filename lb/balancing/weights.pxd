cimport cython

from lb.endpoints.set cimport EndpointSet


cdef class WeightWatch:
    cdef EndpointSet endpoints
    cdef int[::1] known
    cdef int watched

    @cython.locals(i=int)
    cpdef refresh(self)
    cpdef list members(self)
    cdef bint outdated(self) noexcept

    @cython.locals(i=int)
    cdef bint stale(self) noexcept

    @cython.locals(weight=int)
    cdef bint changed(self, int i) noexcept
