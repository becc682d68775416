"""How many retries and hedges a route may have: a share of its requests, over all workers."""

from libc.stdint cimport uint64_t
from lb.shared.buckets cimport Buckets, tg_limit
from lb.shared.segment cimport Segment


cdef class RetryBudget:
    cdef Segment segment
    cdef unsigned int series          # of the route
    cdef int claims                   # the word of it that counts those granted
    cdef uint64_t percent
    # What is always allowed, as a token bucket: retries a second.
    cdef Buckets buckets              # None = nothing
    cdef uint64_t key
    cdef tg_limit least
    cdef bint took                    # the last claim had a token of it
    # What all workers had counted at the beginning of this second, and of the one before.
    cdef uint64_t second
    cdef uint64_t asked[2]
    cdef uint64_t claimed[2]

    # A request, which its series counts already, begins at `now` (monotonic ns).
    cdef void begin(self, uint64_t now) noexcept
    # One more try, if the budget has it.
    cdef bint claim(self, uint64_t now) noexcept
    # What was claimed last, at `now`, and not used after all.
    cdef void give_back(self, uint64_t now) noexcept
    cdef void turn(self, uint64_t now, uint64_t fresh) noexcept
    cdef uint64_t requests(self) noexcept
    cdef uint64_t granted(self) noexcept
