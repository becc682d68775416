"""Those who wait for an endpoint: see queue.pxd.

    join        refused at once when too many wait, or when its turn would come too late; else in line
    on_flush    at the end of a batch in which an endpoint had room again, a bell rang, or somebody came: as many as fit
    leave       its client left, or its time is over

A request that only one endpoint will do for (a sequence's) does not hold up those behind it, nor is it passed for ever:
it has a claim on its endpoint's next place (EndpointSet.claim).

The order is by priority, then by deadline (earliest deadline first), then by arrival. Without a deadline of its own a
request has that of the queue, which makes equal ones first come, first served, over all workers.

When its turn will come is predicted: so many before it, served at places / mean service time. A request that could not
be answered in time is refused now, while its client can still do something about it, and takes no endpoint's time from
others. That alone would keep a queue as long as deadlines allow for as long as the load stays too high, and serve
everybody at the last moment (bufferbloat; Nichols and Jacobson 2012, "Controlling queue delay"). So when somebody has
waited at every moment of `overload_after`, the queue is standing, not a burst: from then on a request may spend only a
share of the time that it has in the queue. As many are served as before, since endpoints stay busy, but each of them
sooner.
"""

from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport UINT64_MAX, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memmove
from lb.core.atomics cimport tg_store64_relaxed
from lb.core.poller cimport NEVER, Poller
from lb.core.segment cimport (
    TG_S_DURATION_SUM_NS, TG_S_FINISHED, TG_S_HISTOGRAM, TG_S_QUEUE_HEAD, TG_S_QUEUE_HOPELESS, TG_S_QUEUE_LEFT,
    TG_S_QUEUE_SHED, TG_S_REJECTED, TG_S_STARTED, TG_S_TIMEOUTS, tg_add, tg_bucket, tg_get,
)

cdef enum:
    PRIORITY_SHIFT = 60
    FIRST_ROOM = 64
    # A look without being asked: what a worker that hangs, a check or an operator changes rings no bell.
    LOOK_NS = 20_000_000
    SMOOTHING = 32                    # requests over which the mean service time is taken, roughly
    SECOND_NS = 1_000_000_000
    STALE = 4                         # service times without a word, after which the mean is as good as unknown

cdef uint64_t DUE_MASK = (<uint64_t>1 << PRIORITY_SHIFT) - 1


cdef class Waiter(Timed):

    cdef int take_endpoint(self, uint64_t now) noexcept:
        return TAKEN_NOBODY

    cdef void admitted(self, int endpoint) noexcept:
        pass

    cdef void turned_away(self, int why) noexcept:
        pass

    cdef void move_to(self, object pool) noexcept:
        pass


