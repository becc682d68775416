"""The endpoints of a pool as one worker sees them, over their records in the shared segment (design.md section 4).

An EndpointSet keeps no state of its own: health, drain and weight are the master's words, in-flight counts are one
column per worker, and an average of latencies is written by all. So two workers, or the sets before and after a
reload, see the same thing at the same time.
"""

cimport cython
from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from lb.shared.atomics cimport (
    tg_fence_full,
    tg_load32,
    tg_load32_relaxed,
    tg_load64_relaxed,
    tg_load_double_relaxed,
    tg_load_i32_relaxed,
    tg_pause,
    tg_store32_relaxed,
    tg_store64_relaxed,
    tg_store_double_relaxed,
    tg_store_i32_relaxed,
)
from lb.shared.records cimport carries_on, ejection_state_of, lacks_model, set_weight_of, write_report
from lb.shared.segment cimport (
    TG_ADMIN_ENABLED,
    TG_ADMIN_MAINTENANCE,
    TG_COST_COLUMN,
    TG_COST_MOST,
    TG_COST_ONE,
    TG_COST_SHIFT,
    TG_HEALTH_UP,
    TG_SHARE_HELD,
    TG_SHARE_PANIC,
    TG_SHARE_WHOLE,
    TG_STATE_EJECTED,
    TG_STATE_PROBATION,
    Segment,
    tg_endpoint,
)
from lb.shared.recent_failures cimport failing_of, turns_of

cdef enum:
    TURNS = 4                         # attempts to take the last slot, against workers that do so at the same moment
    WORKER_MASK = 127                 # TG_MAX_WORKERS - 1
    HEAVIEST = 1_000_000              # a weight, so that it can be multiplied by a share


cdef inline int32_t *shifted(Segment segment, int32_t *inflight) noexcept nogil:
    """The word of what requests cost beside that of their number."""
    return <int32_t *> (<char *> inflight + (segment.header.outstanding_offset - segment.header.inflight_offset))


