"""The affinity table in the shared segment: see affinity_table.pxd for the contract and segment.h for the layout.

A key has its place in one set of eight. A new entry takes a place that is free or whose entry has been idle for too
long; when all eight are in use, that of the entry that would be idle first (which is counted). The hash is keyed, so
that nobody can aim at another's set.

A process may die after any instruction, and others write at the same time. Three words make an entry: the key, the time
until which it counts, and the place. The place holds 12 bits of the key's hash, so that a place that was meant for
another key is no place; none is 0, since a slot that an endpoint has is of generation 1 at least. Who takes over a
place

1. moves its time on, by compare-and-swap: of those who want it one wins, and the others look elsewhere;
2. clears the place, then puts its key where the old one was, by compare-and-swap;
3. writes the place, and looks at the key again.

Death between these leaves the old entry with more time, or a key without a place, which is none. Two workers that enter
the same key at once may do so in two places; each looks behind its own for the other, and the higher place is given up.
"""

cimport cython
from libc.stdint cimport UINT64_MAX, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from lb.shared.atomics cimport (
    tg_cas64, tg_fence_full, tg_fetch_add64, tg_load32, tg_load64, tg_load64_relaxed, tg_pause, tg_store64,
    tg_store64_relaxed,
)
from lb.shared.hashing cimport hash64_keyed
from lb.shared.segment cimport TG_AFFINITY_WAYS, Segment, tg_affinity_head, tg_affinity_set

cdef enum:
    # Every lost race means that another process got on.
    TURNS = 256
    SLOT_BITS = 20                    # MAX_CAPACITY of the segment
    CHECK_SHIFT = 52                  # 32 bits of generation lie below

cdef uint64_t SLOT_MASK = (<uint64_t> 1 << SLOT_BITS) - 1
cdef uint64_t CHECK_MASK = <uint64_t> 0xfff << CHECK_SHIFT


cdef inline int find_way(const tg_affinity_set *group, uint64_t key) noexcept nogil:
    cdef int way
    for way in range(<int> TG_AFFINITY_WAYS):
        if tg_load64_relaxed(&group.keys[way]) == key:
            return way
    return -1


cdef inline void clear(tg_affinity_set *group, int way, uint64_t key) noexcept nogil:
    # Time first: who takes the place over afterwards keeps the time that it gave it.
    tg_store64(&group.until[way], 0)
    tg_cas64(&group.keys[way], key, 0)


