"""How long clients wait: see patience.pxd.

Those who left say how long they had waited, those who got an endpoint only that they would have waited for longer. So
the share of clients that still wait after a time is the product of those that did not leave in each interval up to it,
of those that were there (Kaplan and Meier 1958, "Nonparametric estimation from incomplete observations"). The intervals
are the buckets of two histograms, which all workers write; the patience is the upper bound of the one after which
hardly anybody is left, so that nobody is refused who would have waited.

What is known stays until somebody waits for longer and gets an endpoint, or there are enough departures again: who is
refused early neither waits nor leaves.
"""

from libc.stdint cimport uint64_t
from libc.string cimport memcpy, memset
from lb.shared.segment cimport Segment, tg_get
from lb.shared.segment_words cimport QUEUE_LEFT, QUEUE_WAIT, SERIES_BOUNDS, tg_bucket_bounds_us

cdef enum:
    SECOND_NS = 1_000_000_000
    WINDOW_NS = 60_000_000_000        # what is older than twice that says nothing
    ENOUGH = 20                       # departures

cdef double HARDLY = 0.02             # of the clients


cdef class Patience:
    """Of the clients whose requests wait in the queue with the series `series` of `segment`."""

    def __init__(self, Segment segment not None, unsigned int series):
        self.segment = segment
        self.series = series
        self.count(self.ended[0], self.left[0])
        memcpy(self.ended[1], self.ended[0], sizeof(self.ended[0]))
        memcpy(self.left[1], self.left[0], sizeof(self.left[0]))

    cpdef uint64_t known(self, uint64_t now):
        if now >= self.look_at:
            self.look(now)
            self.look_at = now + SECOND_NS
        return self.learned

    cdef void count(self, uint64_t *ended, uint64_t *left) noexcept:
        cdef uint64_t *words
        cdef int worker, i
        memset(ended, 0, sizeof(self.ended[0]))
        memset(left, 0, sizeof(self.left[0]))
        for worker in range(<int>self.segment.header.workers):
            words = self.segment.series_of(worker, self.series)
            for i in range(<int>SERIES_BOUNDS + 1):
                ended[i] += tg_get(&words[QUEUE_WAIT + 1 + i])
                left[i] += tg_get(&words[QUEUE_LEFT + 1 + i])

    cdef void look(self, uint64_t now) noexcept:
        cdef uint64_t ended[SERIES_BOUNDS + 1]
        cdef uint64_t left[SERIES_BOUNDS + 1]
        cdef uint64_t there = 0, gone = 0, beyond = 0, at_least
        cdef double waiting = 1.0
        cdef int i
        self.count(ended, left)
        if self.turn_at == 0:
            self.turn_at = now + WINDOW_NS
        elif now >= self.turn_at:
            self.turn_at = now + WINDOW_NS
            memcpy(self.ended[1], self.ended[0], sizeof(self.ended[0]))
            memcpy(self.left[1], self.left[0], sizeof(self.left[0]))
            memcpy(self.ended[0], ended, sizeof(ended))
            memcpy(self.left[0], left, sizeof(left))
        for i in range(<int>SERIES_BOUNDS + 1):
            ended[i] -= min(ended[i], self.ended[1][i])
            left[i] -= min(left[i], self.left[1][i])
            there += ended[i]
            gone += left[i]
            at_least = <uint64_t>tg_bucket_bounds_us[i - 1] * 1000 if i else 0
            if self.learned and at_least >= self.learned:
                beyond += ended[i] - min(left[i], ended[i])
        if beyond:
            self.learned = 0
        if gone < ENOUGH:
            return
        for i in range(<int>SERIES_BOUNDS):
            if there:
                waiting *= 1.0 - min(<double>left[i] / <double>there, 1.0)
            there -= min(ended[i], there)
            if waiting <= HARDLY:
                self.learned = <uint64_t>tg_bucket_bounds_us[i] * 1000
                return
