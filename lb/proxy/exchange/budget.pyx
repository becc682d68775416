"""How many retries a route, or a pool, may have: see budget.pxd.

Attempts beyond the first are what finishes off a pool that is overloaded, so that they may be at most a share of the
requests (Google SRE book, "Handling Overload"; Envoy's retry_budget).

The counts are words of the route's series, or the pool's, in the shared segment, one writer each: what all workers were
asked since the beginning of the last second (or of some more), and what they have granted since. A worker that wants a
retry first adds its claim and then looks at the sum, as for a place at an endpoint (EndpointSet.take), so that two who
come for the last one at the same moment are never both given it; it may be that neither is, and the next has it.
Workers begin their seconds with their own first requests; since each has seen all that was granted to the requests that
it counts, the share of all is kept all the same. What a worker that dies has claimed stays claimed until the window has
passed; claims that are being taken back while a second begins may be missed, at most one for each other worker. What is
allowed always is a token bucket of the segment, exact as those of rate limits are.
"""

from libc.stdint cimport uint64_t
from lb.shared.atomics cimport tg_fence_full, tg_store64_relaxed
from lb.shared.buckets cimport Buckets, make_limit, tg_verdict
from lb.shared.segment cimport Segment, tg_get
from lb.shared.segment_words cimport (
    QUEUE_HEDGE_CLAIMS, QUEUE_REQUESTS, QUEUE_RETRY_CLAIMS, ROUTE_HEDGE_CLAIMS, ROUTE_REJECTED, ROUTE_RETRY_CLAIMS,
    SERIES_STARTED,
)

cdef enum:
    SECOND_NS = 1_000_000_000


cdef class Counted:
    """The words of a route, or with `of_pool` of a pool, whose series is `series` and whose name is `name`. `hedges`
    have claims of their own."""

    def __init__(self, unsigned int series, str name, bint hedges=False, bint of_pool=False):
        self.name = f"{'pool ' if of_pool else ''}{'hedges' if hedges else 'retries'}\0{name}"
        self.series = series
        if of_pool:
            self.requests = QUEUE_REQUESTS
            self.refused = -1
            self.claims = QUEUE_HEDGE_CLAIMS if hedges else QUEUE_RETRY_CLAIMS
        else:
            self.requests = SERIES_STARTED
            self.refused = ROUTE_REJECTED
            self.claims = ROUTE_HEDGE_CLAIMS if hedges else ROUTE_RETRY_CLAIMS


cdef class RetryBudget:
    """Of the requests that `words` of `segment` count, `percent` may have another attempt, and `least` a second always;
    100 is no limit. The requests are those of this second and of `window` before."""

    def __init__(self, Segment segment not None, Counted words not None, percent, least, int window=1):
        cdef bytes text = words.name.encode()
        if not 1 <= window <= WINDOW_MOST:
            raise ValueError(f"a budget counts 1 to {WINDOW_MOST} seconds, not {window}")
        self.segment = segment
        self.words = words
        self.window = window
        self.percent = percent
        if least:
            self.buckets = Buckets(segment)
            self.key = self.buckets.key_of(<const char *>text, <size_t>len(text))
            self.least = make_limit(SECOND_NS // least, least)

    cdef uint64_t requests(self) noexcept:
        cdef uint64_t total = 0
        cdef uint64_t *words
        cdef int worker
        for worker in range(<int>self.segment.header.workers):
            words = self.segment.series_of(worker, self.words.series)
            total += tg_get(&words[self.words.requests])
            if self.words.refused >= 0:
                total -= tg_get(&words[self.words.refused])
        return total

    cdef uint64_t granted(self) noexcept:
        cdef uint64_t total = 0
        cdef int worker
        for worker in range(<int>self.segment.header.workers):
            total += tg_get(&self.segment.series_of(worker, self.words.series)[self.words.claims])
        return total

    cdef void turn(self, uint64_t now, uint64_t fresh) noexcept:
        cdef uint64_t second = now // SECOND_NS
        cdef uint64_t passed
        cdef uint64_t asked, claimed
        cdef int i
        if second <= self.second:
            return
        passed = second - self.second
        asked = self.requests() - fresh
        claimed = self.granted()
        for i in range(self.window, -1, -1):
            if <uint64_t>i >= passed:
                self.asked[i] = self.asked[i - <int>passed]
                self.claimed[i] = self.claimed[i - <int>passed]
            else:
                self.asked[i] = asked         # nothing is known of the seconds between
                self.claimed[i] = claimed
        self.second = second
        self.until = (second + 1) * SECOND_NS

    cdef uint64_t *own_claims(self) noexcept:
        return &self.segment.series_of(self.segment.worker, self.words.series)[self.words.claims]

    cdef bint claim(self, uint64_t now) noexcept:
        cdef uint64_t *word = self.own_claims()
        cdef uint64_t granted, asked, before
        cdef tg_verdict verdict
        verdict.admitted = False
        self.turn(now, 0)
        before = self.asked[self.window]
        if self.buckets is not None:
            self.buckets.take(self.key, &self.least, now, &verdict)
        self.took = verdict.admitted
        tg_store64_relaxed(word, tg_get(word) + 1)
        tg_fence_full()
        granted = self.granted()              # this one included
        if self.percent >= 100 or verdict.admitted:
            return True
        asked = self.requests()
        # A request that is refused later was asked all the same: the count may step back.
        asked = asked - before if asked > before else 0
        if asked * self.percent and (granted - self.claimed[self.window]) * 100 <= asked * self.percent:
            return True
        self.give_back(now)
        return False

    cdef void give_back(self, uint64_t now) noexcept:
        cdef uint64_t *word = self.own_claims()
        if self.took:
            self.took = False
            self.buckets.put_back(self.key, &self.least, now)
        tg_store64_relaxed(word, tg_get(word) - 1)
