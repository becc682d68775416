"""Stick tables in the shared segment: see stick_tables.pxd for the contract and segment.h for the layout.

A rate is what was counted in the last window: all of the window that runs, and of the one before the part that the
last window reaches back to, as if that had come evenly (HAProxy's `read_freq_ctr`).
"""

cimport cython
from libc.stdint cimport UINT64_MAX, uint32_t, uint64_t
from libc.string cimport memchr, memcmp, memcpy, memset
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from lb.shared.atomics cimport (
    tg_cas64, tg_fence_acquire, tg_fence_full, tg_fetch_add64, tg_load32_relaxed, tg_load64, tg_load64_relaxed,
    tg_pause, tg_store32_relaxed, tg_store64, tg_store64_relaxed,
)
from lb.shared.hashing cimport hash64_keyed
from lb.shared.segment cimport (
    TG_STICK_COUNTERS, TG_STICK_KEY, TG_STICK_TABLES, TG_STICK_WAYS, Segment, tg_stick, tg_stick_head, tg_stick_set,
)

from ipaddress import ip_address

from lb.config.plan.tables import FIELDS, TablePlan

cdef extern from "<sched.h>" nogil:
    int sched_yield()

cdef extern from "<arpa/inet.h>" nogil:
    enum:
        AF_INET
        AF_INET6
    int inet_pton(int family, const char *text, void *into)

cdef extern from "<stdio.h>" nogil:
    int snprintf(char *into, size_t room, const char *form, ...)

cdef enum:
    # A lock is held for a fraction of a microsecond, and every lost race means that another process got on.
    TURNS = 4096
    TURNS_BEFORE_YIELD = 64
    COUNT_BITS = 36
    ADDRESS_ROOM = 64
    DIGEST = 17                       # bytes of a long key's second hash, with the mark in front

cdef const char *MAPPED = b"\0\0\0\0\0\0\0\0\0\0\xff\xff"
cdef uint64_t COUNT = (<uint64_t> 1 << COUNT_BITS) - 1
cdef uint64_t PERIOD = (<uint64_t> 1 << (64 - COUNT_BITS)) - 1
assert len(FIELDS) == STICK_FIELDS and FIELDS[STICK_CONCURRENT] == "concurrent" and FIELDS[STICK_GPT0] == "gpt0"


cdef uint64_t stick_now() noexcept nogil:
    cdef timespec now
    if clock_gettime(CLOCK_MONOTONIC, &now) != 0:
        return 0
    return <uint64_t> now.tv_sec * 1_000_000_000 + <uint64_t> now.tv_nsec


cdef size_t network_of(int family, unsigned char *address, int bits, char *name) noexcept nogil:
    """The name of the network of an address, which is no text: a NUL, the bits that count, the address; its length."""
    cdef int size = 4 if family == AF_INET else 16
    cdef int left = bits, i
    name[0] = 0
    name[1] = <char> bits
    for i in range(size):
        if left < 8:
            address[i] &= <unsigned char> (0xff00 >> max(left, 0))
        left -= 8
    memcpy(name + 2, address, <size_t> size)
    return <size_t> size + 2


cdef void add_rate(tg_stick *record, int counter, uint64_t window, uint64_t now, uint64_t n) noexcept nogil:
    cdef uint64_t period = now // window & PERIOD
    cdef uint64_t word
    cdef int _turn
    for _turn in range(TURNS):
        word = tg_load64(&record.rates[2 * counter])
        if word >> COUNT_BITS == period:
            if tg_cas64(&record.rates[2 * counter], word, period << COUNT_BITS | min((word & COUNT) + n, COUNT)):
                return
        elif tg_cas64(&record.rates[2 * counter], word, period << COUNT_BITS | min(n, COUNT)):
            tg_store64(&record.rates[2 * counter + 1], word)
            return
        tg_pause()


cdef uint64_t rate_of(const tg_stick *record, int counter, uint64_t window, uint64_t now) noexcept nogil:
    cdef uint64_t period = now // window & PERIOD
    cdef uint64_t last = (period - 1) & PERIOD
    cdef uint64_t word = tg_load64(&record.rates[2 * counter])
    cdef uint64_t before = tg_load64(&record.rates[2 * counter + 1])
    cdef uint64_t count = 0
    if word >> COUNT_BITS == period:
        count = word & COUNT
        before = before & COUNT if before >> COUNT_BITS == last else 0
    elif word >> COUNT_BITS == last:
        before = word & COUNT
    else:
        return 0
    return count + <uint64_t> (<double> before * <double> (window - now % window) / <double> window)


