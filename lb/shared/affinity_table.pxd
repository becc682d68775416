"""The affinity table in the shared segment: which endpoint a key belongs to, the same for all workers, without a lock.

For affinity that is learnt and not computed: a sequence of requests, a session. An entry lasts until it is dropped or
has been idle for its time; one whose endpoint has left its slot is known as such. The two kinds have tables of their
own: a session that is forgotten costs its user a login, a sequence its state, and anybody can make sessions.
"""

cimport cython
from libc.stdint cimport uint32_t, uint64_t

from lb.shared.segment cimport Segment, tg_affinity_head, tg_affinity_set


cdef enum:
    AFFINITY_NONE = -1                # there is no such entry, or it was idle for too long
    AFFINITY_GONE = -2                # its endpoint is no more


@cython.final
cdef class AffinityTable:
    """The table of a segment, for sequences or for sessions, as one process sees them. Keeps the segment, and so its
    mapping, alive."""
    cdef readonly Segment segment
    cdef tg_affinity_head *head
    cdef tg_affinity_set *sets
    cdef uint64_t mask

    # The hash of a part of a key; secret.
    cdef uint64_t key_of(self, const void *data, size_t n) noexcept nogil
    # The slot of the entry of `key` (not 0), which from now on may be idle for `idle` ns more; or AFFINITY_…
    cdef int find(self, uint64_t key, uint64_t now, uint64_t idle) noexcept nogil
    # The same without counting as a use.
    cdef int look(self, uint64_t key, uint64_t now) noexcept nogil
    # Makes the entry of `key`, or changes its slot.
    cdef void put(self, uint64_t key, uint32_t slot, uint64_t now, uint64_t idle) noexcept nogil
    # The same of what was counted as opened: it is elsewhere from now on.
    cdef void move(self, uint64_t key, uint32_t slot, uint64_t now, uint64_t idle) noexcept nogil
    # It has not been idle, if it is there.
    cdef void touch(self, uint64_t key, uint64_t now, uint64_t idle) noexcept nogil
    cdef void drop(self, uint64_t key) noexcept nogil
    # Counts a sequence that cannot go on.
    cdef void count_lost(self) noexcept nogil

    cdef bint put_once(self, tg_affinity_set *group, uint64_t key, uint64_t place, uint64_t now,
                       uint64_t until) noexcept nogil
    cdef void sum_open(self, uint64_t now, uint32_t *counts) noexcept nogil
