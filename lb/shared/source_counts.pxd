"""How many connections each network has, over all workers: see segment.h for the layout.

A key has its place in one set of seven; the set's lock is held while a connection is let in, and by nobody while one
leaves: a worker's own count has one writer. So a limit is exact, and a worker that dies between any two instructions
leaves counts that the master takes away with its column (`Segment.clear_worker`), and at most a lock, which it takes
away after them.

Memory is bounded, so a set may be full of networks that have connections, and a lock may not be had in time. Then the
caller counts by itself, and tells what it has when it comes again.
"""

cimport cython
from libc.stdint cimport uint32_t, uint64_t

from lb.shared.segment cimport Segment, tg_source_head, tg_source_set


cdef enum:
    SHARED_ADDED = 0
    SHARED_OVER = 1                   # the limit is reached: nothing was added
    SHARED_FULL = 2                   # no place, or no lock: nothing was added


@cython.final
cdef class SharedSources:
    """The table of a segment as one worker sees it. Keeps the segment, and so its mapping, alive."""
    cdef readonly Segment segment
    cdef tg_source_head *head
    cdef tg_source_set *sets
    cdef uint32_t *counts             # this worker's column
    cdef uint64_t mask

    # The key of a network (its number and family) among those of one limit, which `scope` names; never 0.
    cdef uint64_t key_of(self, uint64_t scope, uint64_t network, uint32_t family) noexcept nogil
    # `n` more connections of `key` here, unless all workers would then have more than `limit` (0 = no limit): SHARED_…
    cdef int enter(self, uint64_t key, uint32_t n, uint32_t limit) noexcept nogil
    # `n` less, of those that were added here.
    cdef void leave(self, uint64_t key, uint32_t n) noexcept nogil

    cdef bint lock(self, tg_source_set *group) noexcept nogil
    cdef uint64_t total(self, uint64_t at) noexcept nogil
    cdef int place_of(self, tg_source_set *group, uint64_t key) noexcept nogil