@cython.final
cdef class EndpointSet:
    """Endpoints `addresses`, whose records are at `slots` of `segment`; an index into both names an endpoint. `limits`
    are the most requests that each may have in flight, over all workers; 0 is no limit.

    Raises ValueError when they differ in length or the segment was attached without a worker's number, IndexError
    when a slot is outside the segment. The segment must stay open as long as the set is used. Methods for Python raise
    IndexError for an index out of range and ValueError once the segment is closed.
    """

    def __init__(
        self, Segment segment not None, addresses: Sequence[str], slots: Sequence[int],
        limits: Sequence[int] | None = None
    ):
        cdef int i
        if self.records is not NULL:
            raise RuntimeError("an EndpointSet is initialised once")
        if segment.worker < 0:
            raise ValueError("only a worker has an in-flight column; attach the segment with the worker's number")
        capacity = segment.endpoint_capacity
        slots = [int(slot) for slot in slots]
        if len(addresses) != len(slots):
            raise ValueError(f"{len(addresses)} addresses but {len(slots)} slots")
        limits = [0] * len(slots) if limits is None else [int(limit) for limit in limits]
        if len(limits) != len(slots):
            raise ValueError(f"{len(limits)} limits but {len(slots)} slots")
        for slot in slots:
            if not 0 <= slot < capacity:
                raise IndexError(f"endpoint slot {slot} is not in 0 to {capacity - 1}")
        self.segment = segment
        self.worker = segment.worker
        self.size = len(slots)
        self.columns = segment.header.workers + 1
        self.stride = segment.header.inflight_stride
        self.addresses = tuple(addresses)
        # One more than needed: calloc(0) may give NULL.
        self.records = <tg_endpoint **> calloc(len(slots) + 1, sizeof(tg_endpoint *))
        self.inflight_words = <int32_t **> calloc(len(slots) + 1, sizeof(int32_t *))
        self.own = <int32_t **> calloc(len(slots) + 1, sizeof(int32_t *))
        self.limits = <int32_t *> calloc(len(slots) + 1, sizeof(int32_t))
        if self.records is NULL or self.inflight_words is NULL or self.own is NULL or self.limits is NULL:
            raise MemoryError
        for i, slot in enumerate(slots):
            self.records[i] = segment.endpoint(slot)
            self.inflight_words[i] = segment.inflight_of(0, slot)
            self.own[i] = segment.inflight_word(slot)
            self.limits[i] = limits[i]
            self.limited |= limits[i] > 0
        self.load_words = self.inflight_words
        self.one = 1
        self.scale = 1.0
        self.unit = 1
        self.probes = 1

    def __dealloc__(self):
        free(self.records)
        if self.load_words != self.inflight_words:
            free(self.load_words)
        free(self.own_cost)
        free(self.inflight_words)
        free(self.own)
        free(self.limits)
        free(self.groups)

    cdef int check(self, int i) except -1:
        if not 0 <= i < self.size:
            raise IndexError(f"endpoint {i} is not in 0 to {self.size - 1}")
        if self.segment.base is NULL:
            raise ValueError("the shared segment is closed")
        return 0

    cpdef shape(self, bint whole, int probes):
        """From now on ejection state, shares and panic have a say in what the endpoints get
        (lb.endpoints.ejection_state).

        Effective weights are then in units of TG_SHARE_WHOLE. `whole`: an endpoint gets its weight or nothing, in units
        of 1, for policies that must not move keys as a share changes. `probes`: the most requests in flight at an
        endpoint on probation.
        """
        self.shaped = True
        self.unit = 1 if whole else TG_SHARE_WHOLE
        self.probes = probes

    def divide(self, groups: Sequence[int]) -> None:
        """From now on each endpoint of this shaped set is of the group that `groups` has at its place, so that a Choice
        may be among one group. Raises ValueError for another number of groups."""
        cdef int i
        if not self.shaped or self.groups is not NULL:
            raise RuntimeError("a set is divided once, after shape")
        if len(groups) != self.size:
            raise ValueError(f"{self.size} endpoints but {len(groups)} groups")
        self.groups = <short *> calloc(self.size + 1, sizeof(short))
        if self.groups is NULL:
            raise MemoryError
        for i, group in enumerate(groups):
            self.groups[i] = group

    cpdef weigh(self):
        """From now on the load is what requests cost, not how many there are: `take` is told the cost of one, and
        `release` what was added to the load for it."""
        cdef int i
        cdef int32_t **words
        if self.own_cost is not NULL:
            return
        words = <int32_t **> calloc(self.size + 1, sizeof(int32_t *))
        self.own_cost = <int32_t **> calloc(self.size + 1, sizeof(int32_t *))
        if words is NULL or self.own_cost is NULL:
            free(words)
            raise MemoryError
        for i in range(self.size):
            # Columns alike, a fixed way behind those of in-flight counts.
            words[i] = shifted(self.segment, self.inflight_words[i])
            self.own_cost[i] = shifted(self.segment, self.own[i])
        self.load_words = words
        self.one = TG_COST_ONE
        self.shift = TG_COST_SHIFT
        self.scale = 1.0 / <double> TG_COST_ONE

    def __len__(self) -> int:
        return self.size

    def __repr__(self):
        if self.segment is None or self.segment.base is NULL:
            return f"<EndpointSet of {self.size}, segment closed>"
        ready = sum(self.effective_weight(i) > 0 for i in range(self.size))
        return f"<EndpointSet worker={self.worker} available={ready} of {self.size}>"

    cpdef bint available(self, int i):
        """Whether the endpoint takes new requests: up, enabled, of a weight above 0, and below its limit. Of a certain
        request see Choice.available."""
        self.check(i)
        return self.effective_weight(i) > 0

    cpdef int inflight(self, int i):
        """Requests in flight at the endpoint, exactly: the sum over all workers."""
        self.check(i)
        return self.running(i)

    cpdef double load(self, int i):
        """What the endpoint has to do, over all workers: requests in flight, or in a pool with a `cost` what these
        cost, where an average request costs 1."""
        self.check(i)
        return self.outstanding(i) * self.scale

    cpdef int units(self, double cost) except -1:
        """A request's cost in units of `one`, where an average request costs 1.0; 1 where requests are not weighed.
        Raises ValueError for what no request can cost."""
        if not 0 < cost <= TG_COST_MOST // TG_COST_ONE:
            raise ValueError(f"a request cannot cost {cost}")
        return max(<int> (cost * self.one), 1) if self.own_cost is not NULL else 1

    def learn_limits(self) -> None:
        """From now on the limits that the pool's policy finds hold beside those configured."""
        self.learned = self.limited = True

    cpdef int limit(self, int i):
        """The most requests that the endpoint may have in flight, as configured or learned; 0 = no limit."""
        self.check(i)
        return self.limit_now(i)

    def takes_requests(self, i: int) -> bool:
        """Whether the endpoint takes new requests while it has none in flight; IndexError when `i` is out of range."""
        self.check(i)
        return self.state_weight(i) > 0

    def hindrance(self, i: int) -> str:
        """Why the endpoint does not go on serving those that it has, in words; "" when it does."""
        self.check(i)
        if self.keeps(i, 0):
            return ""
        if tg_load32(&self.records[i].admin) == TG_ADMIN_MAINTENANCE:
            return "in maintenance"
        return "down" if tg_load32(&self.records[i].health) != TG_HEALTH_UP else "ejected for its answers"

    cpdef double latency(self, int i):
        """The average latency in ns that the pool's policy keeps for the endpoint; 0: nothing is known."""
        self.check(i)
        return self.latency_ns(i)

    cpdef uint64_t latency_at(self, int i):
        """When that average was last written, in monotonic ns; 0: never."""
        self.check(i)
        return self.latency_updated(i)

    cpdef double failing(self, int i, uint64_t now):
        """The share of the endpoint's recent attempts that failed, 0 to 1, at `now` (monotonic ns): see
        lb.shared.recent_failures."""
        self.check(i)
        return failing_of(self.records[i], now)

    def turns(self, int i, uint64_t now) -> float:
        """The part of its turns that the endpoint takes at `now`, 0 to 1: less than 1 while recent attempts failed."""
        self.check(i)
        return turns_of(failing_of(self.records[i], now))

    # A plain load and store: the word has one writer, this worker's only thread that balances.

    cdef int acquire(self, int i, int cost) noexcept:
        tg_store_i32_relaxed(self.own[i], tg_load_i32_relaxed(self.own[i]) + 1)
        return self.charge(i, cost) if self.own_cost is not NULL else 0

    cdef int charge(self, int i, int cost) noexcept:
        """No worker has more than a column holds, so that no sum over the columns overflows."""
        cdef int32_t had = tg_load_i32_relaxed(self.own_cost[i])
        cdef int charged = min(cost, <int> TG_COST_COLUMN - had)
        tg_store_i32_relaxed(self.own_cost[i], had + charged)
        return charged

    cdef int take(self, int i, int cost, int probes, int stretch) noexcept:
        """Count one more in flight, unless the endpoint would then have more than its limit.

        Exact among workers without a lock: each adds itself, then looks at the sum. Of those that try at the same
        moment the last to add itself sees all the others, so that no more than fit go on; it may be that each sees the
        others and all step back, and so they try again, some a little later than others.
        """
        cdef int32_t limit = self.limit_of(i, stretch)
        cdef int turn, charged, _pause
        if self.shaped:
            limit = self.shaped_limit(i, limit, probes)
        if limit == 0:
            return self.acquire(i, cost)
        for turn in range(TURNS):
            charged = self.acquire(i, cost)
            tg_fence_full()
            if self.running(i) <= limit:
                return charged
            self.release(i, charged)
            if self.running(i) >= limit:
                return -1
            for _pause in range((self.worker + 1) << turn):
                tg_pause()
        return -1

    cdef void release(self, int i, int charged) noexcept:
        tg_store_i32_relaxed(self.own[i], tg_load_i32_relaxed(self.own[i]) - 1)
        if charged:
            tg_store_i32_relaxed(self.own_cost[i], tg_load_i32_relaxed(self.own_cost[i]) - charged)

    cdef uint64_t unready(self, int i) noexcept nogil:
        return tg_load64_relaxed(&self.records[i].models_unready)

    cdef bint enabled(self, int i) noexcept nogil:
        return tg_load32(&self.records[i].admin) == TG_ADMIN_ENABLED

    cdef int state_weight(self, int i) noexcept nogil:
        return self.state_weight_with(i, self.probes)

    cdef int shaped_weight(self, int i, int probes) noexcept nogil:
        cdef const tg_endpoint *record = self.records[i]
        cdef uint32_t ejection_state, held_back = tg_load32(&record.held_back)
        cdef uint32_t health = tg_load32(&record.health)
        cdef uint32_t weight, share
        if tg_load32(&record.admin) != TG_ADMIN_ENABLED:
            return 0
        share = TG_SHARE_WHOLE - min(held_back & TG_SHARE_HELD, <uint32_t> TG_SHARE_WHOLE)
        if not held_back & TG_SHARE_PANIC:
            if health != TG_HEALTH_UP:
                return 0
            ejection_state = ejection_state_of(record)
            if ejection_state and (ejection_state == TG_STATE_EJECTED or self.running(i) >= probes):
                return 0
        weight = min(tg_load32_relaxed(&record.weight), <uint32_t> HEAVIEST)
        if self.unit == 1:
            return <int> weight if share else 0
        return <int> (weight * share)

    cdef bint keeps(self, int i, uint64_t models) noexcept nogil:
        cdef const tg_endpoint *record = self.records[i]
        if not carries_on(record):
            return False
        if self.shaped and ejection_state_of(record) == TG_STATE_EJECTED:
            return False
        return not (models and lacks_model(record, models))

    cdef int32_t shaped_limit(self, int i, int32_t limit, int probes) noexcept nogil:
        cdef const tg_endpoint *record = self.records[i]
        if ejection_state_of(record) != TG_STATE_PROBATION or tg_load32_relaxed(&record.held_back) & TG_SHARE_PANIC:
            return limit
        return min(limit, probes) if limit else probes

    # The records, word by word.

    cpdef int weight(self, int i):
        """The endpoint's weight as the master last set it, whether or not it takes requests."""
        self.check(i)
        return set_weight_of(self.records[i])

    def record_latency(self, i: int, latency_ns: float, now: int) -> None:
        """`set_latency` for callers in Python; IndexError when `i` is out of range."""
        self.check(i)
        self.set_latency(i, latency_ns, now)

    # A claim ends by itself, so that a worker's death in its possession does no harm. Of several workers that claim the
    # same endpoint the last is told of its next slot, and the others find it taken or free a moment later.

    cdef void claim(self, int i, uint64_t until) noexcept nogil:
        tg_store64_relaxed(&self.records[i].claim, (until & ~<uint64_t> WORKER_MASK) | <uint64_t> self.worker)

    cdef void unclaim(self, int i) noexcept nogil:
        if tg_load64_relaxed(&self.records[i].claim):
            tg_store64_relaxed(&self.records[i].claim, 0)

    cdef int claimant(self, int i, uint64_t now) noexcept nogil:
        cdef uint64_t claim = tg_load64_relaxed(&self.records[i].claim)
        return <int> (claim & WORKER_MASK) if claim > now else -1

    cdef void set_progress(self, int i, uint64_t now) noexcept nogil:
        tg_store64_relaxed(&self.records[i].progress_ns, now)

    cdef void set_latency(self, int i, double latency_ns, uint64_t now) noexcept nogil:
        tg_store_double_relaxed(&self.records[i].latency_ewma_ns, latency_ns)
        tg_store64_relaxed(&self.records[i].latency_updated_ns, now)

    cdef void set_latency_samples(self, int i, int samples) noexcept nogil:
        tg_store32_relaxed(&self.records[i].latency_samples, <uint32_t> samples)

    cdef void set_load_word(self, int i, int at, uint64_t word) noexcept nogil:
        tg_store64_relaxed(&self.records[i].load_words[at], word)

    # A report is three words, see `write_report`.

    cdef double reported_utilization(self, int i) noexcept nogil:
        return tg_load_double_relaxed(&self.records[i].report_utilization)

    cdef double reported_qps(self, int i) noexcept nogil:
        return tg_load_double_relaxed(&self.records[i].report_qps)

    cdef double reported_eps(self, int i) noexcept nogil:
        return tg_load_double_relaxed(&self.records[i].report_eps)

    cdef uint64_t reported_at(self, int i) noexcept nogil:
        return tg_load64_relaxed(&self.records[i].report_updated_ns)

    cdef uint64_t reporting_since(self, int i) noexcept nogil:
        cdef uint64_t up = tg_load64_relaxed(&self.records[i].health_changed_ns)
        cdef uint64_t since = tg_load64_relaxed(&self.records[i].report_since_ns)
        return max(up, since)

    cdef void set_report(self, int i, double utilization, double qps, double eps, uint64_t now) noexcept nogil:
        write_report(self.records[i], utilization, qps, eps, now)

    cdef void forget_report(self, int i) noexcept nogil:
        """It is too old to count: the next one is the first again."""
        tg_store64_relaxed(&self.records[i].report_since_ns, 0)
