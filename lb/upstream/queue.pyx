"""Those who wait for an endpoint: see queue.pxd.

    join        refused at once when too many wait, or when its turn would come too late; else in line
    on_flush    at the end of a batch in which an endpoint had room again, a wakeup came, or somebody came: as many as
    fit leave       its client left, or its time is over

A request that only one endpoint will do for (a sequence's) does not hold up those behind it, nor is it passed for ever:
it has a claim on its endpoint's next place (EndpointSet.claim).

The order is by priority, then by deadline (earliest deadline first), then by arrival. A request without a deadline of
its own stands where its wait will be over, the queue's timeout after it came: before deadlines beyond that, and first
come, first served among its like, over all workers. That the timeout ends every wait is no matter of the order: a
deadline beyond it is no earlier for that.

When its turn will come is predicted (lb.upstream.queue). A request that could not be answered in time is refused
now, while its client can still do something about it, and takes no endpoint's time from others. That alone would keep a
queue as long as deadlines allow for as long as the load stays too high, and serve everybody at the last moment
(bufferbloat; Nichols and Jacobson 2012, "Controlling queue delay"). So when somebody has waited at every moment of
`overload_after`, the queue is a standing one, not a burst: from then on a request may spend only a share of the time
that it has in the queue. As many are served as before, since endpoints stay busy, but each of them sooner.

Who waits for a model that is not ready everywhere holds up nobody who can go elsewhere. Each may take an endpoint that
none of those in front could use: so the first of each model stands at the head of a queue of its own, and gets the
first place that fits.

A request that is tried again waits for another endpoint than the one that has failed, even if that has room: one that
refuses all has, always, and would get every retry. But nobody holds up others for long for that.

A pool whose endpoints the master starts may be at zero: no endpoint takes requests, since none runs, at the start of
the daemon or because the last one has died. All that come wait for one in the same line; in a pool on demand the first
of them has the master start it. One whose deadline comes before an endpoint can be ready, going by
the starts so far, is refused at once, and has one started all the same: its client comes again. Retries wait, too, but
start nothing. A start that fails, or has no place, ends the wait of all; one that is put off, of those for whom it
comes too late then.
"""

import logging

from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.math cimport sqrt
from libc.stdint cimport UINT64_MAX, uint32_t, uint64_t
from lb.shared.atomics cimport tg_store64_relaxed
from lb.balancing.load_curve cimport curve_each
from lb.net.poller cimport NEVER, Poller
from lb.shared.counters cimport count_duration
from lb.shared.segment cimport tg_add, tg_get
from lb.shared.segment_words cimport (
    QUEUE_BUSY_SINCE, QUEUE_ENDED_FULL, QUEUE_ENDED_LATE, QUEUE_ENDED_LEFT, QUEUE_ENDED_SHED, QUEUE_ENDED_TIMEOUT,
    QUEUE_FIRSTS, QUEUE_FIRSTS_COUNT, QUEUE_HEAD, QUEUE_LEFT, QUEUE_MARKS, QUEUE_MARKS_COUNT, QUEUE_WAIT,
    SERIES_FINISHED, SERIES_STARTED,
)
from lb.upstream.patience cimport Patience
from lb.upstream.waiting_line cimport line_free, line_insert, line_rank, line_take_out, line_tally, entry_at, tg_entry
from lb.upstream.load.service_time cimport ServiceTime, Warmth


log = logging.getLogger("tidegate.proxy")


cdef enum:
    PRIORITY_SHIFT = 60
    # A look without being asked: what a worker that hangs, a check or an operator changes sends no wakeup.
    LOOK_NS = 20_000_000
    LONGEST_NS = 3_600_000_000_000
    TRIED = 16                        # of those who would leave before their turn, one waits: do clients still leave?
    SPARED = 2                        # service times for which the first goes without, rather than where it has failed
    WAKE_NS = 50_000_000              # between two words to the master that requests wait for an endpoint


cdef dict REFUSED = {Q_FULL: "queue-full", Q_HOPELESS: "queue-late", Q_SHED: "queue-shed"}
cdef uint64_t DUE_MASK = (<uint64_t>1 << PRIORITY_SHIFT) - 1


