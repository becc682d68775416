"""When probes are sent, and to whom: see prober.pxd."""

import logging

from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free
from lb.net.poller cimport Poller
from lb.shared.segment cimport tg_add
from lb.shared.segment_words cimport (
    ENDPOINT_PROBES, ENDPOINT_PROBE_FAILURES_FAILED, ENDPOINT_PROBE_FAILURES_NO_REPORT, ENDPOINT_PROBE_FAILURES_TIMEOUT,
)
from lb.upstream.load.load_report cimport read_report, tg_load

from lb.shared import seeds

log = logging.getLogger("tidegate.upstream")

cdef enum:
    MOST_UNDER_WAY = 128              # of a pool: a hundred endpoints that do not answer must not take many more down


cdef class Probe:

    cdef bint send(self, uint64_t deadline) noexcept:
        return False

    cdef void answered(self, int kind, const char *report, size_t n) noexcept:
        cdef tg_load load
        if self.prober is None:
            return
        if self.prober.poller.now - self.sent > self.prober.timeout:
            self.finish(PROBE_LATE, NULL)     # the wheel that ends it is coarser than that
        elif n and read_report(kind, report, n, &load):
            self.finish(PROBE_ANSWERED if load.rif >= 0.0 else PROBE_VOID, &load)
        else:
            self.finish(PROBE_VOID, NULL)

    cdef void failed(self, bint late) noexcept:
        self.finish(PROBE_LATE if late else PROBE_FAILED, NULL)

    cdef void finish(self, int result, tg_load *load) noexcept:
        cdef Prober prober = self.prober
        if prober is not None:
            self.prober = None
            prober.over(self, result, load)


cdef class Prober(Source):
    """Of the pool `name`, whose `policy` has `probes`. `probes` are the Probes of its endpoints, in their order."""

    def __init__(self, Poller poller not None, str name, Policy policy not None, probes):
        cdef int i
        options = policy.probes
        self.poller = poller
        self.name = name
        self.policy = policy
        self.endpoints = policy.endpoints
        self.probes = list(probes)
        self.rate = options.rate
        self.timeout = options.timeout
        self.max_idle = options.max_idle
        self.state = seeds.draw()
        self.stopped = True
        self.order = <int *>calloc(self.endpoints.size + 1, sizeof(int))
        if self.order == NULL:
            raise MemoryError
        for i in range(self.endpoints.size):
            self.order[i] = i

    def __dealloc__(self):
        free(self.order)

    def start(self):
        """The pool is in use: choices count, and pauses."""
        if self.stopped:
            self.stopped = False
            if self.max_idle:
                self.poller.arm(self, self.poller.clock())

    def stop(self):
        """No further probes."""
        self.stopped = True
        self.poller.disarm(self)

    cdef void ask(self) noexcept:
        if self.stopped:
            return
        self.due += self.rate
        if self.due >= 1.0:
            self.poller.mark(self)

    cdef void on_flush(self) noexcept:
        cdef int count = <int>min(self.due, <double>MOST_UNDER_WAY)
        self.due -= <uint64_t>self.due        # what is beyond the bound is let go
        self.send(count)

    cdef void on_timer(self) noexcept:
        if not self.stopped and self.max_idle:
            self.send(<int>self.rate + (self.rate > <int>self.rate))

    cdef void send(self, int count) noexcept:
        cdef uint64_t now = self.poller.now
        cdef int size = self.endpoints.size
        cdef int drawn, at, index
        cdef Probe probe
        if self.stopped:
            return
        if self.max_idle:
            self.poller.arm(self, now + self.max_idle)
        for drawn in range(size):
            if count == 0 or self.under_way >= MOST_UNDER_WAY:
                return
            at = drawn + self.below(size - drawn)
            index = self.order[at]
            self.order[at] = self.order[drawn]
            self.order[drawn] = index
            if self.endpoints.state_weight(index) <= 0:
                continue                      # down, drained or ejected
            count -= 1
            probe = <Probe>self.probes[index]
            if probe.prober is not None:
                continue                      # it is being asked, and will say the same
            tg_add(&probe.words[ENDPOINT_PROBES], 1)
            self.under_way += 1
            probe.prober = self
            probe.sent = now
            if not probe.send(now + self.timeout):
                probe.failed(False)

    cdef void over(self, Probe probe, int result, tg_load *load) noexcept:
        cdef uint64_t now = self.poller.now
        self.under_way -= 1
        if result == PROBE_LATE:
            tg_add(&probe.words[ENDPOINT_PROBE_FAILURES_TIMEOUT], 1)
        elif result == PROBE_FAILED:
            tg_add(&probe.words[ENDPOINT_PROBE_FAILURES_FAILED], 1)
        elif result == PROBE_VOID:
            tg_add(&probe.words[ENDPOINT_PROBE_FAILURES_NO_REPORT], 1)
            if not self.complained:
                self.complained = True
                log.warning("pool %s: %s answers probes without a load report that has the metric rif", self.name,
                            self.endpoints.addresses[probe.index])
        if load == NULL or self.stopped:
            return
        if load.utilization > 0.0 and self.policy.reads_reports:
            self.endpoints.set_report(probe.index, load.utilization, load.qps, load.eps, now)
        if result == PROBE_ANSWERED:
            self.policy.probed(probe.index, now, load.rif, max(load.latency_ms, 0.0) * 1e6)

    cdef int below(self, int n) noexcept:
        """A random number from 0 to n - 1 (xorshift64, Marsaglia 2003; its upper half, scaled)."""
        cdef uint64_t x = self.state
        x ^= x << 13
        x ^= x >> 7
        x ^= x << 17
        self.state = x
        return <int>(((x >> 32) * <uint64_t>n) >> 32)
