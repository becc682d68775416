"""Connections of networks, counted over all workers: see source_counts.pxd."""

cimport cython
from libc.stdint cimport uint32_t, uint64_t
from lb.shared.atomics cimport (
    tg_cas64, tg_fetch_add64, tg_load32_relaxed, tg_load64_relaxed, tg_pause, tg_store32_relaxed, tg_store64,
    tg_store64_relaxed,
)
from lb.shared.hashing cimport hash64_keyed
from lb.shared.segment cimport (
    TG_SOURCE_STRIDE, TG_SOURCE_WAYS, Segment, tg_source_head, tg_source_set,
)
from lb.errors import TidegateError

cdef extern from "<sched.h>" nogil:
    int sched_yield()

cdef enum:
    # A lock is held for a fraction of a microsecond, unless its owner lost its core, or its life.
    TURNS = 4096
    TURNS_BEFORE_YIELD = 64


@cython.final
cdef class SharedSources:
    """Of `segment`, which has to be attached as a worker: TidegateError else."""

    def __init__(self, Segment segment not None):
        segment.check_open()
        if segment.worker < 0:
            raise TidegateError("the master has no connections")
        self.segment = segment
        self.head = <tg_source_head *> (segment.base + segment.header.sources_offset)
        self.sets = <tg_source_set *> (self.head + 1)
        self.counts = segment.source_counts_of(<uint32_t> segment.worker)
        self.mask = segment.header.source_sets - 1

    cdef uint64_t key_of(self, uint64_t scope, uint64_t network, uint32_t family) noexcept nogil:
        cdef uint64_t parts[3]
        cdef uint64_t key
        parts[0] = scope
        parts[1] = network
        parts[2] = family
        key = hash64_keyed(parts, sizeof(parts), self.segment.header.source_secret)
        return key if key else 1

    cdef bint lock(self, tg_source_set *group) noexcept nogil:
        cdef uint64_t me = <uint64_t> self.segment.worker + 1
        cdef int turn
        for turn in range(TURNS):
            if tg_load64_relaxed(&group.owner) == 0 and tg_cas64(&group.owner, 0, me):
                return True
            tg_pause()
            if turn % TURNS_BEFORE_YIELD == TURNS_BEFORE_YIELD - 1:
                sched_yield()
        return False

    cdef uint64_t total(self, uint64_t at) noexcept nogil:
        """Connections that all workers have at a place of the columns."""
        cdef uint64_t sum = 0
        cdef uint32_t worker
        for worker in range(self.segment.header.workers):
            sum += tg_load32_relaxed(self.segment.source_counts_of(worker) + at)
        return sum

    cdef int place_of(self, tg_source_set *group, uint64_t key) noexcept nogil:
        cdef int way
        for way in range(<int> TG_SOURCE_WAYS):
            if tg_load64_relaxed(&group.keys[way]) == key:
                return way
        return -1

    cdef int enter(self, uint64_t key, uint32_t n, uint32_t limit) noexcept nogil:
        cdef uint64_t number = key & self.mask
        cdef tg_source_set *group = self.sets + number
        cdef uint64_t first = number * TG_SOURCE_STRIDE
        cdef int way, result = SHARED_FULL
        if not self.lock(group):
            tg_fetch_add64(&self.head.table_full, 1)
            return SHARED_FULL
        if not tg_load64_relaxed(&self.head.used):
            tg_store64_relaxed(&self.head.used, 1)
        way = self.place_of(group, key)
        if way < 0:
            for way in range(<int> TG_SOURCE_WAYS):
                # Only its set's lock lets a count rise, so what has none now is nobody's.
                if self.total(first + way) == 0:
                    tg_store64_relaxed(&group.keys[way], key)
                    break
            else:
                way = -1
        if way >= 0:
            if limit and self.total(first + way) + n > limit:
                result = SHARED_OVER
            else:
                tg_store32_relaxed(&self.counts[first + way], self.counts[first + way] + n)
                result = SHARED_ADDED
        tg_store64(&group.owner, 0)
        if result == SHARED_FULL:
            tg_fetch_add64(&self.head.table_full, 1)
        return result

    cdef void leave(self, uint64_t key, uint32_t n) noexcept nogil:
        # While this worker has one of its connections, a network keeps its place.
        cdef uint64_t number = key & self.mask
        cdef int way = self.place_of(self.sets + number, key)
        cdef uint32_t *count
        if way < 0:
            return
        count = &self.counts[number * TG_SOURCE_STRIDE + way]
        tg_store32_relaxed(count, count[0] - n if count[0] > n else 0)

    # For tests and for people who look.

    @property
    def table_full(self):
        """Connections that were counted by their worker alone, since the segment was made."""
        self.segment.check_open()
        return tg_load64_relaxed(&self.head.table_full)

    def key(self, uint64_t scope, uint64_t network, uint32_t family=2):
        """The key of a network, as an int of 64 bits."""
        self.segment.check_open()
        return self.key_of(scope, network, family)

    def add(self, uint64_t key, uint32_t n=1, uint32_t limit=0):
        """`enter`: 0 added, 1 over the limit, 2 no place."""
        self.segment.check_open()
        return self.enter(key, n, limit)

    def remove(self, uint64_t key, uint32_t n=1):
        """`leave`."""
        self.segment.check_open()
        self.leave(key, n)

    def count(self, uint64_t key):
        """Connections of `key` in all workers."""
        cdef int way
        self.segment.check_open()
        way = self.place_of(self.sets + (key & self.mask), key)
        return 0 if way < 0 else self.total((key & self.mask) * TG_SOURCE_STRIDE + way)