cdef class Waiter(Timed):

    cdef int take_endpoint(self, uint64_t now, uint64_t blocked) noexcept:
        return TAKEN_NOBODY

    cdef int take_endpoint_now(self, uint64_t now) noexcept:
        return TAKEN_NOBODY

    cdef void queued(self, uint64_t until) noexcept:
        pass

    cdef void admitted(self, int endpoint) noexcept:
        pass

    cdef void turned_away(self, int why) noexcept:
        pass

    cdef void settle(self) noexcept:
        pass

    cdef void move_to(self, object pool) noexcept:
        pass

    cdef void endpoint_marked(self, object attempt) noexcept:
        pass


cdef int stand_in_line(PoolQueue queue, Waiter waiter, int found, int priority, uint64_t due, bint failed,
                       uint64_t now) noexcept:
    cdef int verdict = Q_NOBODY
    if queue is not None and queue.at_zero() and not waiter.endpoint_bound:
        verdict = queue.hold(waiter, priority, due, not failed, now)
    elif found == TAKEN_FULL:
        verdict = Q_FULL if queue is None else queue.join(waiter, priority, due, now)
        if verdict != Q_WAITS and failed:
            waiter.settle()                   # where it has failed rather than nowhere
            found = waiter.take_endpoint_now(now)
            if found >= 0:
                return found
    if verdict == Q_WAITS:
        waiter.queued(min(due, queue.patience_of(waiter)))
        return -1
    if queue is not None:
        queue.count_refused(verdict)
    waiter.turned_away(verdict)
    return -1


cdef uint64_t key_of(PoolQueue queue, int priority, uint64_t due, uint64_t now) noexcept:
    cdef uint64_t stands = due if due != NEVER else now + queue.timeout
    return <uint64_t>priority << PRIORITY_SHIFT | min(stands, DUE_MASK)


cdef int prospect(PoolQueue queue, uint64_t key, uint64_t due, uint64_t wanted, uint64_t now) noexcept:
    """Whether a request with this key would be answered in time if it waited: Q_WAITS, Q_HOPELESS or Q_SHED."""
    cdef double service = service_of(queue, now), wait, left
    cdef double start = <double>queue.start_left(now)
    cdef uint64_t patience
    if service <= 0 and start <= 0:
        return Q_WAITS
    wait = start + wait_of(queue, key, wanted, now)
    # The deadline is for the answer, the queue's timeout for the wait alone.
    left = <double>(due - now) - service if now < due else 0.0
    if due == NEVER or left > <double>queue.timeout:
        left = <double>queue.timeout
    if wait > left:
        return Q_HOPELESS
    if due == NEVER:
        patience = queue.clients.known(now)
        if patience and wait > <double>patience:
            return Q_HOPELESS
    if start <= 0 and queue.somebody() and overloaded(queue, now) and wait > max(service, queue.share * left):
        return Q_SHED
    return Q_WAITS


