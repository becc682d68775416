"""How long the clients of a pool wait for an endpoint before they leave."""

from libc.stdint cimport uint64_t
from lb.shared.segment cimport Segment
from lb.shared.segment_words cimport SERIES_BOUNDS


cdef class Patience:
    cdef Segment segment
    cdef unsigned int series          # of the pool's queue
    cdef uint64_t learned             # ns; 0 = nothing is known
    cdef uint64_t look_at
    cdef uint64_t turn_at
    # What all workers had counted when the present window began, and the one before: all that waited, and who left.
    cdef uint64_t ended[2][SERIES_BOUNDS + 1]
    cdef uint64_t left[2][SERIES_BOUNDS + 1]

    # After so many ns hardly anybody waits who has no deadline; 0: that is not known. At `now`, monotonic ns.
    cpdef uint64_t known(self, uint64_t now)
    cdef void look(self, uint64_t now) noexcept
    cdef void count(self, uint64_t *ended, uint64_t *left) noexcept
