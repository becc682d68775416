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
    cdef bint compares                # recent failures of all endpoints are known

    # An attempt at endpoint `index` that began at `started` has ended at `now` (monotonic ns).
    cdef void judge(self, int index, int verdict, uint64_t started, uint64_t now) noexcept
    # Whether its failures are its own: at least half of the others that take requests do better.
    cdef bint stands_out(self, int index, uint64_t now) noexcept
