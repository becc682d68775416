"""How the answers of a pool's endpoints are held against them, in the worker that got them: see outlier.pyx."""

from libc.stdint cimport uint32_t, uint64_t

from lb.endpoints.ejection_state cimport EjectionStates


cdef class Outlier:
    cdef EjectionStates standings
    cdef uint64_t **series            # the pool's: per endpoint, this worker's words
    cdef int rank                     # the worker
    cdef uint32_t consecutive_5xx     # so many in a row eject; 0 = never
    cdef uint32_t consecutive_gateway
    cdef int most                     # endpoints that may be ejected at once

    # A try at endpoint `index` that began at `started` (monotonic ns) has ended.
    cdef void judge(self, int index, int verdict, uint64_t started) noexcept