cdef class PoolQueue(Source):
    """The queue of the pool `name` in this worker; `wakeups` tells of the others. It outlives reloads: see `adopt`."""

    def __init__(self, Poller poller not None, Segment segment not None, Wakeups wakeups not None, str name):
        if segment.worker < 0:
            raise ValueError("only a worker has a queue; attach the segment with the worker's number")
        self.poller = poller
        self.segment = segment
        self.wakeups = wakeups
        self.name = name
        self.own = segment.worker
        self.workers = segment.header.workers
        self.service = ServiceTime()
        self.warmths = {}

    def __dealloc__(self):
        line_free(&self.line)

    def __len__(self):
        return self.line.count

    def adopt(self, pool, plan):
        """From now on it is the queue of `pool` (lb.upstream.pool.Pool) by `plan` (QueuePlan)."""
        if self.clients is None or self.series != plan.series:
            self.clients = Patience(self.segment, plan.series)
        self.series = plan.series
        self.words = self.segment.series(plan.series)
        self.most = plan.max
        self.tolerated = max(self.most, self.waiting_elsewhere() + self.line.count)
        self.timeout = plan.timeout_ns
        self.patience = plan.overload_after_ns
        self.share = plan.overload_share
        self.wakeups.wakes.add(self)
        self.release(pool)
        self.warmths = {address: self.warmths[address] for address in pool.endpoints.addresses}

    def warmths_of(self, addresses):
        """The Warmth of each of these endpoints, which reloads leave alone."""
        return tuple(self.warmths.setdefault(address, Warmth()) for address in addresses)

    def release(self, pool):
        """Those who wait do so for `pool` now, to which nobody has to come by way of this queue."""
        cdef size_t i
        cdef Waiter waiter
        self.endpoints = pool.endpoints
        self.groups = pool.groups
        self.awaits_start = pool.awaits_start
        self.counted_at = 0
        for i in range(self.line.count):
            waiter = <Waiter>entry_at(&self.line, i).waiter
            line_tally(&self.line, waiter.endpoint_bound, waiter.wanted, -1)
            waiter.move_to(pool)
            entry_at(&self.line, i).wanted = 0 if waiter.endpoint_bound else waiter.wanted
            line_tally(&self.line, waiter.endpoint_bound, waiter.wanted, 1)
        publish_line(self)
        self.poller.mark(self)

    cdef int join(self, Waiter waiter, int priority, uint64_t due, uint64_t now) noexcept:
        cdef uint64_t key = key_of(self, priority, due, now)
        cdef int found
        if not self.somebody():
            tg_store64_relaxed(&self.words[QUEUE_BUSY_SINCE], now)
        if self.waiting_elsewhere() + self.line.count >= self.most and not self.make_room(priority):
            return Q_FULL
        self.endpoints.pressed_ns = now       # limits that are learned depend on it
        found = prospect(self, key, due, waiter.wanted, now)
        if found == Q_HOPELESS and due == NEVER:
            found = self.try_out(key, waiter.wanted, now)
        if found != Q_WAITS:
            return found
        waiter.order = key
        waiter.number = self.numbers
        waiter.queued_at = now
        waiter.wanted_by = due
        if line_insert(&self.line, key, waiter.number, waiter.endpoint_bound, waiter.wanted, <void *>waiter) < 0:
            return Q_FULL
        Py_INCREF(waiter)                     # `over` gives it back
        self.numbers += 1
        waiter.queue = self
        publish_line(self)
        tg_add(&self.words[SERIES_STARTED], 1)
        self.poller.mark(self)
        return Q_WAITS

    cdef int try_out(self, uint64_t key, uint64_t wanted, uint64_t now) noexcept:
        """A client that would leave before its turn waits all the same, where it is one of few: do clients still
        leave?"""
        self.tried = (self.tried + 1) % TRIED
        if self.tried or <double>self.start_left(now) + wait_of(self, key, wanted, now) > <double>self.timeout:
            return Q_HOPELESS
        return Q_WAITS

    cdef void count_refused(self, int verdict) noexcept:
        if verdict == Q_FULL:
            tg_add(&self.words[QUEUE_ENDED_FULL], 1)
        elif verdict == Q_HOPELESS:
            tg_add(&self.words[QUEUE_ENDED_LATE], 1)
        elif verdict == Q_SHED:
            tg_add(&self.words[QUEUE_ENDED_SHED], 1)

    cdef void leave(self, Waiter waiter, bint timed_out) noexcept:
        if waiter.queue is not self:
            return
        tg_add(&self.words[QUEUE_ENDED_TIMEOUT if timed_out else QUEUE_ENDED_LEFT], 1)
        if not timed_out:
            count_duration(
                &self.words[QUEUE_LEFT], self.poller.now - min(self.poller.now, waiter.queued_at))
        self.over(waiter, self.poller.now)

    cdef uint64_t patience_of(self, Waiter waiter) noexcept:
        return waiter.queued_at + self.timeout

    cdef bint somebody(self) noexcept:
        return self.line.count > 0 or self.waiting_elsewhere() > 0

    cdef void released(self) noexcept:
        if self.somebody():
            self.poller.mark(self)

    cdef uint64_t turn_after(self, uint64_t now) noexcept:
        cdef double after = <double>self.start_left(now) + wait_of(self, UINT64_MAX, 0, now)
        if after <= 0 and self.trouble is not None and self.at_zero():
            after = <double>AGAIN_NS
        return <uint64_t>min(after, <double>LONGEST_NS)

    # Those who wait for the start of an endpoint.

    cdef bint at_zero(self) noexcept:
        cdef int i
        if not self.awaits_start:
            return False
        for i in range(self.endpoints.size):
            if self.endpoints.state_weight(i) > 0:
                return False
        return True

    cdef int hold(self, Waiter waiter, int priority, uint64_t due, bint wakes, uint64_t now) noexcept:
        if wakes:
            self.ask_to_wake(now)
        if self.trouble is not None and not self.passing:
            return Q_NO_START
        return self.join(waiter, priority, due, now)

    cdef uint64_t start_left(self, uint64_t now) noexcept:
        if not self.at_zero():
            return 0
        if self.ready_at == 0:
            return self.start_takes
        return self.ready_at - now if now < self.ready_at else 0

    cdef void ask_to_wake(self, uint64_t now) noexcept:
        if self.wake is None or now < self.woken_at + WAKE_NS:
            return
        self.woken_at = now
        try:
            self.wake(self.name)
        except Exception:
            log.exception("pool %s: the master was not told that a request waits", self.name)

    def tell_start(self, start):
        """What the master knows of the start of an endpoint (lb.upstream.start.Start). Where that has trouble, those
        who wait at zero are refused, and where it takes longer than was known, those for whom that is too long."""
        self.ready_at = start.ready_at
        self.start_takes = start.takes
        self.trouble = start.trouble or None
        self.passing = not start.lasts
        self.refusing = self.line.count > 0
        if self.refusing:
            self.poller.mark(self)
        elif self.passing:
            self.trouble = None

    cdef void refuse_at_zero(self, uint64_t now) noexcept:
        """Those who wait for the start in vain: all where it has trouble, else those who have to be answered, or may
        wait no longer, before an endpoint can be ready. Not those who wait for an endpoint of their own."""
        cdef uint64_t service = <uint64_t>service_of(self, now)
        cdef Waiter waiter
        cdef size_t at = 0
        while at < self.line.count:
            waiter = <Waiter>entry_at(&self.line, at).waiter
            if waiter.endpoint_bound or self.trouble is None and self.ready_at <= self.patience_of(waiter) and (
                    waiter.wanted_by == NEVER or self.ready_at + service <= waiter.wanted_by):
                at += 1
                continue
            self.over(waiter, now)            # the next one stands at `at` now
            if self.trouble is None:
                tg_add(&self.words[QUEUE_ENDED_LATE], 1)
            waiter.turned_away(Q_HOPELESS if self.trouble is None else Q_NO_START)

    # Who gives up its place for one of a higher priority.

    cdef bint make_room(self, int priority) noexcept:
        """Whether one of this priority may join a line that is full, as one of a lower priority leaves it. That may be
        a moment later, when the worker that has it gets the wakeup: until then one too many waits."""
        cdef int worker = last_of_all(self)
        cdef uint64_t last = last_of(self, worker) >> PRIORITY_SHIFT
        if last <= <uint64_t>priority or self.most == 0:
            return False
        if last_of(self, self.own) >> PRIORITY_SHIFT == last:
            self.turn_away_last(self.poller.now)
            return True
        if self.waiting_elsewhere() + self.line.count >= self.most + self.waiting(worker):
            return False                      # it does not listen
        self.wakeups.ring(worker)
        return True

    cdef void turn_away_last(self, uint64_t now) noexcept:
        cdef Waiter last = <Waiter>entry_at(&self.line, self.line.count - 1).waiter
        tg_add(&self.words[QUEUE_ENDED_FULL], 1)
        self.over(last, now)
        last.turned_away(Q_FULL)

    # Whose turn it is.

    cdef void on_flush(self) noexcept:
        cdef uint64_t now = self.poller.now
        cdef bint impatient = self.impatient
        self.impatient = False
        self.tolerated = max(self.most, min(self.tolerated, self.waiting_elsewhere() + self.line.count))
        while (self.waiting_elsewhere() + self.line.count > self.tolerated and self.line.count
               and last_of_all(self) == self.own):
            self.turn_away_last(now)          # for one of a higher priority, in another worker
        if self.line.endpoint_bound:
            self.serve_endpoint_bound(now)
        if self.refusing:
            self.refusing = False
            if self.at_zero():
                self.refuse_at_zero(now)
            if self.passing:
                self.trouble = None
        while not self.at_zero() and self.serve_one(now, impatient):
            pass
        if self.line.count:
            self.poller.arm(self, now + LOOK_NS)
        else:
            self.poller.disarm(self)

    cdef bint serve_one(self, uint64_t now, bint impatient) noexcept:
        """The first for whom there is a place, or who waits in vain, leaves the line. False: nobody does."""
        cdef uint64_t service = <uint64_t>service_of(self, now)
        cdef uint64_t avoided = 0
        cdef Waiter waiter
        cdef int endpoint
        cdef size_t at
        for at in range(min(self.line.count, <size_t>LOOK_AHEAD)):
            if entry_at(&self.line, at).wanted & avoided:
                continue                      # another who wants the same model stands in front
            waiter = <Waiter>entry_at(&self.line, at).waiter
            if waiter.endpoint_bound:
                continue
            if not impatient:
                avoided = blocked_before(self, waiter.order, avoided)
                if avoided == ALL_MODELS_BLOCKED:
                    return False
                if waiter.wanted & avoided:
                    continue
            if waiter.wanted_by != NEVER and now + service > waiter.wanted_by:
                tg_add(&self.words[QUEUE_ENDED_TIMEOUT if now >= waiter.wanted_by else QUEUE_ENDED_LATE], 1)
                self.over(waiter, now)
                waiter.turned_away(Q_HOPELESS)
                return True
            endpoint = waiter.take_endpoint(now, avoided)
            if endpoint != TAKEN_FULL:
                self.over(waiter, now)
                if endpoint >= 0:
                    waiter.admitted(endpoint)
                else:
                    waiter.turned_away(Q_NOBODY)
                return True
            self.settle_in_time(waiter, service, now)
            if not waiter.wanted:
                return False                  # what will not do for one who takes any will do for nobody behind
            avoided |= waiter.wanted
            if (avoided & self.line.models == self.line.models
                    and self.line.model_specific + self.line.endpoint_bound == self.line.count):
                break                         # the first of every model has had a look
        blocked_before(self, UINT64_MAX, avoided)
        return False

    cdef void settle_in_time(self, Waiter waiter, uint64_t service, uint64_t now) noexcept:
        """The first has found nothing: for a while it may be because it wants another endpoint than the one that has
        failed. Those who want a model do not hold up all others: theirs is a while from when they came."""
        if not waiter.wanted and self.heading != waiter.number + 1:
            self.heading = waiter.number + 1
            self.heading_since = now
        if now > (waiter.queued_at if waiter.wanted else self.heading_since) + SPARED * service + LOOK_NS:
            waiter.settle()

    cdef void serve_endpoint_bound(self, uint64_t now) noexcept:
        cdef Waiter waiter
        cdef int endpoint
        cdef size_t at = 0
        while at < self.line.count:
            waiter = <Waiter>entry_at(&self.line, at).waiter
            if not waiter.endpoint_bound:
                at += 1
                continue
            endpoint = waiter.take_endpoint(now, 0)
            if endpoint == TAKEN_FULL:
                at += 1
                continue
            self.over(waiter, now)            # the next one stands at `at` now
            if endpoint >= 0:
                waiter.admitted(endpoint)
            else:
                waiter.turned_away(Q_NOBODY)

    cdef void on_timer(self) noexcept:
        # Whoever should have come first may hang: then it is not waited for.
        self.impatient = True
        self.poller.mark(self)

    cdef uint64_t waiting(self, int worker) noexcept:
        cdef uint64_t *words = self.segment.series_of(worker, <uint32_t>self.series)
        cdef uint64_t finished = tg_get(&words[SERIES_FINISHED])
        cdef uint64_t started = tg_get(&words[SERIES_STARTED])
        return started - finished if started > finished else 0

    cdef uint64_t waiting_elsewhere(self) noexcept:
        cdef uint64_t total = 0
        cdef int worker
        for worker in range(self.workers):
            if worker != self.own:
                total += self.waiting(worker)
        return total

    cdef uint64_t blocked_here(self) noexcept:
        if self.line.count > self.line.endpoint_bound + self.line.model_specific:
            return ALL_MODELS_BLOCKED
        return self.line.models

    cdef uint64_t blocked_models(self) noexcept:
        cdef uint64_t found = self.blocked_here()
        cdef int worker
        for worker in range(self.workers):
            if worker != self.own and self.waiting(worker):
                found |= blocked_by(self, worker, UINT64_MAX)
        return found

    def outlook(self, int priority, uint64_t due, uint64_t wanted, uint64_t now):
        """For a request that would come at `now`, as for `join`: how many wait, in all workers, how many of them would
        be before it (of other workers' roughly), for how many nanoseconds it would wait (0: nothing is known of that),
        whether the queue is overloaded, and why it would be refused at once ("": it would not)."""
        cdef uint64_t key = key_of(self, priority, due, now)
        cdef uint64_t rivals = UINT64_MAX
        cdef uint64_t waiting = self.waiting_elsewhere() + self.line.count
        cdef int found = prospect(self, key, due, wanted, now)
        if wanted:
            slots_of(self, wanted, &rivals)
        if waiting >= self.most and last_of(self, last_of_all(self)) >> PRIORITY_SHIFT <= <uint64_t>priority:
            found = Q_FULL
        return {
            "waiting": waiting,
            "before": round(ahead_of(self, key, rivals)),
            "wait_ns": self.start_left(now) + wait_of(self, key, wanted, now),
            "overloaded": self.somebody() and overloaded(self, now),
            "at_zero": self.at_zero(),
            "refused": REFUSED.get(found, ""),
        }

    cdef void over(self, Waiter waiter, uint64_t now) noexcept:
        """It waits no more."""
        cdef uint64_t waited = now - waiter.queued_at if now > waiter.queued_at else 0
        line_take_out(&self.line, line_rank(&self.line, waiter.order, waiter.number))
        line_tally(&self.line, waiter.endpoint_bound, waiter.wanted, -1)
        waiter.queue = None
        tg_add(&self.words[SERIES_FINISHED], 1)
        count_duration(&self.words[QUEUE_WAIT], waited)
        publish_line(self)
        Py_DECREF(waiter)


