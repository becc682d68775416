from libc.stdint cimport uint64_t

from lb.endpoints.set cimport EndpointSet


cdef class ProbePool:
    cdef EndpointSet endpoints
    cdef int most
    cdef uint64_t max_age
    cdef readonly double reuse
    cdef double remove
    cdef double due                   # removals
    cdef bint by_age                  # the next one takes the oldest
    cdef uint64_t state
    cdef readonly int count
    cdef int[::1] index
    cdef double[::1] others           # requests in flight that are not ours
    cdef double[::1] latency          # ns; 0 = not said
    cdef uint64_t[::1] at
    cdef int[::1] left                # choices

    cdef void add(self, int index, double rif, double latency_ns, uint64_t now) noexcept
    cdef void expire(self, uint64_t now) noexcept
    cdef void use(self, int entry) noexcept
    cdef bint removal_due(self) noexcept
    cdef int oldest(self) noexcept
    cdef void take_out(self, int entry) noexcept
    cdef int budget(self) noexcept