@cython.final
cdef class AffinityTable:
    """The table of `segment` for sequences, or those for sessions. Any process may use them, the master too."""

    def __init__(self, Segment segment not None, bint sessions=False):
        segment.check_open()
        self.segment = segment
        self.head = <tg_affinity_head *> (
            segment.base + (segment.header.sessions_offset if sessions else segment.header.affinity_offset))
        self.sets = <tg_affinity_set *> (self.head + 1)
        self.mask = (segment.header.session_sets if sessions else segment.header.sequence_sets) - 1

    def __repr__(self):
        return f"<AffinityTable capacity={self.capacity} opened={self.opened} evicted={self.evicted}>"

    cdef uint64_t key_of(self, const void *data, size_t n) noexcept nogil:
        return hash64_keyed(data, n, self.segment.header.affinity_secret)

    cdef int find(self, uint64_t key, uint64_t now, uint64_t idle) noexcept nogil:
        cdef int slot = self.look(key, now)
        if slot >= 0:
            self.touch(key, now, idle)
        return slot

    cdef int look(self, uint64_t key, uint64_t now) noexcept nogil:
        cdef tg_affinity_set *group = self.sets + (key & self.mask)
        cdef int way = find_way(group, key)
        cdef uint64_t place
        cdef uint32_t slot
        if way < 0 or tg_load64(&group.until[way]) <= now:
            return AFFINITY_NONE
        place = tg_load64(&group.places[way])
        if place == 0 or (place ^ key) & CHECK_MASK:
            return AFFINITY_NONE
        slot = <uint32_t> (place & SLOT_MASK)
        if slot >= self.segment.header.endpoint_capacity:
            return AFFINITY_NONE
        if tg_load32(&self.segment.endpoint(slot).generation) != <uint32_t> (place >> SLOT_BITS):
            return AFFINITY_GONE
        return <int> slot

    cdef void put(self, uint64_t key, uint32_t slot, uint64_t now, uint64_t idle) noexcept nogil:
        tg_store64_relaxed(&self.head.used, 1)
        tg_fetch_add64(&self.head.opened, 1)
        self.move(key, slot, now, idle)

    cdef void move(self, uint64_t key, uint32_t slot, uint64_t now, uint64_t idle) noexcept nogil:
        cdef tg_affinity_set *group = self.sets + (key & self.mask)
        cdef uint64_t generation = tg_load32(&self.segment.endpoint(slot).generation)
        cdef uint64_t place = (key & CHECK_MASK) | generation << SLOT_BITS | slot
        cdef int _turn
        for _turn in range(TURNS):
            if self.put_once(group, key, place, now, now + idle):
                return
            tg_pause()

    cdef bint put_once(self, tg_affinity_set *group, uint64_t key, uint64_t place, uint64_t now,
                       uint64_t until) noexcept nogil:
        """False: another process was faster."""
        cdef uint64_t time, old, least = UINT64_MAX
        cdef int way = find_way(group, key), other
        if way >= 0:
            tg_store64_relaxed(&group.until[way], until)
            tg_store64(&group.places[way], place)
            tg_fence_full()
            return tg_load64(&group.keys[way]) == key
        for other in range(<int> TG_AFFINITY_WAYS):
            time = tg_load64_relaxed(&group.until[other])
            if time < least:
                least = time
                way = other
        old = tg_load64_relaxed(&group.keys[way])
        if not tg_cas64(&group.until[way], least, until):
            return False
        tg_store64(&group.places[way], 0)
        if not tg_cas64(&group.keys[way], old, key):
            return False
        if least > now and old:
            tg_fetch_add64(&self.head.evicted, 1)
        tg_store64(&group.places[way], place)
        tg_fence_full()
        for other in range(<int> TG_AFFINITY_WAYS):
            if other != way and tg_load64_relaxed(&group.keys[other]) == key:
                clear(group, other if other > way else way, key)
        return tg_load64(&group.keys[way]) == key

    cdef void touch(self, uint64_t key, uint64_t now, uint64_t idle) noexcept nogil:
        cdef tg_affinity_set *group = self.sets + (key & self.mask)
        cdef int way = find_way(group, key)
        if way >= 0:
            tg_store64_relaxed(&group.until[way], now + idle)

    cdef void drop(self, uint64_t key) noexcept nogil:
        cdef tg_affinity_set *group = self.sets + (key & self.mask)
        cdef int way
        for way in range(<int> TG_AFFINITY_WAYS):
            if tg_load64_relaxed(&group.keys[way]) == key:
                clear(group, way, key)

    cdef void count_lost(self) noexcept nogil:
        tg_fetch_add64(&self.head.lost, 1)

    cdef void sum_open(self, uint64_t now, uint32_t *counts) noexcept nogil:
        cdef tg_affinity_set *group
        cdef uint64_t index, place, key
        cdef uint32_t slot
        cdef int way
        for index in range(self.mask + 1):
            group = self.sets + index
            for way in range(<int> TG_AFFINITY_WAYS):
                key = tg_load64_relaxed(&group.keys[way])
                if key == 0 or tg_load64_relaxed(&group.until[way]) <= now:
                    continue
                place = tg_load64_relaxed(&group.places[way])
                slot = <uint32_t> (place & SLOT_MASK)
                if place == 0 or (place ^ key) & CHECK_MASK or slot >= self.segment.header.endpoint_capacity:
                    continue
                if tg_load32(&self.segment.endpoint(slot).generation) == <uint32_t> (place >> SLOT_BITS):
                    counts[slot] += 1

    # From Python: the master, tests.

    @property
    def capacity(self) -> int:
        """How many entries there may be."""
        return (self.mask + 1) * TG_AFFINITY_WAYS

    @property
    def opened(self) -> int:
        """Entries that were made since the segment was."""
        self.segment.check_open()
        return tg_load64_relaxed(&self.head.opened)

    @property
    def evicted(self) -> int:
        """Entries that made room for others before they had been idle for their time."""
        self.segment.check_open()
        return tg_load64_relaxed(&self.head.evicted)

    @property
    def lost(self) -> int:
        """Sequences that could not go on, as their endpoint was gone."""
        self.segment.check_open()
        return tg_load64_relaxed(&self.head.lost)

    def open(self, uint64_t now) -> dict[int, int]:
        """{slot: entries that count at `now`, monotonic ns} of every endpoint that has any."""
        cdef uint32_t *counts
        cdef uint32_t slot
        cdef dict found = {}
        self.segment.check_open()
        if not tg_load64_relaxed(&self.head.used):
            return found                      # or a look would allocate all its pages
        counts = <uint32_t *> calloc(self.segment.header.endpoint_capacity, sizeof(uint32_t))
        if counts == NULL:
            raise MemoryError
        try:
            with nogil:
                self.sum_open(now, counts)
            for slot in range(self.segment.header.endpoint_capacity):
                if counts[slot]:
                    found[slot] = counts[slot]
        finally:
            free(counts)
        return found

    def key(self, bytes name) -> int:
        """The key of what `name` names, as an int of 64 bits."""
        self.segment.check_open()
        return self.key_of(<const char *> name, <size_t> len(name)) or 1