cdef enum:
    MODEL_BITS = 6                    # of a word in the segment that says where the first for a model stands


cdef extern from *:
    int __builtin_ctzll(unsigned long long x) nogil


cdef uint64_t MODEL_MASK = (<uint64_t>1 << MODEL_BITS) - 1


cdef uint64_t last_of(PoolQueue queue, int worker) noexcept:
    if worker == queue.own:
        return entry_at(&queue.line, queue.line.count - 1).key if queue.line.count else 0
    if not queue.waiting(worker):
        return 0
    return tg_get(&queue.segment.series_of(worker, <uint32_t>queue.series)[QUEUE_MARKS + QUEUE_MARKS_COUNT - 1])


cdef int last_of_all(PoolQueue queue) noexcept:
    cdef int worker, found = 0
    for worker in range(1, queue.workers):
        if last_of(queue, worker) > last_of(queue, found):
            found = worker
    return found


cdef uint64_t blocked_by(PoolQueue queue, int worker, uint64_t key) noexcept:
    cdef uint64_t *words = queue.segment.series_of(worker, <uint32_t>queue.series)
    cdef uint64_t found = 0, first
    cdef int i
    if tg_get(&words[QUEUE_HEAD]) < key:
        return ALL_MODELS_BLOCKED
    for i in range(<int>QUEUE_FIRSTS_COUNT):
        first = tg_get(&words[QUEUE_FIRSTS + i])
        if first == 0:
            break
        if first >> MODEL_BITS < key >> MODEL_BITS:
            found |= <uint64_t>1 << (first & MODEL_MASK)
    return found


