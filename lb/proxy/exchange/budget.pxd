"""How many retries and hedges a route, or a pool, may have: a share of its requests, over all workers."""

from libc.stdint cimport uint64_t
from lb.shared.buckets cimport Buckets, tg_limit
from lb.shared.segment cimport Segment


cdef enum:
    WINDOW_MOST = 10                  # seconds before the present one that may count


cdef class Counted:
    """The words by which a budget goes: those of a series that count requests and what was granted."""
    cdef readonly str name
    cdef unsigned int series
    cdef int requests
    cdef int refused                  # of the requests; -1 = there is no such word
    cdef int claims


cdef class RetryBudget:
    cdef Segment segment
    cdef Counted words
    cdef uint64_t percent
    # What is always allowed, as a token bucket: retries a second.
    cdef Buckets buckets              # None = nothing
    cdef uint64_t key
    cdef tg_limit least
    cdef bint took                    # the last claim had a token of it
    # What all workers had counted at the beginning of this second, and of so many before, the last one first.
    cdef int window
    cdef uint64_t second
    cdef uint64_t until               # when this second is over, monotonic ns
    cdef uint64_t asked[WINDOW_MOST + 1]
    cdef uint64_t claimed[WINDOW_MOST + 1]

    # A request, which its series counts already, begins at `now` (monotonic ns).
    cdef inline void begin(self, uint64_t now) noexcept:
        if now >= self.until:
            self.turn(now, 1)

    # One more try, if the budget has it.
    cdef bint claim(self, uint64_t now) noexcept
    # What was claimed last, at `now`, and not used after all.
    cdef void give_back(self, uint64_t now) noexcept
    cdef void turn(self, uint64_t now, uint64_t fresh) noexcept
    cdef uint64_t *own_claims(self) noexcept
    cdef uint64_t requests(self) noexcept
    cdef uint64_t granted(self) noexcept
