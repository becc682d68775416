"""What the server says of its load: see load.pxd."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

cdef enum:
    EXACT = 16                        # numbers in flight that are told apart; above, an eighth of an octave is one
    WINDOW = 1_000_000_000            # ns: WINDOW_NS
    # Tags of OrcaLoadReport.
    RPS_FRACTIONAL = 6 << 3 | 1
    EPS = 7 << 3 | 1
    NAMED_METRICS = 8 << 3 | 2
    APPLICATION_UTILIZATION = 9 << 3 | 1
    KEY = 1 << 3 | 2
    VALUE = 2 << 3 | 1

WINDOW_NS: int = 1_000_000_000              # over which rates and utilization are taken

cdef const char *DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


cdef int range_of(uint64_t in_flight) noexcept:
    """Exact below 16, then eight ranges for each doubling."""
    cdef uint64_t left = in_flight // EXACT
    cdef int octaves = 0
    while left:
        left >>= 1
        octaves += 1
    return min(8 * octaves + <int>(in_flight >> octaves), LOAD_RANGES - 1)


cdef class Load:

    def __cinit__(self, int slots, uint64_t now):
        self.slots = slots
        self.since = self.changed = now
        self.recent = <tg_recent *>calloc(LOAD_RANGES, sizeof(tg_recent))
        if self.recent == NULL:
            raise MemoryError

    def __init__(self, int slots, uint64_t now) -> None:
        """`now` is monotonic ns. Raises MemoryError."""

    def __dealloc__(self):
        free(self.recent)

    cdef void count(self, uint64_t now) noexcept:
        if now <= self.changed:                   # the moment of the loop may be older than the last look at the clock
            return
        self.taken += min(self.in_flight, <uint64_t>self.slots) * (now - self.changed)
        self.changed = now

    cdef int began(self, uint64_t now) noexcept:
        self.count(now)
        self.in_flight += 1
        return range_of(self.in_flight)

    cdef void ended(self, int begun, uint64_t now, uint64_t latency, bint failed) noexcept:
        cdef tg_recent *recent = &self.recent[begun]
        self.count(now)
        self.in_flight -= 1
        self.requests += 1
        self.failures += failed
        if latency:
            recent.latency[recent.next] = latency
            recent.next = (recent.next + 1) % LOAD_RECENT
            recent.count = min(recent.count + 1, LOAD_RECENT)

    cdef void turn(self, uint64_t now) noexcept:
        cdef uint64_t passed
        self.count(now)
        passed = self.changed - self.since
        if passed < WINDOW:
            return
        self.rps = self.requests * 1e9 / passed
        self.eps = self.failures * 1e9 / passed
        self.utilization = <double>self.taken / passed / self.slots
        self.requests = self.failures = self.taken = 0
        self.since = self.changed

    cdef double latency_at(self, uint64_t in_flight) noexcept:
        """The median (ns) of recent latencies with so many in flight, or with the nearest number that was seen; -1: no
        request was answered yet."""
        cdef uint64_t sorted_ones[LOAD_RECENT]
        cdef uint64_t one
        cdef const tg_recent *recent = NULL
        cdef int here = range_of(max(in_flight, <uint64_t>1))
        cdef int away, i, j, n
        for away in range(LOAD_RANGES):
            if here >= away and self.recent[here - away].count:
                recent = &self.recent[here - away]
                break
            if here + away < LOAD_RANGES and self.recent[here + away].count:
                recent = &self.recent[here + away]
                break
        if recent == NULL:
            return -1
        n = recent.count
        for i in range(n):
            one = recent.latency[i]
            j = i
            while j > 0 and sorted_ones[j - 1] > one:
                sorted_ones[j] = sorted_ones[j - 1]
                j -= 1
            sorted_ones[j] = one
        return (<double>sorted_ones[(n - 1) // 2] + <double>sorted_ones[n // 2]) / 2

    cdef int write(self, char *into, uint64_t now) noexcept:
        """An OrcaLoadReport; rates are those of the last whole window. Its bytes."""
        cdef char *at = into
        cdef double latency
        self.turn(now)
        if self.rps:
            at = put_number(at, RPS_FRACTIONAL, self.rps)
        if self.eps:
            at = put_number(at, EPS, self.eps)
        if self.utilization:
            at = put_number(at, APPLICATION_UTILIZATION, self.utilization)
        at = put_metric(at, b"rif", 3, <double>self.in_flight)
        latency = self.latency_at(self.in_flight)
        if latency >= 0:
            at = put_metric(at, b"latency_ms", 10, latency / 1e6)
        return <int>(at - into)

    cdef const char *header(self, uint64_t now, int *size) noexcept:
        cdef char report[LOAD_TEXT]
        if self.text_size == 0 or self.text_at != now:
            self.text_size = base64(self.text, <uint8_t *>report, self.write(report, now))
            self.text_at = now
        size[0] = self.text_size
        return self.text

    # From Python.

    def begin(self, uint64_t now) -> int:
        """A request begins; what `end` has to be told."""
        return self.began(now)

    def end(self, int begun, uint64_t now, uint64_t latency=0, bint failed=False) -> None:
        """A request ends, after `latency` ns; 0: nothing is said of it."""
        self.ended(begun, now, latency, failed)

    def report(self, uint64_t now) -> bytes:
        """An OrcaLoadReport; `now` is monotonic ns."""
        cdef char report[LOAD_TEXT]
        cdef int size = self.write(report, now)
        return report[:size]


cdef inline char *put_number(char *at, uint8_t tag, double value) noexcept:
    at[0] = <char>tag
    memcpy(at + 1, &value, sizeof(double))
    return at + 9


cdef inline char *put_metric(char *at, const char *name, uint8_t size, double value) noexcept:
    """An entry of a map: a message with the key and the value."""
    at[0] = <char>NAMED_METRICS
    at[1] = <char>(2 + size + 9)
    at[2] = <char>KEY
    at[3] = <char>size
    memcpy(at + 4, name, size)
    return put_number(at + 4 + size, VALUE, value)


cdef int base64(char *into, const uint8_t *data, int size) noexcept:
    """RFC 4648 section 4, without padding: gRPC wants it so."""
    cdef char *at = into
    cdef uint32_t bits
    cdef int i = 0
    while i + 2 < size:
        bits = <uint32_t>data[i] << 16 | <uint32_t>data[i + 1] << 8 | data[i + 2]
        at[0] = DIGITS[bits >> 18]
        at[1] = DIGITS[bits >> 12 & 63]
        at[2] = DIGITS[bits >> 6 & 63]
        at[3] = DIGITS[bits & 63]
        at += 4
        i += 3
    if i + 1 == size:
        bits = <uint32_t>data[i] << 16
        at[0] = DIGITS[bits >> 18]
        at[1] = DIGITS[bits >> 12 & 63]
        at += 2
    elif i + 2 == size:
        bits = <uint32_t>data[i] << 16 | <uint32_t>data[i + 1] << 8
        at[0] = DIGITS[bits >> 18]
        at[1] = DIGITS[bits >> 12 & 63]
        at[2] = DIGITS[bits >> 6 & 63]
        at += 3
    return <int>(at - into)