@cython.final
cdef class StickTable:
    """The table of a plan (TablePlan) in `segment`. Raises ValueError for a place that the segment does not have."""

    def __init__(self, Segment segment not None, plan: TablePlan) -> None:
        cdef int i
        segment.check_open()
        place = plan.place
        if place.sets < 1 or place.first < 0 or place.first + place.sets > segment.header.stick_sets:
            raise ValueError(f"table {plan.name}: the segment has no room for it")
        if not 0 <= place.number < TG_STICK_TABLES:
            raise ValueError(f"table {plan.name}: {place.number} is no number of a table")
        self.segment = segment
        self.name = plan.name
        self.digest = plan.digest
        self.head = <tg_stick_head *> (segment.base + segment.header.sticks_offset)
        self.sets = <tg_stick_set *> (self.head + 1)
        self.records = <tg_stick *> (self.sets + segment.header.stick_sets)
        self.counts = NULL if segment.worker < 0 else segment.stick_counts_of(<uint32_t> segment.worker)
        self.number, self.first, self.size = place.number, place.first, place.sets
        self.expire = plan.expire_ns
        self.v4, self.v6 = plan.ipv4_prefix, plan.ipv6_prefix
        for field in plan.stored:
            self.stored |= <uint64_t> 1 << <int> field
        for i in range(TG_STICK_COUNTERS):
            self.windows[i] = plan.windows[i]

    def __repr__(self):
        return f"<StickTable {self.name} sets={self.first}+{self.size}>"

    # The key.

    cdef size_t name_of(self, const char *text, size_t n, char *name) noexcept nogil:
        """The key as an entry has it, into `name` of TG_STICK_KEY bytes; its length."""
        cdef unsigned char address[16]
        cdef char copy[ADDRESS_ROOM]
        cdef char digest[DIGEST + 1]
        cdef int family
        if self.v4 and n < ADDRESS_ROOM:
            family = AF_INET if memchr(text, 58, n) == NULL else AF_INET6
            memcpy(copy, text, n)
            copy[n] = 0
            if inet_pton(family, copy, address) == 1:
                if family == AF_INET6 and memcmp(address, MAPPED, 12) == 0:
                    family = AF_INET
                    memcpy(address, address + 12, 4)
                return network_of(family, address, self.v4 if family == AF_INET else self.v6, name)
        if n <= TG_STICK_KEY:
            memcpy(name, text, n)
            return n
        memcpy(name, text, TG_STICK_KEY - DIGEST)
        snprintf(digest, sizeof(digest), b"~%016llx", <unsigned long long> (
            hash64_keyed(text, n, self.segment.header.stick_secret)))
        memcpy(name + TG_STICK_KEY - DIGEST, digest, DIGEST)
        return TG_STICK_KEY

    cdef uint64_t key_of(self, const char *name, size_t n) noexcept nogil:
        cdef uint64_t key = hash64_keyed(name, n, self.segment.header.stick_secret)
        return key if key else 1

    # Entries.

    cdef bint find(self, const char *name, size_t n, tg_stick_ref *ref) noexcept nogil:
        """The entry of `ref.key`, whose name is `name`."""
        cdef uint64_t number = self.first + ((ref.key >> 32) * self.size >> 32)
        cdef const tg_stick *record
        cdef int way
        for way in range(<int> TG_STICK_WAYS):
            if tg_load64(&self.sets[number].keys[way]) == ref.key:
                ref.place = number * TG_STICK_WAYS + <uint64_t> way
                record = self.records + ref.place
                if record.length == n and memcmp(record.key, name, n) == 0:
                    return True
        return False

    cdef uint64_t held(self, uint64_t place) noexcept nogil:
        """Requests that all workers have under way of an entry."""
        cdef uint64_t total = 0
        cdef uint32_t worker
        for worker in range(self.segment.header.workers):
            total += tg_load32_relaxed(self.segment.stick_counts_of(worker) + place)
        return total

    cdef bint is_over(self, uint64_t place, uint64_t now) noexcept nogil:
        cdef uint64_t used = tg_load64_relaxed(&self.records[place].used_ns)
        return used < now and now - used > self.expire

    cdef bint lock(self, tg_stick_set *group) noexcept nogil:
        cdef uint64_t me = <uint64_t> (self.segment.worker + 2)
        cdef int turn
        for turn in range(TURNS):
            if tg_load64_relaxed(&group.owner) == 0 and tg_cas64(&group.owner, 0, me):
                return True
            tg_pause()
            if turn % TURNS_BEFORE_YIELD == TURNS_BEFORE_YIELD - 1:
                sched_yield()
        return False

    cdef bint keep(self, uint64_t place, uint64_t key) noexcept nogil:
        """Counts a request as under way, if the entry is still that of the key."""
        tg_store32_relaxed(&self.counts[place], self.counts[place] + 1)
        tg_fence_full()
        if tg_load64(&self.sets[place // TG_STICK_WAYS].keys[place % TG_STICK_WAYS]) == key:
            return True
        tg_store32_relaxed(&self.counts[place], self.counts[place] - 1)
        return False

    cdef void reset(self, uint64_t place) noexcept nogil:
        cdef tg_stick *record = self.records + place
        cdef int i
        for i in range(<int> TG_STICK_COUNTERS):
            tg_store64_relaxed(&record.counters[i], 0)
            tg_store64_relaxed(&record.rates[2 * i], 0)
            tg_store64_relaxed(&record.rates[2 * i + 1], 0)
        tg_store64_relaxed(&record.gpt0, 0)
        tg_store32_relaxed(&record.generation, tg_load32_relaxed(&record.generation) + 1)

    cdef bint claim(self, const char *name, size_t n, uint64_t now, tg_stick_ref *ref) noexcept nogil:
        """An entry for a key that has none, or whose own has expired."""
        cdef uint64_t number = self.first + ((ref.key >> 32) * self.size >> 32)
        cdef tg_stick_set *group = self.sets + number
        cdef uint64_t first = number * TG_STICK_WAYS
        cdef uint64_t used, oldest, old
        cdef tg_stick *record
        cdef int way, place = -1, tried = 0, _turn
        cdef bint found, over
        if not self.lock(group):
            tg_fetch_add64(&self.head.tables[self.number].refused, 1)
            return False
        if not tg_load64_relaxed(&self.head.used):
            tg_store64(&self.head.used, 1)
        found = self.find(name, n, ref)
        if found and not (self.is_over(ref.place, now) and self.held(ref.place) == 0):
            tg_store64(&group.owner, 0)
            return True                       # another process was faster
        for _turn in range(<int> TG_STICK_WAYS):
            place = -1
            oldest = UINT64_MAX
            if found and not tried:
                place = <int> (ref.place - first)
            else:
                for way in range(<int> TG_STICK_WAYS):
                    if tried >> way & 1:
                        continue
                    if tg_load64_relaxed(&group.keys[way]) == 0:
                        used = 0
                    else:
                        used = tg_load64_relaxed(&self.records[first + way].used_ns)
                    if used < oldest and self.held(first + way) == 0:
                        oldest = used
                        place = way
            if place < 0:
                break
            tried |= 1 << place
            old = tg_load64_relaxed(&group.keys[place])
            over = old == 0 or self.is_over(first + <uint64_t> place, now)
            tg_store64(&group.keys[place], 0)
            tg_fence_full()
            if self.held(first + <uint64_t> place):
                tg_store64(&group.keys[place], old)       # someone has just taken hold of it
                if found:
                    tg_store64(&group.owner, 0)
                    return True
                place = -1
                continue
            break
        if place < 0:
            tg_store64(&group.owner, 0)
            tg_fetch_add64(&self.head.tables[self.number].refused, 1)
            return False
        if not over:
            tg_fetch_add64(&self.head.tables[self.number].evicted, 1)
        ref.place = first + <uint64_t> place
        record = self.records + ref.place
        self.reset(ref.place)
        tg_store64_relaxed(&record.used_ns, now)
        memcpy(record.key, name, n)
        record.length = <uint32_t> n
        tg_store64(&group.keys[place], ref.key)
        tg_store64(&group.owner, 0)
        return True

    cdef bint hold(self, const char *text, size_t n, uint64_t now, tg_stick_ref *ref) noexcept nogil:
        cdef char name[TG_STICK_KEY]
        cdef int _turn
        n = self.name_of(text, n, name)
        ref.key = self.key_of(name, n)
        for _turn in range(TURNS):
            if not self.find(name, n, ref) or self.is_over(ref.place, now) and self.held(ref.place) == 0:
                if not self.claim(name, n, now, ref):
                    return False
            if self.keep(ref.place, ref.key):
                tg_store64_relaxed(&self.records[ref.place].used_ns, now)
                return True
        tg_fetch_add64(&self.head.tables[self.number].refused, 1)
        return False

    cdef void release(self, const tg_stick_ref *ref, uint64_t now) noexcept nogil:
        tg_store64_relaxed(&self.records[ref.place].used_ns, now)
        if self.counts[ref.place]:
            tg_store32_relaxed(&self.counts[ref.place], self.counts[ref.place] - 1)

    cdef void add(self, const tg_stick_ref *ref, int counter, uint64_t n, uint64_t now) noexcept nogil:
        cdef tg_stick *record = self.records + ref.place
        if self.stored >> counter & 1:
            tg_fetch_add64(&record.counters[counter], n)
        if self.windows[counter]:
            add_rate(record, counter, self.windows[counter], now, n)

    cdef void set_gpt0(self, const tg_stick_ref *ref, uint64_t value) noexcept nogil:
        tg_store64_relaxed(&self.records[ref.place].gpt0, value)

    cdef uint64_t value(self, const tg_stick_ref *ref, int field, uint64_t now) noexcept nogil:
        return self.read(ref.place, field, now)

    cdef uint64_t read(self, uint64_t place, int field, uint64_t now) noexcept nogil:
        cdef const tg_stick *record = self.records + place
        if field < STICK_RATES:
            return tg_load64_relaxed(&record.counters[field])
        if field == STICK_CONCURRENT:
            return self.held(place)
        if field == STICK_GPT0:
            return tg_load64_relaxed(&record.gpt0)
        field -= STICK_RATES
        return rate_of(record, field, self.windows[field], now) if self.windows[field] else 0

    cdef uint64_t look(self, const char *text, size_t n, int field, uint64_t now) noexcept nogil:
        cdef char name[TG_STICK_KEY]
        cdef tg_stick_ref ref
        n = self.name_of(text, n, name)
        ref.key = self.key_of(name, n)
        if not self.find(name, n, &ref) or self.is_over(ref.place, now) and self.held(ref.place) == 0:
            return 0
        return self.read(ref.place, field, now)

    # From Python: the master, tests.

    cdef bytes spelled(self, bytes name):
        """The key of an entry as operators read it."""
        if not self.v4 or len(name) not in (6, 18) or name[0]:
            return name
        address = ip_address(name[2:])
        whole = address.max_prefixlen == name[1]
        return f"{address}".encode() if whole else f"{address}/{name[1]}".encode()

    cdef bytes unspelled(self, bytes key):
        """The key that an operator means: of `2001:db8::/64` an address of that network, where the table has such."""
        cdef bytes address, bits
        address, _, bits = key.partition(b"/")
        if not self.v4 or bits != (b"%d" % (self.v6 if b":" in address else self.v4)):
            return key
        try:
            ip_address(address.decode("ascii"))
        except ValueError:                    # UnicodeDecodeError is one
            return key
        return address

    cdef object row(self, uint64_t place, uint64_t now):
        cdef const tg_stick *record = self.records + place
        cdef uint32_t length = min(record.length, <uint32_t> TG_STICK_KEY)
        cdef uint64_t used = tg_load64_relaxed(&record.used_ns)
        cdef int field
        values = {}
        for field in range(<int> STICK_FIELDS):
            if self.stored >> field & 1:
                values[FIELDS[field]] = self.read(place, field, now)
        return self.spelled(record.key[:length]), now - min(used, now), values

    @property
    def capacity(self) -> int:
        """Entries that there may be; not each key finds room before all are used."""
        return self.size * TG_STICK_WAYS

    @property
    def losses(self) -> tuple[int, int]:
        """Entries that made room for others before they expired, and keys that got none, since the table was made."""
        self.segment.check_open()
        return (tg_load64_relaxed(&self.head.tables[self.number].evicted),
                tg_load64_relaxed(&self.head.tables[self.number].refused))

    def busy(self) -> bool:
        """Whether a request is under way that holds an entry."""
        cdef uint64_t place
        self.segment.check_open()
        if not tg_load64_relaxed(&self.head.used):
            return False
        for place in range(self.first * TG_STICK_WAYS, (self.first + self.size) * TG_STICK_WAYS):
            if self.held(place):
                return True
        return False

    def wipe(self) -> None:
        """Forgets all entries and losses: for a place that nobody uses any more."""
        cdef uint64_t number
        self.segment.check_open()
        tg_store64_relaxed(&self.head.tables[self.number].evicted, 0)
        tg_store64_relaxed(&self.head.tables[self.number].refused, 0)
        if not tg_load64_relaxed(&self.head.used):
            return
        for number in range(self.first, self.first + self.size):
            memset(<void *> self.sets[number].keys, 0, sizeof(self.sets[number].keys))

    def rows(self, key: bytes | None = None) -> list[tuple[bytes, int, dict[str, int]]]:
        """(key, nanoseconds since its last use, values by name) of each entry that has not expired; with `key`, of that
        one alone."""
        cdef uint64_t number, now = stick_now(), place
        cdef int way
        cdef char name[TG_STICK_KEY]
        cdef tg_stick_ref ref
        cdef size_t n
        self.segment.check_open()
        found = []
        if not tg_load64_relaxed(&self.head.used):
            return found                      # or a look would allocate all its pages
        if key is not None:
            key = self.unspelled(key)
            n = self.name_of(key, <size_t> len(key), name)
            ref.key = self.key_of(name, n)
            if self.find(name, n, &ref) and (not self.is_over(ref.place, now) or self.held(ref.place)):
                found.append(self.row(ref.place, now))
            return found
        for number in range(self.first, self.first + self.size):
            for way in range(<int> TG_STICK_WAYS):
                place = number * TG_STICK_WAYS + <uint64_t> way
                ref.key = tg_load64(&self.sets[number].keys[way])
                if ref.key == 0 or self.is_over(place, now) and self.held(place) == 0:
                    continue
                row = self.row(place, now)
                tg_fence_acquire()
                if tg_load64(&self.sets[number].keys[way]) == ref.key:
                    found.append(row)
        return found

    def clear(self, key: bytes) -> bool:
        """Forgets an entry; of one that requests hold, what it has counted. False: there is none, or its lock is not to
        be had."""
        cdef char name[TG_STICK_KEY]
        cdef tg_stick_ref ref
        cdef size_t n
        cdef tg_stick_set *group
        cdef bint found
        self.segment.check_open()
        key = self.unspelled(key)
        n = self.name_of(key, <size_t> len(key), name)
        ref.key = self.key_of(name, n)
        group = self.sets + (self.first + ((ref.key >> 32) * self.size >> 32))
        if not tg_load64_relaxed(&self.head.used) or not self.lock(group):
            return False
        found = self.find(name, n, &ref)
        if found:
            tg_store64(&group.keys[ref.place % TG_STICK_WAYS], 0)
            tg_fence_full()
            if self.held(ref.place):
                tg_store64(&group.keys[ref.place % TG_STICK_WAYS], ref.key)
            self.reset(ref.place)
        tg_store64(&group.owner, 0)
        return found

    def put(self, key: bytes, values: dict[str, int]) -> bool:
        """Sets counters and `gpt0` of a key, which gets an entry if it has none. Raises ValueError for a field that is
        not stored, or is a rate or `concurrent`. False: the key finds no room."""
        cdef char name[TG_STICK_KEY]
        cdef tg_stick_ref ref
        cdef uint64_t now = stick_now(), number
        cdef size_t n
        cdef int field
        self.segment.check_open()
        for given in values:
            field = FIELDS.index(given) if given in FIELDS else -1
            if field < 0 or not self.stored >> field & 1:
                raise ValueError(f"table {self.name} does not store {given}")
            if STICK_RATES <= field <= STICK_CONCURRENT:
                raise ValueError(f"{given} cannot be set")
        key = self.unspelled(key)
        n = self.name_of(key, <size_t> len(key), name)
        ref.key = self.key_of(name, n)
        if not self.claim(name, n, now, &ref):
            return False
        tg_store64_relaxed(&self.records[ref.place].used_ns, now)
        for given, number in values.items():
            field = FIELDS.index(given)
            if field == STICK_GPT0:
                tg_store64_relaxed(&self.records[ref.place].gpt0, number)
            else:
                tg_store64_relaxed(&self.records[ref.place].counters[field], number)
        return True

    # For tests: what exchanges do.

    def track(self, key: bytes) -> tuple[int, int] | None:
        """`hold`: the place and the hash of the key, for the methods below; None: there is no room."""
        cdef tg_stick_ref ref
        self.segment.check_open()
        if self.counts == NULL:
            raise ValueError("the master tracks nothing")
        if not self.hold(key, <size_t> len(key), stick_now(), &ref):
            return None
        return ref.place, ref.key

    def count(self, ref: tuple[int, int], field: str, n: int = 1) -> None:
        """`add`."""
        cdef tg_stick_ref own
        own.place, own.key = ref
        self.add(&own, FIELDS.index(field), n, stick_now())

    def let_go(self, ref: tuple[int, int]) -> None:
        """`release`."""
        cdef tg_stick_ref own
        own.place, own.key = ref
        self.release(&own, stick_now())

    def seconds_of(self, rounds: int, key: bytes) -> float:
        """For benchmarks: seconds of a hit (take hold, count a request, release), on average."""
        cdef uint64_t begin = stick_now(), now = begin
        cdef tg_stick_ref ref
        cdef const char *text = key
        cdef size_t n = <size_t> len(key)
        cdef int _i, times = rounds
        for _i in range(times):
            if self.hold(text, n, now, &ref):
                self.add(&ref, STICK_REQUESTS, 1, now)
                self.release(&ref, now)
        return (stick_now() - begin) / 1e9 / times
