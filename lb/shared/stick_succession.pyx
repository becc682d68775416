"""What a stick table goes on with: the entries of the same table in the segment of the program before.

The first look copies all of them; each further one adds what the workers of that program, which drain, have counted
since. Windows of rates are periods of one clock, so a rate goes on where it was. The notes on an entry say what of it
was brought over. Nobody is waited for and no lock of the other segment is taken: its holder may have been killed. An
entry that changes hands during the look is left to the next one.
"""

cimport cython
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset

from lb.shared.atomics cimport (
    tg_cas64, tg_fence_acquire, tg_fetch_add64, tg_load32_relaxed, tg_load64, tg_load64_relaxed, tg_pause, tg_store64,
    tg_store64_relaxed,
)
from lb.shared.segment cimport TG_STICK_COUNTERS, TG_STICK_KEY, TG_STICK_WAYS, tg_stick, tg_stick_set
from lb.shared.stick_tables cimport StickTable, stick_now, tg_stick_ref

cdef enum:
    TURNS = 4096
    PART = 4096                       # sets
    COUNT_BITS = 36                   # of a word of a rate, as in lb.shared.stick_tables

cdef uint64_t COUNT = (<uint64_t> 1 << COUNT_BITS) - 1
cdef uint64_t PERIOD = (<uint64_t> 1 << (64 - COUNT_BITS)) - 1

cdef struct tg_brought:
    # An entry as it was at the last look, and what was brought over of it.
    uint64_t key
    uint64_t used
    uint64_t counters[6]
    uint64_t rates[12]
    uint64_t gpt0
    uint32_t generation


cdef void add_period(tg_stick *record, int counter, uint64_t period, uint64_t n) noexcept nogil:
    """Counts in the window `period` of a rate, which may have begun, or be the one before; older ones do not count."""
    cdef uint64_t word, before, count
    cdef int _turn
    for _turn in range(TURNS):
        word = tg_load64(&record.rates[2 * counter])
        if word >> COUNT_BITS == period:
            if tg_cas64(&record.rates[2 * counter], word, period << COUNT_BITS | min((word & COUNT) + n, COUNT)):
                return
        elif word == 0 or (period - (word >> COUNT_BITS) & PERIOD) <= PERIOD >> 1:
            if tg_cas64(&record.rates[2 * counter], word, period << COUNT_BITS | min(n, COUNT)):
                tg_store64(&record.rates[2 * counter + 1], word)
                return
        elif (word >> COUNT_BITS) - 1 & PERIOD == period:
            before = tg_load64(&record.rates[2 * counter + 1])
            count = (before & COUNT) + n if before >> COUNT_BITS == period else n
            if tg_cas64(&record.rates[2 * counter + 1], before, period << COUNT_BITS | min(count, COUNT)):
                return
        else:
            return
        tg_pause()


