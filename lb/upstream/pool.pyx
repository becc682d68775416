"""A pool at work in one worker: see pool.pxd."""

import logging
from hashlib import blake2b

from libc.stdint cimport INT32_MAX, uint64_t
from libc.stdlib cimport calloc, free
from lb.failure cimport VERDICT_GOOD, VERDICT_NONE
from lb.shared.model_table cimport PoolModels
from lb.shared.segment cimport Segment, tg_add
from lb.shared.segment_words cimport QUEUE_REQUESTS, SERIES_FINISHED, SERIES_STARTED
from lb.balancing.turns cimport pick_any, pick_in_turn
from lb.shared.recent_failures cimport failing_of, note_attempt
from lb.endpoints.choice cimport EVERY_GROUP, Choice
from lb.endpoints.groups cimport TG_GROUPS, Groups
from lb.endpoints.set cimport EndpointSet
from lb.upstream.affinity.cookie cimport EndpointCookie
from lb.upstream.load.cost cimport PoolCosts
from lb.upstream.connections.deferred_release cimport DeferredRelease, DeferringChannel
from lb.upstream.load.outlier cimport Outlier
from lb.upstream.queue cimport AGAIN_NS, ALL_MODELS_BLOCKED, TAKEN_FULL, TAKEN_NOBODY, PoolQueue
from lb.upstream.affinity.sequences cimport Sequences
from lb.upstream.load.service_time cimport Warmth
from lb.upstream.affinity.sessions cimport Sessions

from lb.balancing import registry
from lb.upstream.start import Start

log = logging.getLogger("tidegate.balancing")

cdef enum:
    TURNS = 4                         # choices, where other workers take the last slot of each just before
    CLAIM_NS = 50_000_000             # those who wait look sooner than that (LOOK_NS of the queue), and renew it
    DOUBLINGS = 10
    LONGEST = 1_000_000_000           # that an endpoint is left alone for answers that did not come
    SLOWER = 2                        # than its average: no chance
    TAKEN_AGAIN = -3                  # only the excluded one takes requests
    REPORT_NS = 1_000_000_000         # between two lines of the log on a policy's failures

cdef double FAILS = 0.5               # of its recent attempts: others are waited for

cdef dict PROTOCOLS = {
    "http": POOL_HTTP, "oip": POOL_OIP, "tcp": POOL_TCP, "http2": POOL_HTTP2, "grpc": POOL_GRPC, "udp": POOL_UDP,
}
cdef dict REPORTED = {}               # pool -> when the log said last that its policy fails, and how often it did since
cdef dict KEYS = {
    "": KEY_NONE, "header": KEY_HEADER, "cookie": KEY_COOKIE, "query": KEY_QUERY, "source": KEY_SOURCE,
    "model": KEY_MODEL, "path": KEY_PATH, "uri": KEY_URI, "text": KEY_TEXT,
}


cdef bint stands(Choice choice, int beside=-1) noexcept:
    """Whether an endpoint takes the request, if not now; another than `beside`."""
    cdef int i
    for i in range(choice.endpoints.size):
        if i != beside and choice.state_weight(i) > 0:
            return True
    return False


cdef class SlotRelease(DeferredRelease):

    def __init__(self, Pool pool not None, int index, int charged):
        self.pool = pool
        self.index = index
        self.charged = charged

    cdef void give(self, uint64_t now) noexcept:
        self.pool.give_back(self.index, now, self.charged)


