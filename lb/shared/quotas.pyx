"""Quotas in the shared segment: see quotas.pxd for the contract and segment.h for the layout."""

cimport cython
from libc.stdint cimport UINT64_MAX, uint32_t, uint64_t
from libc.string cimport memcpy

from lb.shared.atomics cimport (
    tg_cas64, tg_fence_acquire, tg_fence_full, tg_fetch_add64, tg_load64, tg_load64_relaxed, tg_pause, tg_store64,
    tg_store64_relaxed,
)
from lb.shared.hashing cimport hash64_keyed
from lb.shared.segment cimport TG_QUOTA_NAME, TG_QUOTA_WAYS, Segment, tg_quota, tg_quota_head, tg_quota_set

cdef extern from "<sched.h>" nogil:
    int sched_yield()

cdef enum:
    # A lock is held for a fraction of a microsecond, and every lost race means that another process got on.
    TURNS = 4096
    TURNS_BEFORE_YIELD = 64

cdef uint64_t USED = (<uint64_t> 1 << QUOTA_USED_BITS) - 1
MOST = USED                           # a limit, at most
LONGEST = TG_QUOTA_NAME               # a name, in bytes


cdef uint32_t tag_of(const char *name, size_t n) noexcept nogil:
    """Tells quotas apart (FNV-1a of what is before the NUL)."""
    cdef uint32_t tag = 2166136261
    cdef size_t i = 0
    while i < n and name[i] != 0:
        tag = (tag ^ <unsigned char> name[i]) * <uint32_t> 16777619
        i += 1
    return tag


cdef inline uint64_t word_of(uint64_t start, uint64_t used) noexcept nogil:
    return start << QUOTA_USED_BITS | used


cdef inline uint64_t used_of(uint64_t word, const tg_window *window, uint64_t *start) noexcept nogil:
    """What is used of the window that runs, and its beginning: that of the word where another process is ahead."""
    cdef uint64_t begun = word >> QUOTA_USED_BITS
    if window.start <= begun <= window.start + window.span:
        start[0] = begun
        return word & USED
    start[0] = window.start
    return 0


