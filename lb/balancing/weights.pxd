from lb.endpoints.set cimport EndpointSet


cdef class WeightWatch:
    cdef EndpointSet endpoints
    cdef int[::1] known
    cdef int watched

    cpdef refresh(self)
    cpdef list members(self)
    cdef bint outdated(self) noexcept
    cdef bint stale(self) noexcept
    cdef bint changed(self, int i) noexcept
