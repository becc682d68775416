"""The ejection state of endpoints, by their own answers. It is in the shared segment, for all workers at once."""

from libc.stdint cimport uint32_t, uint64_t

from lb.shared.segment cimport Segment, tg_endpoint


cdef class EjectionStates:
    cdef Segment segment
    cdef readonly int size
    cdef tg_endpoint **records

    # For compiled callers that hold an index (0 <= i < size).
    cdef uint32_t ejection_state(self, int i) noexcept nogil  # enum tg_ejection_state
    cdef int count_ejected(self) noexcept nogil
    # Ejects unless more than `most` would then be ejected: whether it did. `rank` tells contenders apart.
    cdef bint eject(self, int i, uint32_t reason, int most, int rank) noexcept nogil

    cdef void forget(self, int i) noexcept
    cdef int check(self, int i) except -1
