"""What requests of a pool cost: see cost.pxd; docs/adr/cost.md has the reasons.

    cost of a request = units * (its model's time for a unit / the pool's) / the mean of that over the pool's requests

The mean is taken over about a hundred requests, so that an average one costs 1 whatever the units are, and policies,
whose options and formulas count requests, go on making sense.

A model's time for a unit is learned from answers. Of the time that an endpoint took for one, its share in what was
there when it came is counted as its own: all of it when it was alone. The smaller the share, the less such a sample
says, and the less it moves the average.
"""

from libc.stdint cimport uint64_t
from libc.string cimport memcpy
from lb.shared.atomics cimport tg_load64, tg_load_double_relaxed, tg_store_double_relaxed
from lb.shared.costs cimport Costs
from lb.shared.segment cimport TG_COST_MOST, TG_COST_NAME, TG_COST_ONE, Segment, tg_cost

cdef dict UNITS = {"batch": UNIT_BATCH, "bytes": UNIT_BYTES}

cdef enum:
    KIB = 1024

cdef double SMOOTHING = 1.0 / 128
# A model takes this many times as long as the others at most.
cdef double MOST_RELATIVE = 1000.0
# A request counts for this many times the mean at most where the mean is taken.
cdef double MOST_WORK = 16.0


cdef class PoolCosts:
    """Of the pool `name`, by `plan` (CostPlan)."""

    def __init__(self, plan, str name not None, Segment segment not None):
        self.unit = UNITS[plan.unit]
        self.learns = plan.learn
        self.table = Costs(segment)
        self.name = name.encode()
        self.pool_key = self.table.key_of(<const char *>self.name, <size_t>len(self.name))
        self.prefix = <size_t>len(self.name) + 1
        if self.prefix < <size_t>TG_COST_NAME:
            memcpy(self.text, <const char *>self.name, <size_t>len(self.name))
            self.text[self.prefix - 1] = c"|"

    cdef double units_of_bytes(self, uint64_t size) noexcept:
        return 1.0 + <double>size / KIB       # a request without a body is work, too

    cdef uint64_t model_key(self, const char *model, size_t n) noexcept:
        if not self.learns or n == 0 or self.prefix + n >= <size_t>TG_COST_NAME:
            return 0
        memcpy(self.text + self.prefix, model, n)
        return self.table.key_of(self.text, self.prefix + n)

    cdef tg_cost *record(self, uint64_t now) noexcept:
        if self.pool == NULL or tg_load64(&self.pool.key) != self.pool_key:
            self.pool = self.table.take(self.pool_key, <const char *>self.name, <size_t>len(self.name), now)
        return self.pool

    cdef double relative(self, uint64_t key, uint64_t now) noexcept:
        cdef tg_cost *model = self.table.find(key, now)
        cdef double own, others
        if model == NULL:
            return 1.0
        own = self.table.unit_time(model)
        others = self.table.unit_time(self.pool)
        if own <= 0 or others <= 0:
            return 1.0
        return min(max(own / others, 1.0 / MOST_RELATIVE), MOST_RELATIVE)

    cdef int price(self, double units, uint64_t key, uint64_t now) noexcept:
        cdef tg_cost *pool = self.record(now)
        cdef double work = units, mean
        if pool == NULL:
            return TG_COST_ONE                # another worker is making it
        if key:
            work *= self.relative(key, now)
        mean = tg_load_double_relaxed(&pool.mean)
        # One that claims to be huge, and may be refused, must not make all others look small.
        mean = mean + (min(work, MOST_WORK * mean) - mean) * SMOOTHING if mean > 0 else work
        tg_store_double_relaxed(&pool.mean, mean)
        return <int>min(max(work / mean * TG_COST_ONE, 1.0), <double>TG_COST_MOST)

    cdef bint known(self, uint64_t key, uint64_t now) noexcept:
        return self.table.find(key, now) != NULL

    cdef void learn(self, uint64_t key, const char *model, size_t n, double units, uint64_t latency, int charged,
                    int load_at_start, uint64_t now) noexcept:
        cdef tg_cost *record
        cdef double share
        if key == 0 or latency == 0 or charged <= 0 or load_at_start < charged or units <= 0:
            return
        share = <double>charged / load_at_start
        record = self.record(now)
        if record != NULL:
            self.table.learn(record, <double>latency * share, units, share)
        if model == NULL:
            record = self.table.find(key, now)
        else:
            memcpy(self.text + self.prefix, model, n)     # which fits, or it would have no key
            record = self.table.take(key, self.text, self.prefix + n, now)
        if record != NULL:
            self.table.learn(record, <double>latency * share, units, share)

    # For tests: requests of a model by its name, costs as a multiple of the average.