cdef class Pool:
    """A pool of a plan (`PoolPlan`). `channels` are the connections to each endpoint, in the plan's order; `queue` is
    where its requests wait when all endpoints have as many as they may, None where they do not; `leaving` is a pool of
    the endpoints that the plan no longer names."""

    def __init__(self, plan, Segment segment, channels, PoolQueue queue=None, Pool leaving=None):
        cdef int i
        self.name = plan.name
        self.protocol = PROTOCOLS[plan.protocol]
        self.endpoints = EndpointSet(
            segment, [e.address for e in plan.endpoints], [e.slot for e in plan.endpoints],
            [e.max_in_flight for e in plan.endpoints],
        )
        self.queue = queue
        self.on_demand = plan.on_demand
        self.awaits_start = plan.awaits_start
        if queue is not None:
            self.warmths = queue.warmths_of(self.endpoints.addresses)
        if plan.shaped:
            probes = plan.outlier.probes if plan.outlier is not None else 1
            keyed = registry.find(plan.policy.type).needs_key
            self.endpoints.shape(keyed or not plan.slow_start, probes)
            if plan.groups:
                self.groups = Groups(segment, [e.slot for e in plan.endpoints], plan.groups, keyed)
                self.endpoints.divide(plan.groups)
        self.policy_type = plan.policy.type
        self.multiplexed = self.endpoints.limited and self.protocol in (POOL_OIP, POOL_HTTP2, POOL_GRPC)
        if plan.cost is not None:
            self.endpoints.weigh()
            self.costs = PoolCosts(plan.cost, plan.name, segment)
        self.policy = registry.build(plan.policy, self.endpoints)
        if plan.learns_limits:
            self.endpoints.learn_limits()
        self.choice = Choice(self.endpoints)
        if self.groups is not None:
            self.rotations = <uint64_t *>calloc(self.groups.count, sizeof(uint64_t))
            if self.rotations == NULL:
                raise MemoryError
            for i in range(self.groups.count):
                self.rotations[i] = self.policy.rotation
        self.channels = tuple(channels)
        self.key_kind = KEYS[plan.policy.key]
        self.prefixes.v4, self.prefixes.v6 = plan.policy.ipv4_prefix, plan.policy.ipv6_prefix
        name = plan.policy.key_name
        self.key_name = (name.lower() if plan.policy.key == "header" else name).encode()
        self.key_depth, self.key_length = plan.policy.key_depth, plan.policy.key_length
        self.cache_key = blake2b(
            f"{plan.cache_epoch}:{plan.name}".encode(), key=segment.cache_secret, digest_size=32,
            person=b"tidegate-answers").digest()
        self.cached_rows = frozenset(name.encode() for name in plan.cache_rows) or None
        self.connect_timeout = plan.connect_timeout_ns
        self.response_timeout = plan.response_timeout_ns
        self.idle_timeout = plan.idle_timeout_ns
        self.retries = plan.retries
        self.budget_series = plan.series
        if plan.series >= 0 and plan.protocol not in ("tcp", "udp"):
            self.requests = &segment.series(<unsigned int>plan.series)[QUEUE_REQUESTS]
        if plan.protocol not in ("tcp", "udp"):
            self.model_series = PoolModels(segment, plan.name)
        self.send_proxy = plan.send_proxy
        self.send_unique_id = plan.send_unique_id
        self.send_checksum = plan.send_checksum
        if plan.models:
            self.models = {name.encode(): 1 << bit for bit, name in enumerate(plan.models) if name}
        self.series = <uint64_t **>calloc(len(plan.endpoints) + 1, sizeof(uint64_t *))
        if self.series == NULL:
            raise MemoryError
        for i, endpoint in enumerate(plan.endpoints):
            self.series[i] = segment.series(endpoint.series)
        if plan.outlier is not None:
            self.outlier = Outlier(plan.outlier, segment, plan.endpoints, plan.avoid_failing)
            self.outlier.series = self.series
        self.avoids = plan.avoid_failing
        self.leaving = leaving
        if plan.cookie is not None:
            self.cookie = EndpointCookie(plan, self.endpoints)
        if plan.learn is not None:
            self.sessions = Sessions(plan, self.endpoints)
        self.sticky = plan.cookie is not None or plan.learn is not None
        if plan.sequence is not None:
            self.sequences = Sequences(plan, self.endpoints, leaving.sequences if leaving is not None else None)

    def __dealloc__(self):
        free(self.series)
        free(self.rotations)
        free(self.slow)

    cdef uint64_t model_bit(self, bytes name) noexcept:
        found = self.models.get(name)
        return 0 if found is None else <uint64_t>found

    cdef int index_at(self, str address) noexcept:
        cdef int i
        for i in range(self.endpoints.size):
            if <str>self.endpoints.addresses[i] == address:
                return i
        return -1

    cdef Choice new_choice(self, uint64_t now, uint64_t key):
        self.choice.begin(now, key)
        return self.choice

    cdef int acquire(self, Choice choice) noexcept:
        cdef uint64_t blocked
        cdef int found
        if self.queue is None:
            pass
        elif choice.turn:
            self.endpoints.waiting = <int>(self.queue.line.count + self.queue.waiting_elsewhere()) - 1
        elif self.queue.somebody():
            blocked = self.queue.blocked_models()
            if blocked == ALL_MODELS_BLOCKED or blocked & choice.models:
                return TAKEN_FULL
            choice.block(blocked)
        found = self.choose(choice)
        if found == TAKEN_NOBODY and self.outlier is not None:
            return self.choose_on_probation(choice)
        return found

    cdef int choose_on_probation(self, Choice choice) noexcept:
        """When nobody else is left, endpoints on probation take what there is."""
        cdef int found, probes = choice.probes
        choice.probes = INT32_MAX
        found = self.choose(choice)
        choice.probes = probes
        return found

    cdef int choose(self, Choice choice) noexcept:
        cdef int index
        if self.groups is not None and choice.group == EVERY_GROUP:
            return self.choose_by_group(choice)
        for _ in range(TURNS):
            try:
                index = self.look(choice)
            except BaseException as failure:  # a plug-in's, sys.exit() too, must not take the data path with it
                report(self.name, failure, choice.now)
                return TAKEN_NOBODY
            if (self.slow != NULL and index >= 0 and self.slow[index].until > choice.now
                    and index != choice.exclude):
                index = self.pick_instead(index, choice)
            if index < 0:
                if self.endpoints.limited or choice.blocked:
                    return TAKEN_FULL if stands(choice) else TAKEN_NOBODY
                return TAKEN_NOBODY
            if index == choice.exclude and choice.group != EVERY_GROUP:
                return TAKEN_AGAIN
            if index == choice.exclude and self.waits_for_room() and stands(choice, index):
                return TAKEN_FULL             # the others are only busy: it waits for one of them
            if choice.reluctant and self.waits_for_room() and self.rather_waits(index, choice):
                return TAKEN_FULL
            if self.endpoints.limited and self.endpoints.claimant(index, choice.now) >= 0:
                choice.rule_out(index)  # its next slot is that of one who can go nowhere else
            elif choice.take(index):
                tg_add(&self.series[index][SERIES_STARTED], 1)
                if self.prober is not None:
                    self.prober.ask()
                return index
        return TAKEN_FULL

    cdef bint waits_for_room(self) noexcept:
        return self.queue is not None and self.endpoints.limited

    cdef bint take(self, int index, Choice choice) noexcept:
        if not choice.take(index):
            return False
        tg_add(&self.series[index][SERIES_STARTED], 1)
        return True

    cdef int choose_in(self, int group, Choice choice) noexcept:
        cdef int found
        choice.enter(<short>group)
        self.policy.rotation = self.rotations[group]
        found = self.choose(choice)
        self.rotations[group] = self.policy.rotation
        choice.enter(EVERY_GROUP)
        return found

    def enter(self, int group):
        """For an explanation: the policy's turn is that of `group`."""
        if self.groups is None or not 0 <= group < self.groups.count:
            raise IndexError(f"there is no group {group}")
        self.policy.rotation = self.rotations[group]

    cdef int choose_by_group(self, Choice choice) noexcept:
        cdef int drawn = self.groups.draw(choice.key)
        cdef int found = self.choose_in(drawn, choice)
        return found if found >= 0 else self.choose_elsewhere(drawn, found, choice)

    cdef int choose_elsewhere(self, int drawn, int found, Choice choice) noexcept:
        """The group that was drawn has nobody, whatever the master knows of it by now: the others are asked. That a
        level is full is no reason to ask those that get no requests: for that there is the queue."""
        cdef short order[TG_GROUPS]
        cdef int active = 0, at, count = self.groups.order(drawn, order, &active)
        cdef bint full = found == TAKEN_FULL, again = found == TAKEN_AGAIN
        for at in range(1, count):
            if full and at >= active and order[at] // 2 != order[at - 1] // 2:
                break
            found = self.choose_in(order[at], choice)
            if found >= 0:
                return found
            full |= found == TAKEN_FULL
            again |= found == TAKEN_AGAIN
        if again and self.queue is not None and stands(choice, choice.exclude):
            return TAKEN_FULL
        if again and self.take(choice.exclude, choice):
            return choice.exclude
        return TAKEN_FULL if full or again else TAKEN_NOBODY

    cdef int acquire_in_sequence(self, int index, Choice choice) noexcept:
        if not self.sequences.serves(index):
            return TAKEN_NOBODY
        if self.take(index, choice):
            if self.endpoints.limited:
                self.endpoints.unclaim(index)
            return index
        if self.queue is not None:
            self.endpoints.claim(index, choice.now + CLAIM_NS)
        return TAKEN_FULL

    cdef int acquire_sticky(self, int index, Choice choice) noexcept:
        if not self.endpoints.keeps(index, choice.models):
            return TAKEN_NOBODY
        if not choice.turn and self.queue is not None and self.queue.somebody():
            return TAKEN_FULL                 # those who wait come first
        if choice.blocked and choice.is_blocked(index):
            return TAKEN_FULL
        if self.endpoints.limited and self.endpoints.claimant(index, choice.now) >= 0:
            return TAKEN_FULL
        return index if self.take(index, choice) else TAKEN_FULL

    cdef int look(self, Choice choice) except -2:
        return pick_in_turn(self.policy, choice) if self.avoids else pick_any(self.policy, choice)

    cdef bint rather_waits(self, int index, Choice choice) noexcept:
        cdef EndpointSet endpoints = self.endpoints
        cdef int i
        if failing_of(endpoints.records[index], choice.now) < FAILS:
            return False
        for i in range(endpoints.size):
            if choice.state_weight(i) > 0 and failing_of(endpoints.records[i], choice.now) < FAILS:
                return True
        return False

    cdef void judge(self, int index, int verdict, uint64_t started, uint64_t now) noexcept:
        if verdict == VERDICT_NONE:
            return
        if self.avoids:
            note_attempt(self.endpoints.records[index], verdict != VERDICT_GOOD, now)
        if self.outlier is not None:
            self.outlier.judge(index, verdict, started, now)

    cdef int pick_instead(self, int slow, Choice choice) noexcept:
        """Another endpoint than one that keeps its requests waiting, if that is not the excluded one."""
        cdef int index
        choice.rule_out(slow)
        try:
            index = self.look(choice)
        except BaseException as failure:
            report(self.name, failure, choice.now)
            return slow
        finally:
            choice.readmit(slow)
        if index < 0 or index == choice.exclude or self.slow[index].until > choice.now:
            return slow
        return index

    cdef int watch_endpoints(self) except -1:
        if self.slow == NULL:
            self.slow = <tg_slow *>calloc(self.endpoints.size + 1, sizeof(tg_slow))
            if self.slow == NULL:
                raise MemoryError
        return 0

    cdef void give_up(self, int index, uint64_t now, uint64_t waited, int charged) noexcept:
        cdef tg_slow *slow
        cdef double usual
        if self.slow != NULL:
            slow = &self.slow[index]
            usual = self.policy.usual_gap(index) if self.policy.keeps_progress else self.endpoints.latency_ns(index)
            if slow.count == 0 and usual > 0.0 and self.silence(index, now, waited) > SLOWER * usual:
                slow.count = HEAD_START  # it does not look slow, but stuck
            slow.until = now + min(waited << min(slow.count, <int>DOUBLINGS), <uint64_t>LONGEST)
            slow.count += 1
        self.release(index, now, 0, True, 0, charged, 0)

    cdef uint64_t silence(self, int index, uint64_t now, uint64_t waited) noexcept:
        cdef uint64_t progress
        if self.policy.keeps_progress:
            progress = self.endpoints.progress(index)
            return now - progress if now > progress else 0
        return waited if self.slow[index].alive + waited <= now else 0

    cdef int give_ups(self, int index) noexcept:
        return self.slow[index].count if self.slow != NULL else 0

    cdef double usual(self, int index) noexcept:
        cdef double latency = self.endpoints.latency_ns(index)
        if self.policy.by_service:
            latency *= max(self.endpoints.outstanding(index) * self.endpoints.scale, 1.0)
        return latency

    cdef bint takes_requests(self) noexcept:
        cdef int i
        for i in range(self.endpoints.size):
            if self.endpoints.state_weight(i) > 0:
                return True
        return False

    def tell_start(self, start: Start) -> None:
        """What the master knows of the start of an endpoint, for those who find none."""
        self.told = True
        self.ready_at = start.ready_at
        self.trouble = start.trouble or None

    cdef uint64_t again_after(self, uint64_t now) noexcept:
        if not self.told or self.takes_requests():
            return 0
        return self.ready_at - now if now < self.ready_at else AGAIN_NS

    cdef bint welcomes_requests(self) noexcept:
        cdef int i
        if self.takes_requests():
            return True
        if not self.on_demand or self.queue.trouble is not None:
            return False
        for i in range(self.endpoints.size):
            if self.endpoints.enabled(i):     # and not well; one that drains is on its way to zero
                return False
        return True

    cdef void release(self, int index, uint64_t now, uint64_t latency, bint ok, int in_flight_at_start, int charged,
                      int load_at_start) noexcept:
        if self.slow != NULL and latency and ok:
            self.slow[index].count = 0
            self.slow[index].until = 0
            self.slow[index].alive = now
        if self.multiplexed and (<DeferringChannel>self.channels[index]).cutting is not None:
            self.defer_release(index, now, charged)
        else:
            self.give_back(index, now, charged)
        if latency and self.policy.learns:
            if self.costs is None:
                self.observe(index, now, latency, ok, in_flight_at_start, 1)
            else:
                self.observe_weighed(index, now, latency, ok, in_flight_at_start, charged, load_at_start)

    cdef void give_back(self, int index, uint64_t now, int charged) noexcept:
        cdef int claimant
        self.endpoints.release(index, charged)
        tg_add(&self.series[index][SERIES_FINISHED], 1)
        if self.queue is not None:
            self.queue.released()
            claimant = self.endpoints.claimant(index, now)
            if claimant >= 0 and claimant != self.endpoints.worker:
                self.queue.wakeups.ring(claimant)

    cdef void defer_release(self, int index, uint64_t now, int charged) noexcept:
        """The stream was reset: the slot is free when the endpoint knows it."""
        cdef SlotRelease slot
        try:
            slot = SlotRelease(self, index, charged)
        except MemoryError:
            slot = None
        if slot is None or (<DeferringChannel>self.channels[index]).defer_release(slot) < 0:
            self.give_back(index, now, charged)

    cdef void tell_queue(self, int index, uint64_t now, uint64_t latency, bint answered) noexcept:
        if self.queue is None or self.endpoints.learned or latency == 0:
            return
        if (<Warmth>self.warmths[index]).tells(now - latency, now, answered):
            self.queue.service.learn(now, latency)

    cdef void abandoned(self, int index, uint64_t now, uint64_t waited) noexcept:
        try:
            self.policy.abandoned(index, now, waited)
        except BaseException as failure:
            report(self.name, failure, now)

    cdef void observe_weighed(self, int index, uint64_t now, uint64_t latency, bint ok,
                              int in_flight_at_start, int charged, int load_at_start) noexcept:
        """A latency grows with what a request costs, and with what those before it do. Where a policy knows only of
        latencies, it is told what this one would have been if all there had cost the same."""
        cdef int one = self.endpoints.one
        if self.policy.by_cost:
            in_flight_at_start = (load_at_start + one - 1) // one
        elif load_at_start > 0 and in_flight_at_start > 0:
            latency = max(<uint64_t>(<double>latency * in_flight_at_start * one / load_at_start), <uint64_t>1)
        self.observe(index, now, latency, ok, in_flight_at_start, max(charged, 1))

    cdef void observe(self, int index, uint64_t now, uint64_t latency, bint ok, int in_flight_at_start,
                      int cost) noexcept:
        try:
            self.policy.learn(index, now, latency, ok, in_flight_at_start, cost)
        except BaseException as failure:
            report(self.name, failure, now)


cdef object report(str pool, object failure, uint64_t now):
    """A policy that fails may do so for each request: one line a second says so."""
    cdef uint64_t told
    cdef int untold
    told, untold = REPORTED.get(pool, (0, 0))
    if told and now < told + REPORT_NS:
        REPORTED[pool] = (told, untold + 1)
        return
    REPORTED[pool] = (now, 0)
    more = f" (and {untold} times more, of which the log says nothing)" if untold else ""
    log.error("pool %s: the policy failed: %r%s", pool, failure, more)
