"""When a request gets a second attempt while the first is late: see hedge.pxd, and docs/adr/hedging.md for the reasons.

The delay is a quantile of the time from the sending of a first attempt to the beginning of its answer. A try that was
given up for its hedge's answer counts with the time that it had: that is above the quantile, and that is all that
matters for one. Hedges themselves do not count, since those of them that are seen to the end are the fast ones.

Where the policy knows when an endpoint last answered, there is a quantile of these silences, too. One silence holds all
that the endpoint has, so that a tenth as many are taken for a stall as answers for late.
"""

from weakref import WeakKeyDictionary, WeakValueDictionary

from lb.config.plan.routes import SAFE_HEDGES, safe_retries

cimport cython
from libc.stdint cimport UINT64_MAX, uint64_t
from libc.string cimport memset
from lb.net.poller cimport TICK_NS
from lb.shared.segment cimport Segment
from lb.proxy.exchange.retry cimport RetryPolicy
from lb.upstream.pool cimport Pool
from lb.proxy.exchange.budget cimport Counted, RetryBudget

cdef extern from *:
    int __builtin_clzll(unsigned long long x) nogil

cdef enum:
    FADE_NS = 10_000_000_000
    LOOK_NS = 50_000_000              # how old the delay in use may be,
    CAREFUL_LOOK_NS = 500_000_000     # where it is every route's
    CELLS_PER_OCTAVE = 8
    RARER = 10
    STEPS = 3                         # bits of a number below its highest that tell its cell
    WINDOW = 3                        # seconds before the present one whose requests count for a careful policy
    TRIED = 8                         # of so many late requests one has a hedge while few win

cdef double RECENT = 1.0 / 16         # weight of a new hedge in the share that won
cdef double WORTH = 0.15              # of the hedges have to win


cdef inline int cell_of(uint64_t latency) noexcept nogil:
    """Cells grow with what is in them, an eighth of an octave each: of 8 and more, by the highest bit and the three
    below it."""
    cdef int octave = 0
    if latency >= 2 * CELLS_PER_OCTAVE:
        octave = 63 - __builtin_clzll(latency) - STEPS
    return octave * CELLS_PER_OCTAVE + <int>(latency >> octave)


cdef inline uint64_t top_of(int cell) noexcept nogil:
    """The least latency that is above the cell."""
    if cell < 2 * CELLS_PER_OCTAVE:
        return <uint64_t>cell + 1
    return <uint64_t>(CELLS_PER_OCTAVE + cell % CELLS_PER_OCTAVE + 1) << (cell // CELLS_PER_OCTAVE - 1)


@cython.final
cdef class Latencies:

    def __cinit__(self):
        memset(self.cells, 0, sizeof(self.cells))

    cdef void add(self, uint64_t now, uint64_t latency) noexcept:
        if now >= self.fades_at:
            self.fade(now)
        self.cells[cell_of(latency)] += 1
        self.total += 1

    cdef void fade(self, uint64_t now) noexcept:
        cdef int i
        cdef uint64_t periods = 1 + (now - self.fades_at) // FADE_NS if self.fades_at else 0
        if periods > 31:
            periods = 31
        self.total = 0
        for i in range(LATENCY_CELLS):
            self.cells[i] >>= periods
            self.total += self.cells[i]
        self.fades_at = now + FADE_NS

    cdef uint64_t quantile(self, uint64_t share, uint64_t least) noexcept:
        cdef uint64_t wanted = self.total * share // 10_000, below = 0
        cdef int i
        if self.total < least:
            return 0
        for i in range(LATENCY_CELLS):
            below += self.cells[i]
            if below > wanted:
                return top_of(i)
        return 0


@cython.final
cdef class HedgePolicy:
    """The hedges of a plan (`HedgePlan`), with a budget by `words` of `segment`. Raises OSError when the timers of
    `tools` (HedgeTools) cannot ring."""

    def __init__(self, plan, Segment segment not None, Counted words not None, tools):
        self.per_mille = plan.per_mille
        self.least = plan.delay_ns
        self.soonest = self.least - min(self.least, <uint64_t>TICK_NS)
        self.samples = plan.samples
        self.careful = plan.careful
        self.gain = 1.0
        self.latencies = tools.learned(words.name, "latencies")
        self.silences = tools.learned(words.name, "silences")
        self.budget = RetryBudget(
            segment, words, plan.budget_percent, plan.budget_min, WINDOW if plan.careful else 1)
        self.timers = tools.timers
        self.timers.open()

    cdef uint64_t delay(self, uint64_t now) noexcept:
        if self.per_mille == 0:
            return self.least
        self.look(now)
        return max(self.known, self.least) if self.known else UINT64_MAX

    cdef void look(self, uint64_t now) noexcept:
        if now < self.look_at:
            return
        self.known = self.latencies.quantile(10 * self.per_mille, self.samples)
        self.look_at = now + (CAREFUL_LOOK_NS if self.careful and self.known else LOOK_NS)
        self.unseen = max(self.known, self.least)
        self.unseen -= min(self.unseen, <uint64_t>TICK_NS)
        self.patience = self.silences.quantile(10_000 - 10 * (1000 - self.per_mille) // RARER, self.samples)

    cdef void learn(self, uint64_t now, uint64_t latency) noexcept:
        if self.per_mille:
            self.latencies.add(now, latency)

    cdef void learn_given_up(self, uint64_t now, uint64_t latency) noexcept:
        # A hedge for a silence may come before the quantile: what counts is that nothing had come by then.
        self.learn(now, max(latency, self.known))

    cdef bint pays(self) noexcept:
        if not self.careful or self.gain >= WORTH:
            return True
        self.passed_over = (self.passed_over + 1) % TRIED
        return self.passed_over == 0

    cdef void ended(self, bint won) noexcept:
        self.gain += (won - self.gain) * RECENT

    cdef void learn_silence(self, uint64_t now, uint64_t silence) noexcept:
        if self.per_mille:
            self.silences.add(now, silence)


class HedgeTools:
    """What the routes of a worker need for retries, hedges, access and quotas: `timers` (Timers), and what is known of
    latencies and silences, by the route's or the pool's name: where hedges go on they outlive a reload. And what the
    routes of a pool share that say nothing of retries and hedges."""

    def __init__(self, timers):
        self.timers = timers
        self.known = WeakValueDictionary()
        self.shared = WeakKeyDictionary()     # Pool -> its RetryPolicy and HedgePolicy
        self.tables = {}                      # name -> text of the key, and lb.shared.stick_tables.StickTable
        self.maps = {}                        # name -> text of the key, and lb.proxy.routing.values.lookup.Lookup
        self.providers = {}                   # name -> lb.proxy.access.provider.Provider, for routes that are made now
        self.quotas = {}                      # name -> lb.proxy.routing.quota.Quota, the same

    def learned(self, of, what):
        found = self.known.get((of, what))
        if found is None:
            found = self.known[of, what] = Latencies()
        return found

    def of_pool(self, Pool pool not None, Segment segment not None):
        """The retries and hedges of routes that say nothing of them: (RetryPolicy, HedgePolicy)."""
        found = self.shared.get(pool)
        if found is None:
            found = self.shared[pool] = (
                RetryPolicy(safe_retries(pool.retries), segment, Counted(pool.budget_series, pool.name, False, True),
                            self.timers),
                HedgePolicy(SAFE_HEDGES, segment, Counted(pool.budget_series, pool.name, True, True), self),
            )
            pool.watch_endpoints()
        return found

    def close(self):
        self.timers.close()
