"""What of a stick table its peers, tables of the same name of other daemons, have not got yet, and what they count.

Counters travel as increments: what a peer has counted is added to the counters here, where conditions and texts read
the sum. For each entry the master remembers what of a counter is known to the peers, or came from them; the rest is
the next increment. `gpt0` travels as it is. Only the master has these notes: workers know nothing of peers.
"""

cimport cython
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy

from lb.shared.atomics cimport (
    tg_fetch_add64, tg_load32_relaxed, tg_load64, tg_load64_relaxed, tg_store64, tg_store64_relaxed,
)
from lb.shared.segment cimport TG_STICK_COUNTERS, TG_STICK_KEY, TG_STICK_WAYS, tg_stick, tg_stick_set
from lb.shared.stick_tables cimport STICK_GPT0, StickTable, add_rate, rate_of, stick_now, tg_stick_ref

cdef enum:
    MOST_ROWS = 1000
    WORDS = 8                         # of an entry for the next program: its hash, its counters, gpt0
    SHORTENED = 17                    # bytes: "~" and a hash, the end of a key that is too long for an entry

cdef struct tg_known:
    # What of an entry is no news for the peers.
    uint64_t key
    uint64_t counters[6]
    uint64_t gpt0
    uint32_t generation


cdef bint is_shortened(const char *name, size_t n) noexcept nogil:
    """Whether a key may have been too long for its entry: its hash means nothing to another daemon."""
    cdef size_t i
    cdef char c
    if n != TG_STICK_KEY or name[n - SHORTENED] != 126:
        return False
    for i in range(n - SHORTENED + 1, n):
        c = name[i]
        if not (48 <= c <= 57 or 97 <= c <= 102):
            return False
    return True