@cython.final
cdef class StickSuccession:
    """`table` goes on with what `before`, the same table in the segment of the program before, has counted. Raises
    ValueError where one has other sets than the other or tells keys apart by another secret, MemoryError."""
    cdef StickTable before
    cdef StickTable table
    cdef tg_brought *brought          # of each place of `before`

    def __init__(self, StickTable before not None, StickTable table not None) -> None:
        if self.brought != NULL:
            raise ValueError("a StickSuccession is made once")
        if before.size != table.size:
            raise ValueError(f"it had {before.size} sets, and has {table.size}")
        if memcmp(before.segment.header.stick_secret, table.segment.header.stick_secret, 16) != 0:
            raise ValueError("its keys were told apart by another secret")
        self.before, self.table = before, table
        self.brought = <tg_brought *> calloc(before.size * TG_STICK_WAYS, sizeof(tg_brought))
        if self.brought == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.brought)

    cdef bint read(self, uint64_t place, tg_brought *found, char *name, size_t *n) noexcept nogil:
        """An entry as it is. False: the place is free, or has just become another key's."""
        cdef const tg_stick *record = self.before.records + place
        cdef const tg_stick_set *group = self.before.sets + place // TG_STICK_WAYS
        cdef int i
        found.key = tg_load64(&group.keys[place % TG_STICK_WAYS])
        if found.key == 0:
            return False
        found.generation = tg_load32_relaxed(&record.generation)
        tg_fence_acquire()
        found.used = tg_load64_relaxed(&record.used_ns)
        found.gpt0 = tg_load64_relaxed(&record.gpt0)
        for i in range(<int> TG_STICK_COUNTERS):
            found.counters[i] = tg_load64_relaxed(&record.counters[i])
            found.rates[2 * i] = tg_load64_relaxed(&record.rates[2 * i])
            found.rates[2 * i + 1] = tg_load64_relaxed(&record.rates[2 * i + 1])
        n[0] = min(record.length, <uint32_t> TG_STICK_KEY)
        memcpy(name, record.key, n[0])
        tg_fence_acquire()
        return (tg_load32_relaxed(&record.generation) == found.generation
                and tg_load64(&group.keys[place % TG_STICK_WAYS]) == found.key
                and self.before.key_of(name, n[0]) == found.key)

    cdef bint add(
        self, StickTable table, const char *name, size_t n, const tg_brought *found, const tg_brought *known,
        uint64_t now
    ) noexcept nogil:
        """Adds what an entry has beyond what is known of it. False: its key finds no room now."""
        cdef tg_stick_ref ref
        cdef tg_stick *record
        cdef tg_stick_set *group
        cdef int i
        ref.key = found.key
        if not table.find(name, n, &ref) or table.is_over(ref.place, now) and table.held(ref.place) == 0:
            if not table.claim(name, n, now, &ref):
                return False
            tg_store64_relaxed(&table.records[ref.place].used_ns, found.used)
        group = table.sets + ref.place // TG_STICK_WAYS
        if not table.lock(group):
            return False
        record = table.records + ref.place
        if tg_load64(&group.keys[ref.place % TG_STICK_WAYS]) != ref.key:
            tg_store64(&group.owner, 0)
            return False                      # it has just made room for another
        for i in range(<int> TG_STICK_COUNTERS):
            if found.counters[i] > known.counters[i]:
                tg_fetch_add64(&record.counters[i], found.counters[i] - known.counters[i])
            if table.windows[i]:
                self.add_rate(record, i, &found.rates[2 * i + 1], &known.rates[2 * i])
                self.add_rate(record, i, &found.rates[2 * i], &known.rates[2 * i])
        if found.gpt0 != known.gpt0:
            tg_store64_relaxed(&record.gpt0, found.gpt0)
        if tg_load64_relaxed(&record.used_ns) < found.used:
            tg_store64_relaxed(&record.used_ns, found.used)
        tg_store64(&group.owner, 0)
        return True

    cdef void add_rate(self, tg_stick *record, int counter, const uint64_t *word, const uint64_t *known) noexcept nogil:
        """Adds what a window has beyond what is `known`, two words, of it."""
        cdef uint64_t period = word[0] >> COUNT_BITS, count = word[0] & COUNT
        if known[0] >> COUNT_BITS == period:
            count -= min(count, known[0] & COUNT)
        elif known[1] >> COUNT_BITS == period:
            count -= min(count, known[1] & COUNT)
        if count:
            add_period(record, counter, period, count)

    cdef uint64_t look(
        self, StickTable before, StickTable table, bint everything, uint64_t begin, uint64_t end
    ) noexcept nogil:
        cdef uint64_t first = before.first * TG_STICK_WAYS, now = stick_now(), changed = 0, place, number
        cdef tg_brought nothing, found
        cdef tg_brought *known
        cdef char name[TG_STICK_KEY]
        cdef size_t n = 0
        memset(&nothing, 0, sizeof(nothing))
        for number in range(begin, end):
            place = first + number
            known = self.brought + number
            if not tg_load64_relaxed(&before.sets[place // TG_STICK_WAYS].keys[place % TG_STICK_WAYS]):
                continue
            if not everything and known.key and tg_load64_relaxed(&before.records[place].used_ns) == known.used:
                continue
            if not self.read(place, &found, name, &n) or before.is_over(place, now) and before.held(place) == 0:
                continue
            if known.key != found.key or known.generation != found.generation:
                known[0] = nothing
            if self.add(table, name, n, &found, known, now):
                known[0] = found
                changed += 1
        return changed

    @property
    def parts(self) -> int:
        """In how many a look is divided that others wait for: each takes a few milliseconds."""
        return <int> ((self.before.size + PART - 1) // PART)

    def bring(self, everything: bool = False, part: int = -1) -> int:
        """Brings over what has been counted since the last time, unless nobody has used its entry since; with
        `everything` that as well. `part`: only of that part, from 0. The number of entries."""
        cdef uint64_t changed, begin = 0, end = self.before.size * TG_STICK_WAYS
        cdef bint whole = everything
        if part >= 0:
            begin = <uint64_t> part * PART * TG_STICK_WAYS
            end = min(end, begin + PART * TG_STICK_WAYS)
        self.before.segment.check_open()
        self.table.segment.check_open()
        if not tg_load64_relaxed(&self.before.head.used):
            return 0
        with nogil:
            changed = self.look(self.before, self.table, whole, begin, end)
        return changed
