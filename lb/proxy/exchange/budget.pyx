"""How many retries a route may have: see budget.pxd.

Attempts beyond the first are what finishes off a pool that is overloaded, so that they may be at most a share of the
requests (Google SRE book, "Handling Overload"; Envoy's retry_budget).

The counts are the route's words in the shared segment, one writer each: what all workers were asked since the
beginning of the last second, and what they have granted since. A worker that wants a retry first adds its claim and
then looks at the sum, as for a place at an endpoint (EndpointSet.take), so that two who come for the last one at the
same moment are never both given it; it may be that neither is, and the next has it. Workers begin their seconds with
their own first requests; since each has seen all that was granted to the requests that it counts, the share of all is
kept all the same. What a worker that dies has claimed stays claimed until the window has passed; claims that are being
taken back while a second begins may be missed, at most one for each other worker. What is allowed always is a token
bucket of the segment, exact as those of rate limits are.
"""

from libc.stdint cimport uint64_t
from lb.shared.atomics cimport tg_fence_full, tg_store64_relaxed
from lb.shared.buckets cimport Buckets, make_limit, tg_verdict
from lb.shared.segment cimport Segment, tg_get
from lb.shared.segment_words cimport ROUTE_HEDGE_CLAIMS, ROUTE_REJECTED, ROUTE_RETRY_CLAIMS, SERIES_STARTED

cdef enum:
    SECOND_NS = 1_000_000_000


cdef class RetryBudget:
    """Of the requests that the series `series` of `segment` counts, `percent` may have another attempt, and `least` a
    second always; 100 is no limit. `hedges` have claims of their own, and `name` tells the route from others."""

    def __init__(self, Segment segment not None, series, str name, percent, least, bint hedges=False):
        cdef bytes text = f"{'hedges' if hedges else 'retries'}\0{name}".encode()
        self.segment = segment
        self.series = series
        self.claims = ROUTE_HEDGE_CLAIMS if hedges else ROUTE_RETRY_CLAIMS
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
            words = self.segment.series_of(worker, self.series)
            total += tg_get(&words[SERIES_STARTED]) - tg_get(&words[ROUTE_REJECTED])
        return total

    cdef uint64_t granted(self) noexcept:
        cdef uint64_t total = 0
        cdef int worker
        for worker in range(<int>self.segment.header.workers):
            total += tg_get(&self.segment.series_of(worker, self.series)[self.claims])
        return total

    cdef void turn(self, uint64_t now, uint64_t fresh) noexcept:
        cdef uint64_t second = now // SECOND_NS
        if second == self.second:
            return
        self.asked[1] = self.asked[0]
        self.claimed[1] = self.claimed[0]
        self.asked[0] = self.requests() - fresh
        self.claimed[0] = self.granted()
        if second != self.second + 1:
            self.asked[1] = self.asked[0]     # nothing is known of the second before
            self.claimed[1] = self.claimed[0]
        self.second = second

    cdef void begin(self, uint64_t now) noexcept:
        self.turn(now, 1)

    cdef bint claim(self, uint64_t now) noexcept:
        cdef uint64_t *word = &self.segment.series_of(self.segment.worker, self.series)[self.claims]
        cdef uint64_t granted, asked
        cdef tg_verdict verdict
        verdict.admitted = False
        self.turn(now, 0)
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
        asked = asked - self.asked[1] if asked > self.asked[1] else 0
        if asked * self.percent and (granted - self.claimed[1]) * 100 <= asked * self.percent:
            return True
        self.give_back(now)
        return False

    cdef void give_back(self, uint64_t now) noexcept:
        cdef uint64_t *word = &self.segment.series_of(self.segment.worker, self.series)[self.claims]
        if self.took:
            self.took = False
            self.buckets.put_back(self.key, &self.least, now)
        tg_store64_relaxed(word, tg_get(word) - 1)