@cython.final
cdef class StickUpdates:
    """Of `table`, in the master. Raises MemoryError."""
    cdef StickTable table
    cdef tg_known *known              # of each place of the table
    cdef uint64_t cursor              # place where the next look begins

    def __init__(self, StickTable table not None) -> None:
        if self.known != NULL:
            raise ValueError("a StickUpdates is made once")
        self.table = table
        self.known = <tg_known *> calloc(table.size * TG_STICK_WAYS, sizeof(tg_known))
        if self.known == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.known)

    def follow(self, StickTable table not None) -> None:
        """Goes on with the same place of the segment, of which the plan says something new. Raises ValueError."""
        if table.first != self.table.first or table.size != self.table.size:
            raise ValueError("this is another place")
        self.table = table

    cdef tg_known *known_of(self, uint64_t place, uint64_t key) noexcept nogil:
        """The notes on an entry, which begin with it."""
        cdef tg_known *known = self.known + (place - self.table.first * TG_STICK_WAYS)
        cdef uint32_t generation = tg_load32_relaxed(&self.table.records[place].generation)
        cdef int i
        if known.key != key or known.generation != generation:
            known.key, known.generation, known.gpt0 = key, generation, 0
            for i in range(<int> TG_STICK_COUNTERS):
                known.counters[i] = 0
        return known

    cdef bint has_news(self, uint64_t place, uint64_t key) noexcept nogil:
        cdef const tg_stick *record = self.table.records + place
        cdef tg_known *known = self.known_of(place, key)
        cdef int i
        for i in range(<int> TG_STICK_COUNTERS):
            if tg_load64_relaxed(&record.counters[i]) > known.counters[i]:
                return True
        return tg_load64_relaxed(&record.gpt0) != known.gpt0

    cdef int look(self, uint64_t *places, int most) noexcept nogil:
        """Up to `most` places of entries with news, in turn over calls; their number."""
        cdef uint64_t whole = self.table.size * TG_STICK_WAYS, first = self.table.first * TG_STICK_WAYS
        cdef uint64_t place, key, _turn
        cdef int found = 0
        for _turn in range(whole):
            if found == most:
                break
            place = first + self.cursor
            self.cursor = (self.cursor + 1) % whole
            key = tg_load64(&self.table.sets[place // TG_STICK_WAYS].keys[place % TG_STICK_WAYS])
            if key and self.has_news(place, key):
                places[found] = place
                found += 1
        return found

    cdef void forgo(self, uint64_t place, tg_known *known) noexcept nogil:
        """What an entry has counted until now is no news, so that the next look finds others."""
        cdef const tg_stick *record = self.table.records + place
        cdef int i
        for i in range(<int> TG_STICK_COUNTERS):
            known.counters[i] = tg_load64_relaxed(&record.counters[i])
        known.gpt0 = tg_load64_relaxed(&record.gpt0)

    cdef object row(self, uint64_t place, uint64_t now):
        cdef StickTable table = self.table
        cdef const tg_stick *record = table.records + place
        cdef uint64_t key = tg_load64(&table.sets[place // TG_STICK_WAYS].keys[place % TG_STICK_WAYS])
        cdef uint64_t count, rate
        cdef tg_known *known
        cdef int i
        if key == 0:
            return None
        known = self.known_of(place, key)
        if table.is_over(place, now) or is_shortened(record.key, record.length):
            self.forgo(place, known)
            return None
        counts, recent = [], []
        for i in range(<int> TG_STICK_COUNTERS):
            count = tg_load64_relaxed(&record.counters[i])
            count -= min(count, known.counters[i])
            rate = rate_of(record, i, table.windows[i], now) if table.windows[i] else 0
            counts.append(count)
            recent.append(min(count, rate))
        count = tg_load64_relaxed(&record.gpt0)
        return (place, key, known.generation, record.key[:record.length], counts, recent,
                None if count == known.gpt0 else count)

    def take(self, most: int) -> list[tuple[int, int, int, bytes, list[int], list[int], int | None]]:
        """Up to `most` entries with news, 1000 at most: place, hash and generation of the entry for `taken`, its key
        as entries have it, of each of COUNTERS what was counted since the last `taken` and how much of that in its
        rate's window, and `gpt0` if it has changed. Keys that are longer than an entry has room for are left out."""
        cdef StickTable table = self.table    # stays while `follow` of another thread puts a new one in its place
        cdef uint64_t places[MOST_ROWS]
        cdef uint64_t now = stick_now()
        cdef tg_stick_set *group
        cdef int found, i, limit = min(max(most, 0), <int> MOST_ROWS)
        table.segment.check_open()
        if not tg_load64_relaxed(&table.head.used):
            return []
        with nogil:
            found = self.look(places, limit)
        rows = []
        for i in range(found):
            group = table.sets + places[i] // TG_STICK_WAYS
            if not table.lock(group):
                continue
            try:
                row = self.row(places[i], now)
            finally:
                tg_store64(&group.owner, 0)
            if row is not None:
                rows.append(row)
        return rows

    def taken(self, rows: list[tuple[int, int, int, bytes, list[int], list[int], int | None]]) -> None:
        """The peers have `rows`, which `take` gave."""
        cdef tg_known *known
        cdef uint64_t first = self.table.first * TG_STICK_WAYS
        cdef int i
        for place, key, generation, _name, counts, _recent, gpt0 in rows:
            known = self.known + (<uint64_t> place - first)
            if known.key != key or known.generation != generation:
                continue                      # its place has another key by now
            for i in range(<int> TG_STICK_COUNTERS):
                known.counters[i] += <uint64_t> counts[i]
            if gpt0 is not None:
                known.gpt0 = gpt0

    def receive(
        self, name: bytes, counts: list[int], recent: list[int], gpt0: int | None, age_ns: int, own: bool = False
    ) -> bool:
        """Adds what a peer has counted `age_ns` ago; of what came from here (`own`) only `gpt0` counts, so that the
        last one of all wins everywhere. A `gpt0` that was set here and is not known to the peers yet stays. Raises
        ValueError for what is no row. False: the key finds no room, or has expired meanwhile."""
        cdef StickTable table = self.table
        cdef const char *text = name
        cdef size_t n = <size_t> len(name)
        cdef uint64_t now = stick_now(), age = age_ns, used, number
        cdef tg_stick_ref ref
        cdef tg_stick *record
        cdef tg_stick_set *group
        cdef tg_known *known
        cdef bint found
        cdef int i
        if not n or n > TG_STICK_KEY or len(counts) != TG_STICK_COUNTERS or len(recent) != TG_STICK_COUNTERS:
            raise ValueError("this is no row of a table")
        table.segment.check_open()
        if age > table.expire:
            return False
        age = min(age, now)
        ref.key = table.key_of(text, n)
        found = tg_load64_relaxed(&table.head.used) and table.find(text, n, &ref)
        if not found or table.is_over(ref.place, now) and table.held(ref.place) == 0:
            if own or not table.claim(text, n, now, &ref):
                return False
            tg_store64_relaxed(&table.records[ref.place].used_ns, now - age)
        group = table.sets + ref.place // TG_STICK_WAYS
        if not table.lock(group):
            return False
        try:
            record = table.records + ref.place
            if (tg_load64(&group.keys[ref.place % TG_STICK_WAYS]) != ref.key or record.length != n
                    or memcmp(record.key, text, n) != 0):
                return False                  # it has just made room for another
            known = self.known_of(ref.place, ref.key)
            if not own:
                used = tg_load64_relaxed(&record.used_ns)
                if used < now - age:
                    tg_store64_relaxed(&record.used_ns, now - age)
                for i in range(<int> TG_STICK_COUNTERS):
                    number = counts[i]
                    if table.stored >> i & 1 and number:
                        known.counters[i] += number
                        tg_fetch_add64(&record.counters[i], number)
                    number = recent[i]
                    if number and table.windows[i] > age:
                        add_rate(record, i, table.windows[i], now, number)
            if gpt0 is not None and table.stored >> STICK_GPT0 & 1:
                number = gpt0
                if tg_load64_relaxed(&record.gpt0) == known.gpt0:
                    known.gpt0 = number
                    tg_store64_relaxed(&record.gpt0, number)
            return True
        finally:
            tg_store64(&group.owner, 0)

    cdef bint locate(self, uint64_t key, uint64_t *place) noexcept nogil:
        """The place of the entry whose hash is `key`."""
        cdef uint64_t number = self.table.first + ((key >> 32) * self.table.size >> 32)
        cdef int way
        for way in range(<int> TG_STICK_WAYS):
            if key and tg_load64(&self.table.sets[number].keys[way]) == key:
                place[0] = number * TG_STICK_WAYS + <uint64_t> way
                return True
        return False

    def dump(self) -> bytes:
        """What the peers know of each entry, for `load` of the next program."""
        cdef uint64_t whole = self.table.size * TG_STICK_WAYS, first = self.table.first * TG_STICK_WAYS
        cdef uint64_t words[WORDS]
        cdef uint64_t number, place
        cdef const tg_known *known
        cdef int i
        self.table.segment.check_open()
        found = bytearray()
        for number in range(whole):
            known, place = self.known + number, first + number
            words[0] = tg_load64(&self.table.sets[place // TG_STICK_WAYS].keys[place % TG_STICK_WAYS])
            if (words[0] == 0 or known.key != words[0]
                    or known.generation != tg_load32_relaxed(&self.table.records[place].generation)):
                continue
            for i in range(<int> TG_STICK_COUNTERS):
                words[1 + i] = known.counters[i]
            words[WORDS - 1] = known.gpt0
            found += (<const char *> words)[:sizeof(words)]
        return bytes(found)

    def load(self, data: bytes) -> None:
        """The table has the entries of the program before: of these the peers know what `dump` gave there. Raises
        ValueError for what is none."""
        cdef uint64_t words[WORDS]
        cdef const char *text = data
        cdef size_t at
        cdef uint64_t place = 0
        cdef tg_known *known
        cdef int i
        self.table.segment.check_open()
        if len(data) % sizeof(words):
            raise ValueError("this is nothing that peers know")
        for at in range(0, <size_t> len(data), sizeof(words)):
            memcpy(words, text + at, sizeof(words))
            if not self.locate(words[0], &place):
                continue                      # it has expired
            known = self.known_of(place, words[0])
            for i in range(<int> TG_STICK_COUNTERS):
                known.counters[i] = min(words[1 + i], tg_load64_relaxed(&self.table.records[place].counters[i]))
            known.gpt0 = words[WORDS - 1]

    def located(
        self, rows: list[tuple[int, int, int, bytes, list[int], list[int], int | None]]
    ) -> list[tuple[int, int, int, bytes, list[int], list[int], int | None]]:
        """`rows` that the program before took, with the places that their keys have here; without those that have
        none."""
        cdef uint64_t place = 0
        self.table.segment.check_open()
        found = []
        for row in rows:
            if self.locate(<uint64_t> row[1], &place):
                found.append((place, row[1], tg_load32_relaxed(&self.table.records[place].generation), *row[3:]))
        return found

    def settle(self, key: bytes) -> None:
        """An operator has set what is counted of `key`: its counters are no news for the peers."""
        cdef StickTable table = self.table
        cdef char name[TG_STICK_KEY]
        cdef tg_stick_ref ref
        cdef tg_known *known
        cdef size_t n
        cdef int i
        table.segment.check_open()
        key = table.unspelled(key)
        n = table.name_of(key, <size_t> len(key), name)
        ref.key = table.key_of(name, n)
        if table.find(name, n, &ref):
            known = self.known_of(ref.place, ref.key)
            for i in range(<int> TG_STICK_COUNTERS):
                known.counters[i] = tg_load64_relaxed(&table.records[ref.place].counters[i])