cdef class PoolQueue(Source):
    """The queue of the pool `name` in this worker; `bells` tells of the others. It outlives reloads: see `adopt`."""

    def __init__(self, Poller poller not None, Segment segment not None, Bells bells not None, str name):
        if segment.worker < 0:
            raise ValueError("only a worker has a queue; attach the segment with the worker's number")
        self.poller = poller
        self.segment = segment
        self.bells = bells
        self.name = name
        self.own = segment.worker
        self.workers = segment.header.workers

    def __dealloc__(self):
        free(self.line)

    def __len__(self):
        return self.count

    def adopt(self, pool, plan):
        """From now on it is the queue of `pool` (lb.upstream.pool.Pool) by `plan` (QueuePlan)."""
        self.series = plan.series
        self.words = self.segment.series(plan.series)
        self.most = plan.max
        self.timeout = plan.timeout_ns
        self.patience = plan.overload_after_ns
        self.share = plan.overload_share
        self.bells.wakes.add(self)
        self.release(pool)

    def release(self, pool):
        """Those who wait do so for `pool` now, to which nobody has to come by way of this queue."""
        cdef size_t i
        self.endpoints = pool.endpoints
        self.groups = pool.groups
        self.counted_at = 0
        for i in range(self.count):
            (<Waiter>self.line[self.first + i].waiter).move_to(pool)
        self.poller.mark(self)

    cdef int join(self, Waiter waiter, int priority, uint64_t due, uint64_t now) noexcept:
        cdef uint64_t until = min(due, now + self.timeout)
        cdef uint64_t key = <uint64_t>priority << PRIORITY_SHIFT | (until & DUE_MASK)
        cdef double service, wait, left
        cdef Waiter last
        if not self.somebody():
            self.busy_since = now
        if self.waiting_elsewhere() + self.count >= self.most:
            if not self.count or self.line[self.first + self.count - 1].key >> PRIORITY_SHIFT <= <uint64_t>priority:
                tg_add(&self.words[TG_S_REJECTED], 1)
                return Q_FULL
            last = <Waiter>self.line[self.first + self.count - 1].waiter
            tg_add(&self.words[TG_S_REJECTED], 1)
            self.over(last, now)
            last.turned_away(Q_FULL)
        service = self.service_time(now)
        if service > 0:
            wait = self.wait_of(key, now)
            # The deadline is for the answer, the queue's timeout for the wait alone.
            left = <double>(due - now) - service if now < due else 0.0
            if due == NEVER or left > <double>self.timeout:
                left = <double>self.timeout
            if wait > left:
                tg_add(&self.words[TG_S_QUEUE_HOPELESS], 1)
                return Q_HOPELESS
            if self.overloaded(now) and wait > max(service, self.share * left):
                tg_add(&self.words[TG_S_QUEUE_SHED], 1)
                return Q_SHED
        waiter.place = key
        waiter.number = self.numbers
        waiter.queued_at = now
        waiter.wanted_by = due
        if self.insert(waiter) < 0:
            tg_add(&self.words[TG_S_REJECTED], 1)
            return Q_FULL
        Py_INCREF(waiter)                     # `over` gives it back
        self.numbers += 1
        waiter.queue = self
        self.publish()
        tg_add(&self.words[TG_S_STARTED], 1)
        self.poller.mark(self)
        return Q_WAITS

    cdef void leave(self, Waiter waiter, bint timed_out) noexcept:
        if waiter.queue is not self:
            return
        tg_add(&self.words[TG_S_TIMEOUTS if timed_out else TG_S_QUEUE_LEFT], 1)
        self.over(waiter, self.poller.now)

    cdef uint64_t patience_of(self, Waiter waiter) noexcept:
        return waiter.queued_at + self.timeout

    cdef bint somebody(self) noexcept:
        return self.count > 0 or self.waiting_elsewhere() > 0

    cdef void released(self, uint64_t now, uint64_t latency) noexcept:
        if latency:
            self.learned_at = now
            if self.service == 0:
                self.service = <double>latency
            else:
                self.service += (<double>latency - self.service) / SMOOTHING
        if self.somebody():
            self.poller.mark(self)

    cdef unsigned long retry_after(self, uint64_t now) noexcept:
        cdef double wait = self.wait_of(UINT64_MAX, now) / SECOND_NS
        return <unsigned long>wait + 1 if wait < 3600 else 3600

    # Whose turn it is.

    cdef void on_flush(self) noexcept:
        cdef uint64_t now = self.poller.now
        cdef double service = self.service_time(now)
        cdef Waiter head
        cdef int endpoint, other
        cdef size_t at
        cdef bint impatient = self.impatient
        self.impatient = False
        if self.tied:
            self.serve_tied(now)
        while True:
            if not impatient:
                other = self.ahead_elsewhere()
                if other >= 0:
                    self.bells.ring(other)
                    break
            at = self.first_free()
            if at == self.count:
                break
            head = <Waiter>self.line[self.first + at].waiter
            if head.wanted_by != NEVER and now + <uint64_t>service > head.wanted_by:
                tg_add(&self.words[TG_S_TIMEOUTS if now >= head.wanted_by else TG_S_QUEUE_HOPELESS], 1)
                self.over(head, now)
                head.turned_away(Q_HOPELESS)
                continue
            endpoint = head.take_endpoint(now)
            if endpoint == TAKEN_FULL:
                break
            self.over(head, now)
            if endpoint >= 0:
                head.admitted(endpoint)
            else:
                head.turned_away(Q_NOBODY)
        if self.count:
            self.poller.arm(self, now + LOOK_NS)
        else:
            self.poller.disarm(self)

    cdef void serve_tied(self, uint64_t now) noexcept:
        cdef Waiter waiter
        cdef int endpoint
        cdef size_t at = 0
        while at < self.count:
            waiter = <Waiter>self.line[self.first + at].waiter
            if not waiter.tied:
                at += 1
                continue
            endpoint = waiter.take_endpoint(now)
            if endpoint == TAKEN_FULL:
                at += 1
                continue
            self.over(waiter, now)            # the next one stands at `at` now
            if endpoint >= 0:
                waiter.admitted(endpoint)
            else:
                waiter.turned_away(Q_NOBODY)

    cdef size_t first_free(self) noexcept:
        """The place in line of the first for whom any endpoint will do; `count` where there is none."""
        cdef size_t at = 0
        if self.tied:
            while at < self.count and (<Waiter>self.line[self.first + at].waiter).tied:
                at += 1
        return at

    cdef void on_timer(self) noexcept:
        # Whoever should have come first may hang: then it is not waited for.
        self.impatient = True
        self.poller.mark(self)

    cdef uint64_t waiting(self, int worker) noexcept:
        cdef uint64_t *words = self.segment.series_of(worker, <uint32_t>self.series)
        cdef uint64_t finished = tg_get(&words[TG_S_FINISHED])
        cdef uint64_t started = tg_get(&words[TG_S_STARTED])
        return started - finished if started > finished else 0

    cdef uint64_t waiting_elsewhere(self) noexcept:
        cdef uint64_t total = 0
        cdef int worker
        for worker in range(self.workers):
            if worker != self.own:
                total += self.waiting(worker)
        return total

    cdef int ahead_elsewhere(self) noexcept:
        """The worker whose first comes before ours; -1 when none does."""
        cdef size_t at = self.first_free()
        cdef uint64_t best = self.line[self.first + at].key if at < self.count else UINT64_MAX
        cdef uint64_t key
        cdef int worker, found = -1
        for worker in range(self.workers):
            if worker != self.own and self.waiting(worker):
                key = tg_get(&self.segment.series_of(worker, <uint32_t>self.series)[TG_S_QUEUE_HEAD])
                if key < best:
                    best, found = key, worker
        return found

    # When it will be.

    cdef double service_time(self, uint64_t now) noexcept:
        """Mean nanoseconds that a request keeps its endpoint; 0 when too little is known of late."""
        if now > self.learned_at + <uint64_t>(STALE * self.service) + SECOND_NS:
            return 0.0
        return self.service

    cdef uint64_t count_places(self, uint64_t now) noexcept:
        cdef int i
        if self.counted_at == 0 or now > self.counted_at + LOOK_NS:
            self.counted_at = now
            self.places = 0
            for i in range(self.endpoints.size):
                if self.groups is not None and not self.groups.active(self.endpoints.groups[i] // 2):
                    continue                  # while the levels before it only have no room, nobody is sent there
                if self.endpoints.standing_weight(i):
                    self.places += self.endpoints.limits[i]
        return self.places

    cdef double wait_of(self, uint64_t key, uint64_t now) noexcept:
        """Nanoseconds until it is the turn of one with this key; 0 when nothing is known of that."""
        cdef uint64_t places = self.count_places(now)
        cdef uint64_t elsewhere = self.waiting_elsewhere()
        cdef size_t before = self.rank(key, UINT64_MAX)
        cdef double ahead = <double>before
        if places == 0:
            return 0.0
        if elsewhere:
            # Of those who wait elsewhere, as many as here will be before it.
            if self.count:
                ahead += <double>elsewhere * <double>before / <double>self.count
            elif self.ahead_elsewhere() >= 0:
                ahead += <double>elsewhere
        return (ahead + 1) * self.service_time(now) / <double>places

    cdef bint overloaded(self, uint64_t now) noexcept:
        return now > self.busy_since + self.patience

    # The line: a sorted array. Its length is bounded, and moving some pointers is cheaper than any tree's step; the
    # first goes without moving anybody.

    cdef size_t rank(self, uint64_t key, uint64_t number) noexcept:
        """How many come before one with this key and number."""
        cdef size_t low = 0, high = self.count, middle
        cdef tg_waiter *line = self.line + self.first
        while low < high:
            middle = (low + high) // 2
            if line[middle].key < key or (line[middle].key == key and line[middle].number < number):
                low = middle + 1
            else:
                high = middle
        return low

    cdef int insert(self, Waiter waiter) noexcept:
        cdef size_t at, room
        cdef void *grown
        if self.first + self.count == self.room:
            if self.first:
                memmove(self.line, self.line + self.first, self.count * sizeof(tg_waiter))
                self.first = 0
            else:
                room = max(self.room * 2, <size_t>FIRST_ROOM)
                grown = realloc(self.line, room * sizeof(tg_waiter))
                if grown == NULL:
                    return -1
                self.line = <tg_waiter *>grown
                self.room = room
        at = self.rank(waiter.place, waiter.number)
        memmove(self.line + self.first + at + 1, self.line + self.first + at, (self.count - at) * sizeof(tg_waiter))
        self.line[self.first + at].key = waiter.place
        self.line[self.first + at].number = waiter.number
        self.line[self.first + at].waiter = <void *>waiter
        self.count += 1
        self.tied += waiter.tied
        return 0

    cdef void take_out(self, size_t at) noexcept:
        self.count -= 1
        if at == 0:
            self.first += 1
        else:
            memmove(self.line + self.first + at, self.line + self.first + at + 1,
                    (self.count - at) * sizeof(tg_waiter))
        if self.count == 0:
            self.first = 0

    cdef void over(self, Waiter waiter, uint64_t now) noexcept:
        """It waits no more."""
        cdef uint64_t waited = now - waiter.queued_at if now > waiter.queued_at else 0
        self.take_out(self.rank(waiter.place, waiter.number))
        self.tied -= waiter.tied
        waiter.queue = None
        tg_add(&self.words[TG_S_FINISHED], 1)
        tg_add(&self.words[TG_S_DURATION_SUM_NS], waited)
        tg_add(&self.words[TG_S_HISTOGRAM + tg_bucket(waited)], 1)
        self.publish()
        Py_DECREF(waiter)

    cdef void publish(self) noexcept:
        cdef size_t at
        if self.count:
            at = self.first_free()
            tg_store64_relaxed(&self.words[TG_S_QUEUE_HEAD],
                               self.line[self.first + at].key if at < self.count else UINT64_MAX)