@cython.final
cdef class Quotas:
    """The quotas of `segment`. Any process may count, the master too."""

    def __init__(self, Segment segment not None):
        segment.check_open()
        self.segment = segment
        self.head = <tg_quota_head *> (segment.base + segment.header.quotas_offset)
        self.sets = <tg_quota_set *> (self.head + 1)
        self.records = <tg_quota *> (self.sets + segment.header.quota_sets)
        self.mask = segment.header.quota_sets - 1

    def __repr__(self):
        return f"<Quotas capacity={self.capacity} evicted={self.evicted}>"

    cdef uint64_t key_of(self, const char *name, size_t n) noexcept nogil:
        cdef uint64_t key = hash64_keyed(name, n, self.segment.header.quota_secret)
        return key if key else 1

    cdef bint lock(self, tg_quota_set *group) noexcept nogil:
        cdef uint64_t me = <uint64_t> (self.segment.worker + 2)
        cdef int turn
        for turn in range(TURNS):
            if tg_load64_relaxed(&group.owner) == 0 and tg_cas64(&group.owner, 0, me):
                return True
            tg_pause()
            if turn % TURNS_BEFORE_YIELD == TURNS_BEFORE_YIELD - 1:
                sched_yield()
        return False

    cdef tg_quota *find(self, uint64_t key) noexcept nogil:
        cdef uint64_t number = key & self.mask
        cdef int way
        for way in range(<int> TG_QUOTA_WAYS):
            if tg_load64(&self.sets[number].keys[way]) == key:
                return &self.records[number * TG_QUOTA_WAYS + <uint64_t> way]
        return NULL

    cdef bint holds(self, const tg_quota *record, uint64_t key) noexcept nogil:
        """Whether the record is still that of the key."""
        cdef uint64_t place = <uint64_t> (record - self.records)
        return tg_load64(&self.sets[place // TG_QUOTA_WAYS].keys[place % TG_QUOTA_WAYS]) == key

    cdef tg_quota *claim(self, uint64_t key, const char *name, size_t n, const tg_window *window) noexcept nogil:
        """A place for a client that has none. NULL: the lock was not to be had."""
        cdef uint64_t number = key & self.mask
        cdef tg_quota_set *group = self.sets + number
        cdef tg_quota *record = self.records + number * TG_QUOTA_WAYS
        cdef tg_quota *found
        cdef uint64_t word, least = UINT64_MAX
        cdef int way, place = 0
        cdef bint free = False
        if n > <size_t> TG_QUOTA_NAME or not self.lock(group):
            return NULL
        found = self.find(key)
        if found != NULL:                     # another process was faster
            tg_store64(&group.owner, 0)
            return found
        tg_store64_relaxed(&self.head.used, 1)
        for way in range(<int> TG_QUOTA_WAYS):
            word = tg_load64_relaxed(&record[way].word)
            if (tg_load64_relaxed(&group.keys[way]) == 0
                    or (word >> QUOTA_USED_BITS) + tg_load64_relaxed(&record[way].span) <= window.start):
                place = way
                free = True
                break
            if word & USED < least:
                least = word & USED
                place = way
        if not free:
            tg_fetch_add64(&self.head.evicted, 1)
        record += place
        tg_store64(&group.keys[place], 0)
        tg_fence_full()
        tg_store64_relaxed(&record.word, word_of(window.start, 0))
        tg_store64_relaxed(&record.saved, word_of(window.start, 0))
        tg_store64_relaxed(&record.span, window.span)
        tg_store64_relaxed(&record.limit, USED)
        memcpy(record.name, name, n)
        record.name_length = <uint32_t> n
        record.tag = tag_of(name, n)
        tg_store64(&group.keys[place], key)
        tg_store64(&group.owner, 0)
        return record

    cdef bint take(self, uint64_t key, const char *name, size_t n, const tg_window *window, uint64_t limit,
                   uint64_t *used) noexcept nogil:
        cdef tg_quota *record
        cdef uint64_t word, start, before
        cdef int _turn
        for _turn in range(TURNS):
            record = self.find(key)
            if record == NULL:
                record = self.claim(key, name, n, window)
                if record == NULL:
                    break
            if tg_load64_relaxed(&record.limit) != limit:
                tg_store64_relaxed(&record.limit, limit)
            word = tg_load64(&record.word)
            before = used_of(word, window, &start)
            if before >= limit:
                used[0] = before
                return False
            if tg_cas64(&record.word, word, word_of(start, before + 1)):
                if self.holds(record, key):
                    used[0] = before + 1
                    return True
                # It changed hands meanwhile: the new owner gets its one back, unless it has gone on.
                tg_cas64(&record.word, word_of(start, before + 1), word)
            tg_pause()
        # Refusing is the safe side of a limit.
        used[0] = limit
        return False

    cdef void put_back(self, uint64_t key, const tg_window *window) noexcept nogil:
        cdef tg_quota *record = self.find(key)
        cdef uint64_t word, start, used
        cdef int _turn
        if record == NULL:
            return
        for _turn in range(TURNS):
            word = tg_load64(&record.word)
            used = used_of(word, window, &start)
            if used == 0 or tg_cas64(&record.word, word, word_of(start, used - 1)):
                return
            tg_pause()

    # From Python: the master, tests.

    @property
    def capacity(self) -> int:
        """How many clients there may be, over all quotas."""
        return (self.mask + 1) * TG_QUOTA_WAYS

    @property
    def evicted(self) -> int:
        """Clients that made room for others before their window was over, since the segment was made."""
        self.segment.check_open()
        return tg_load64_relaxed(&self.head.evicted)

    def use(self, name: bytes, start: int, span: int, limit: int) -> tuple[bool, int]:
        """`take`: whether there was one left, and what is used."""
        cdef tg_window window
        cdef uint64_t used = 0
        cdef bint taken
        self.segment.check_open()
        if len(name) > <Py_ssize_t> TG_QUOTA_NAME:
            raise ValueError(f"the name has {len(name)} bytes, more than {TG_QUOTA_NAME}")
        window.start, window.span = start, span
        taken = self.take(self.key_of(name, <size_t> len(name)), name, <size_t> len(name), &window, limit, &used)
        return taken, used

    def give_back(self, name: bytes, start: int, span: int) -> None:
        """`put_back`."""
        cdef tg_window window
        self.segment.check_open()
        window.start, window.span = start, span
        self.put_back(self.key_of(name, <size_t> len(name)), &window)

    def put(self, name: bytes, start: int, span: int, used: int, more: bool = False) -> bool:
        """Says what a client has used of a window; with `more`, in addition to what is counted. False: it has no
        place."""
        cdef tg_window window
        cdef tg_quota *record
        cdef uint64_t key, word, before, begun
        cdef int _turn
        self.segment.check_open()
        key = self.key_of(name, <size_t> len(name))
        window.start, window.span = start, span
        for _turn in range(TURNS):
            record = self.find(key)
            if record == NULL:
                record = self.claim(key, name, <size_t> len(name), &window)
            if record == NULL:
                return False
            word = tg_load64(&record.word)
            before = used_of(word, &window, &begun) if more else 0
            if not more:
                begun = window.start
            if tg_cas64(&record.word, word, word_of(begun, min(before + <uint64_t> used, USED))):
                return True
        return False

    def totals(self, quotas: list[tuple[bytes, int]]) -> list[tuple[int, int, int]]:
        """Of quotas (name, first minute of the window that runs): how many clients have used something of the window,
        how many of them have used all, and the sum of what they have used. At most 64 quotas."""
        cdef uint32_t[64] tags
        cdef uint64_t[64] starts, clients, exhausted, used
        cdef int count = len(quotas), i
        cdef uint64_t number, word
        cdef tg_quota *record
        cdef int way
        self.segment.check_open()
        if count > 64:
            raise ValueError(f"{count} quotas are more than 64")
        for i in range(count):
            name, start = quotas[i]
            tags[i] = tag_of(<const char *> <bytes> name, <size_t> len(name))
            starts[i] = start
            clients[i] = exhausted[i] = used[i] = 0
        for number in range(self.mask + 1 if tg_load64_relaxed(&self.head.used) else 0):
            for way in range(<int> TG_QUOTA_WAYS):
                if tg_load64(&self.sets[number].keys[way]) == 0:
                    continue
                record = &self.records[number * TG_QUOTA_WAYS + <uint64_t> way]
                word = tg_load64(&record.word)
                for i in range(count):
                    if record.tag == tags[i] and word >> QUOTA_USED_BITS >= starts[i] and word & USED:
                        clients[i] += 1
                        used[i] += word & USED
                        exhausted[i] += (word & USED) >= tg_load64_relaxed(&record.limit)
        return [(clients[i], exhausted[i], used[i]) for i in range(count)]

    def rows(self, changed: bool = False) -> list[tuple[bytes, int, int, int, int]]:
        """(name, first minute of the window, its longest span, used, how much of that was stored) of each client; with
        `changed`, of those whose use differs from what `saved` was told last."""
        cdef uint64_t number, key, word, saved
        cdef tg_quota *record
        cdef uint32_t length
        cdef bytes name
        cdef int way
        found = []
        self.segment.check_open()
        if not tg_load64_relaxed(&self.head.used):
            return found                      # or a look would allocate all its pages
        for number in range(self.mask + 1):
            for way in range(<int> TG_QUOTA_WAYS):
                key = tg_load64(&self.sets[number].keys[way])
                if key == 0:
                    continue
                record = &self.records[number * TG_QUOTA_WAYS + <uint64_t> way]
                word = tg_load64(&record.word)
                saved = tg_load64_relaxed(&record.saved)
                if changed and word == saved:
                    continue
                length = min(record.name_length, <uint32_t> TG_QUOTA_NAME)
                name = record.name[:<Py_ssize_t> length]
                tg_fence_acquire()
                if self.holds(record, key) and self.key_of(name, <size_t> len(name)) == key:
                    found.append((
                        name, word >> QUOTA_USED_BITS, tg_load64_relaxed(&record.span), word & USED,
                        saved & USED if saved >> QUOTA_USED_BITS == word >> QUOTA_USED_BITS else 0,
                    ))
        return found

    def saved(self, rows: list[tuple[bytes, int, int, int, int]]) -> None:
        """These of `rows` are stored."""
        cdef tg_quota *record
        self.segment.check_open()
        for name, start, _, used, _ in rows:
            record = self.find(self.key_of(<const char *> <bytes> name, <size_t> len(name)))
            if record != NULL:
                tg_store64_relaxed(&record.saved, word_of(start, used))
