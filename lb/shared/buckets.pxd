"""Token buckets in the shared segment: one limit, exact over all workers, without a lock.

The algorithm is the Generic Cell Rate Algorithm (ITU-T I.371): a bucket is one word, the time at which it is full
again. A token moves that time on by `interval`; it may not run further ahead of now than `depth`. So an untouched
bucket refills by itself, a bucket whose time has passed is the same as none, and taking a token is one
compare-and-swap.
"""

cimport cython
from libc.stdint cimport uint64_t

from lb.shared.segment cimport Segment, tg_bucket_head, tg_bucket_set


cdef struct tg_limit:
    uint64_t interval                 # ns from one token to the next, at least 1
    uint64_t depth                    # ns from empty to full: the burst in tokens times interval; below 2**62


cdef struct tg_verdict:
    bint admitted
    uint64_t wait                     # refused: ns until there is a token; else 0
    uint64_t remaining                # whole tokens left
    uint64_t reset                    # ns until the bucket is full


@cython.final
cdef class Buckets:
    """The buckets of a segment as one process sees them. Keeps the segment, and so its mapping, alive."""
    cdef readonly Segment segment
    cdef tg_bucket_head *head
    cdef tg_bucket_set *sets
    cdef uint64_t mask

    # The key of what is limited; secret, and never 0.
    cdef uint64_t key_of(self, const void *data, size_t n) noexcept nogil
    # Takes a token out of the bucket of `key` at `now` (CLOCK_MONOTONIC ns), if it has one.
    cdef void take(self, uint64_t key, const tg_limit *limit, uint64_t now, tg_verdict *verdict) noexcept nogil
    # Puts one back that was taken and not used.
    cdef void put_back(self, uint64_t key, const tg_limit *limit, uint64_t now) noexcept nogil
    cdef int claim(self, tg_bucket_set *group, uint64_t key, uint64_t now) noexcept nogil


# The limit of `burst` tokens that come back one every `interval` ns. Raises ValueError outside of the bounds above.
cdef tg_limit make_limit(interval, burst) except *
