"""Stick tables: counters by key in the shared segment, exact over all workers (the term is HAProxy's).

A key has its place in one set of seven entries. The set's lock is held while a key gets a place, and by nobody while
its entry is counted in: each counter is one word, and a rate two (the window that runs and the one before, each with
its number from bit 36 on). So a process that dies between any two instructions loses what it was about to count, and
at most leaves a lock, which the master takes away (`Segment.clear_worker`).

Requests under way are counted in a column of each worker, which the master clears when that dies. An entry with some
under way keeps its place. Whoever takes hold of an entry counts first and looks at the key then; whoever evicts one
takes the key away first and looks at the counts then: one of both sees the other.

Keys are told apart by a keyed hash, and by themselves: up to TG_STICK_KEY bytes as they are, of a longer one its
beginning and a second hash. Addresses are kept as numbers, not as text.
"""

cimport cython
from libc.stdint cimport uint32_t, uint64_t

from lb.shared.segment cimport Segment, tg_stick, tg_stick_head, tg_stick_set


cdef enum:                            # in the order of lb.config.plan.tables.FIELDS
    STICK_REQUESTS = 0
    STICK_ERRORS
    STICK_FAILURES
    STICK_BYTES_IN
    STICK_BYTES_OUT
    STICK_GPC0
    STICK_RATES                       # of each of these
    STICK_CONCURRENT = 12
    STICK_GPT0
    STICK_FIELDS

cdef struct tg_stick_ref:
    # An entry that a request is counted in.
    uint64_t place                    # set * TG_STICK_WAYS + way
    uint64_t key


@cython.final
cdef class StickTable:
    """A table as one process sees it. Keeps the segment, and so its mapping, alive."""
    cdef readonly Segment segment
    cdef readonly str name
    cdef readonly str digest
    cdef tg_stick_head *head
    cdef tg_stick_set *sets
    cdef tg_stick *records
    cdef uint32_t *counts             # of this worker; NULL in the master
    cdef uint32_t number
    cdef uint64_t first
    cdef uint64_t size                # in sets
    cdef uint64_t expire
    cdef uint64_t stored              # set of STICK_…
    cdef uint64_t[6] windows
    cdef int v4                       # bits of an address that count; 0 = the key is no address
    cdef int v6

    # Takes hold of the entry of a key, which it gets if it has none. False: all of its set are in use, and it goes
    # uncounted. `release` has to follow.
    cdef bint hold(self, const char *text, size_t n, uint64_t now, tg_stick_ref *ref) noexcept nogil
    cdef void release(self, const tg_stick_ref *ref, uint64_t now) noexcept nogil
    # Counts in an entry that is held.
    cdef void add(self, const tg_stick_ref *ref, int counter, uint64_t n, uint64_t now) noexcept nogil
    cdef void set_gpt0(self, const tg_stick_ref *ref, uint64_t value) noexcept nogil
    # STICK_… of an entry that is held, and of a key, which may have none: 0.
    cdef uint64_t value(self, const tg_stick_ref *ref, int field, uint64_t now) noexcept nogil
    cdef uint64_t look(self, const char *text, size_t n, int field, uint64_t now) noexcept nogil

    cdef size_t name_of(self, const char *text, size_t n, char *name) noexcept nogil
    cdef uint64_t key_of(self, const char *name, size_t n) noexcept nogil
    cdef bint find(self, const char *name, size_t n, tg_stick_ref *ref) noexcept nogil
    cdef bint claim(self, const char *name, size_t n, uint64_t now, tg_stick_ref *ref) noexcept nogil
    cdef bint lock(self, tg_stick_set *group) noexcept nogil
    cdef bint keep(self, uint64_t place, uint64_t key) noexcept nogil
    cdef uint64_t held(self, uint64_t place) noexcept nogil
    cdef bint is_over(self, uint64_t place, uint64_t now) noexcept nogil
    cdef uint64_t read(self, uint64_t place, int field, uint64_t now) noexcept nogil
    cdef void reset(self, uint64_t place) noexcept nogil
    cdef bytes spelled(self, bytes name)
    cdef bytes unspelled(self, bytes key)
    cdef object row(self, uint64_t place, uint64_t now)


# Counts in a rate, `window` ns long; what is read of it now.
cdef void add_rate(tg_stick *record, int counter, uint64_t window, uint64_t now, uint64_t n) noexcept nogil
cdef uint64_t rate_of(const tg_stick *record, int counter, uint64_t window, uint64_t now) noexcept nogil

# CLOCK_MONOTONIC, ns.
cdef uint64_t stick_now() noexcept nogil