cdef uint64_t blocked_before(PoolQueue queue, uint64_t key, uint64_t avoided) noexcept:
    cdef uint64_t blocked_models, head, best = key
    cdef int worker, first = -1
    for worker in range(queue.workers):
        if worker != queue.own and queue.waiting(worker):
            head = tg_get(&queue.segment.series_of(worker, <uint32_t>queue.series)[QUEUE_HEAD])
            if head < best:
                best, first = head, worker
    if first >= 0:
        queue.wakeups.ring(first)
        return ALL_MODELS_BLOCKED
    for worker in range(queue.workers):
        if worker != queue.own and queue.waiting(worker):
            blocked_models = blocked_by(queue, worker, key)
            if blocked_models & ~avoided:
                avoided |= blocked_models
                queue.wakeups.ring(worker)
    return avoided


cdef void publish_line(PoolQueue queue) noexcept:
    cdef uint64_t *firsts = &queue.words[QUEUE_FIRSTS]
    cdef uint64_t anybody = UINT64_MAX, told = 0
    cdef int count = 0
    cdef tg_entry *one
    cdef size_t at
    if queue.line.count == 0:
        return
    for at in range(min(queue.line.count, <size_t>LOOK_AHEAD)):
        if told == queue.line.models and queue.line.model_specific + queue.line.endpoint_bound == queue.line.count:
            break
        one = entry_at(&queue.line, at)
        if one.wanted & told:
            continue
        if one.wanted and count < <int>QUEUE_FIRSTS_COUNT:
            tg_store64_relaxed(&firsts[count], one.key & ~MODEL_MASK | <uint64_t>__builtin_ctzll(one.wanted))
            told |= one.wanted
            count += 1
        elif one.wanted or not (<Waiter>one.waiter).endpoint_bound:
            anybody = one.key             # or one model too many to be told apart
            break
    if count < <int>QUEUE_FIRSTS_COUNT:
        tg_store64_relaxed(&firsts[count], 0)
    tg_store64_relaxed(&queue.words[QUEUE_HEAD], anybody)
    publish_marks(queue)


