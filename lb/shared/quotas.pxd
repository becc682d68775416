"""Quotas: what each client has used of a window of the calendar, counted exactly over all workers.

A client has its place in one set of seven. The set's lock is held while a client gets a place, and by nobody while one
is counted: beginning and use of the window are one word, and using one more is one compare-and-swap. So a process that
dies between any two instructions leaves each word as it was or as it is to be, and at most a lock, which the master
takes away (`Segment.clear_worker`).

The word has the window's first minute since 1970 from bit 36 on, and what is used of it below. It never goes back to an
earlier window by one of a process whose clock is a little behind; one that is ahead by more than a window, because the
clock was set back, is begun anew.

Memory is bounded. A client without a place takes that of one whose window is over, else of the one that has used least:
who has used much is never pushed out by clients that somebody invents.
"""

cimport cython
from libc.stdint cimport uint32_t, uint64_t

from lb.shared.segment cimport Segment, tg_quota, tg_quota_head, tg_quota_set


cdef enum:
    QUOTA_USED_BITS = 36


cdef struct tg_window:
    # A window of the calendar, in minutes since 1970 (UTC).
    uint64_t start
    uint64_t span                     # minutes of the longest window of its kind


@cython.final
cdef class Quotas:
    """The quotas of a segment as one process sees them. Keeps the segment, and so its mapping, alive."""
    cdef readonly Segment segment
    cdef tg_quota_head *head
    cdef tg_quota_set *sets
    cdef tg_quota *records
    cdef uint64_t mask

    # The key of a client of a quota; secret, and never 0. `name` has the quota's name, a NUL, and who it is.
    cdef uint64_t key_of(self, const char *name, size_t n) noexcept nogil
    # Uses one of the `limit` that the client has in `window`. `used` is what it has used then. False: it had used all,
    # or its place cannot be had for now.
    cdef bint take(self, uint64_t key, const char *name, size_t n, const tg_window *window, uint64_t limit,
                   uint64_t *used) noexcept nogil
    # Gives one back that was taken of `window`, if that still runs.
    cdef void put_back(self, uint64_t key, const tg_window *window) noexcept nogil

    cdef bint lock(self, tg_quota_set *group) noexcept nogil
    cdef tg_quota *find(self, uint64_t key) noexcept nogil
    cdef tg_quota *claim(self, uint64_t key, const char *name, size_t n, const tg_window *window) noexcept nogil
    cdef bint holds(self, const tg_quota *record, uint64_t key) noexcept nogil