# When the turn of those who wait will come.
#
# So many before it, served at slots / mean service time (lb.upstream.load.service_time).

cdef enum:
    COUNT_NS = 20_000_000             # for how long a count of slots is good

# Where in its line a worker publishes who stands there, beside its last one. Dense at the front, far apart behind, so
# that what others make of it is right to the same factor everywhere.
cdef size_t[QUEUE_MARKS_COUNT - 1] MARKS = [0, 4, 16, 64, 256]


cdef uint64_t count_slots(PoolQueue queue, uint64_t now) noexcept:
    cdef int i, limit
    cdef double each
    if queue.counted_at == 0 or now > queue.counted_at + COUNT_NS:
        queue.counted_at = now
        queue.slots = 0
        queue.rate = 0.0
        for i in range(queue.endpoints.size):
            if queue.groups is not None and not queue.groups.active(queue.endpoints.groups[i] // 2):
                continue                  # while the levels before it only have no room, nobody is sent there
            if queue.endpoints.state_weight(i):
                limit = queue.endpoints.limit_now(i)
                if limit == 0:
                    queue.slots = 0           # nobody waits for long where one takes any number
                    return 0
                queue.slots += limit
                if queue.endpoints.learned:
                    each = curve_each(queue.endpoints.records[i], limit)
                    queue.rate += 1.0 / each if each > 0 else 0.0
    return queue.slots


cdef double service_of(PoolQueue queue, uint64_t now) noexcept:
    """The time in ns that a request takes at its endpoint, 0 = not known. Where limits are learned it follows from what
    the endpoints do at their limits (Little's law): that holds as soon as a limit has changed."""
    if not queue.endpoints.learned:
        return queue.service.known(now)
    if count_slots(queue, now) and queue.rate > 0:
        return <double>queue.slots / queue.rate
    return 0.0


cdef uint64_t slots_of(PoolQueue queue, uint64_t wanted, uint64_t *rivals) noexcept:
    cdef uint64_t slots = 0, unready
    cdef bint free = False
    cdef int i
    rivals[0] = 0
    for i in range(queue.endpoints.size):
        unready = queue.endpoints.unready(i)
        if not unready & wanted and queue.endpoints.state_weight(i):
            if queue.endpoints.limit_now(i) == 0:
                free = True
            slots += queue.endpoints.limit_now(i)
            rivals[0] |= ~unready
    return 0 if free else slots               # nobody waits for long where one takes any number


cdef size_t rivals_before(PoolQueue queue, uint64_t key, uint64_t rivals) noexcept:
    """The same of those who wait in this worker."""
    cdef size_t count = 0, at
    cdef size_t before = line_rank(&queue.line, key, UINT64_MAX)
    if not queue.line.models & ~rivals:
        return before
    for at in range(before):
        if not entry_at(&queue.line, at).wanted or entry_at(&queue.line, at).wanted & rivals:
            count += 1
    return count


cdef double ahead_of(PoolQueue queue, uint64_t key, uint64_t rivals) noexcept:
    cdef size_t before = rivals_before(queue, key, rivals), here
    cdef double there = 0.0
    cdef int worker
    for worker in range(queue.workers):
        if worker != queue.own and queue.waiting(worker) and blocked_by(queue, worker, key) & rivals:
            there += before_in(queue, worker, key)
    here = line_rank(&queue.line, key, UINT64_MAX)
    if here:
        there *= <double>before / <double>here      # as many of them as here want what it wants
    return <double>before + there


cdef double before_in(PoolQueue queue, int worker, uint64_t key) noexcept:
    """How many of another worker's line come before `key`, going by its marks. Those between two marks of the same
    priority are taken to be spread evenly; where a mark is of another priority nothing is known but the ranks."""
    cdef uint64_t *marks = &queue.segment.series_of(worker, <uint32_t>queue.series)[QUEUE_MARKS]
    cdef uint64_t count = queue.waiting(worker)
    cdef uint64_t low_key = tg_get(&marks[0]), high_key = tg_get(&marks[QUEUE_MARKS_COUNT - 1]), mark
    cdef double low = 1.0, high = <double>count - 1
    cdef int i
    if count == 0 or key <= low_key:
        return 0.0
    if key > high_key:
        return <double>count
    for i in range(1, <int>QUEUE_MARKS_COUNT - 1):
        mark = tg_get(&marks[i])
        if mark >= key:
            if mark < high_key:
                high, high_key = <double>MARKS[i], mark
            break
        low, low_key = <double>MARKS[i] + 1, mark
    if high <= low:
        return low
    if low_key >> PRIORITY_SHIFT != high_key >> PRIORITY_SHIFT:
        return sqrt(low * high)
    return low + (high - low) * <double>(key - low_key) / <double>(high_key - low_key)


cdef void publish_marks(PoolQueue queue) noexcept:
    cdef uint64_t *marks = &queue.words[QUEUE_MARKS]
    cdef uint64_t key
    cdef size_t at
    for at in range(<size_t>QUEUE_MARKS_COUNT - 1):
        key = entry_at(&queue.line, MARKS[at]).key if MARKS[at] < queue.line.count else UINT64_MAX
        tg_store64_relaxed(&marks[at], key)
    tg_store64_relaxed(&marks[QUEUE_MARKS_COUNT - 1], entry_at(&queue.line, queue.line.count - 1).key)


cdef double wait_of(PoolQueue queue, uint64_t key, uint64_t wanted, uint64_t now) noexcept:
    cdef uint64_t rivals = UINT64_MAX
    cdef uint64_t slots = slots_of(queue, wanted, &rivals) if wanted else count_slots(queue, now)
    if slots == 0:
        return 0.0
    return (ahead_of(queue, key, rivals) + 1) * service_of(queue, now) / <double>slots


cdef uint64_t busy_since(PoolQueue queue) noexcept:
    """While somebody waits: somebody has at every moment since, in one worker or another."""
    cdef uint64_t since = 0
    cdef int worker
    for worker in range(queue.workers):
        since = max(since, tg_get(&queue.segment.series_of(worker, <uint32_t>queue.series)[QUEUE_BUSY_SINCE]))
    return since


cdef bint overloaded(PoolQueue queue, uint64_t now) noexcept:
    return now > busy_since(queue) + queue.patience
