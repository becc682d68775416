"""The tries of an exchange beyond its first: see attempts.pxd; docs/adr/hedging.md has the reasons.

    retry_granted    a try failed: do the rules, the deadline and the budget allow another
    next_try         after a pause, in which the exchange has no endpoint and no place in a queue
    watch            the request is sent, or could be if there were a connection: an alarm for its hedge
    stuck_at         when the endpoint will have been silent for so long that whatever is there is late
    start_hedge      the answer is late: another endpoint gets the request, too, of those that the pool has by then
    own_answer       the first try's answer begins: the hedge is cancelled
    hedge_answer     the hedge's does: the first try is cancelled, and the hedge becomes the exchange's own
"""

from libc.stdint cimport UINT64_MAX, uint64_t
from lb.shared.segment cimport (
    TG_S_BYTES_OUT, TG_S_CONNECT_ERRORS, TG_S_HEDGES, TG_S_HEDGES_LOST, TG_S_HEDGES_REFUSED, TG_S_HEDGES_WON,
    TG_S_RESPONSE_ERRORS, TG_S_RETRIES, TG_S_RETRIES_REFUSED, TG_S_TIMEOUTS, tg_add,
)
from lb.proxy.exchange.exchange cimport (
    HEDGE_LOST, HEDGE_WON, MOST_COMPANY, X_BACKOFF, X_PICKED, X_WAITING, Exchange, after_choice, before_choice, rebind,
    untie,
)
from lb.proxy.exchange.retry cimport RETRY_CONNECT, RETRY_RESET, RETRY_TIMEOUT, RetryPolicy
from lb.proxy.tally cimport count_answer, count_code, count_try
from lb.upstream.failure cimport FAIL_CONNECT, FAIL_TIMEOUT
from lb.http.grpc.text cimport PUSHBACK_NEVER, PUSHBACK_NONE
from lb.upstream.connections.http1 cimport Http1Call
from lb.upstream.load.outlier cimport VERDICT_NONE, verdict_of, verdict_of_grpc
from lb.upstream.pool cimport HEAD_START, Pool

cdef enum:
    MILLISECOND_NS = 1_000_000
    SLOWER = 2                        # than the endpoint's average is late
    LOOKS = 8                         # at most, whether an endpoint is stuck, until its answer is late anyway
    FOREVER_NS = 3_600_000_000_000
    GRPC_CANCELLED = 1
    GRPC_DEADLINE_EXCEEDED = 4
    GRPC_UNAVAILABLE = 14


cdef class Pause(Timed):

    cdef void on_timer(self) noexcept:
        cdef TryingExchange exchange = self.exchange
        if exchange is None:
            return
        self.exchange = None
        exchange.pause = None
        if exchange.state == X_BACKOFF:
            exchange.pick()


cdef class Hedge(Http1Call):

    def __cinit__(self):
        self.endpoint = -1

    cdef void on_timer(self) noexcept:
        if self.exchange is not None:
            self.exchange.start_hedge()


cdef class TryingExchange(Exchange):

    def __cinit__(self):
        self.pushback = PUSHBACK_NONE

    cdef bint repeatable(self) noexcept:
        return False

    cdef bint launch_hedge(self, Hedge hedge) noexcept:
        return False

    cdef void cancel_hedge(self, Hedge hedge) noexcept:
        pass

    cdef void cancel_try(self) noexcept:
        self.cancel_upstream()

    cdef void adopt(self, Hedge hedge) noexcept:
        pass

    cdef Hedge new_hedge(self):
        return Hedge.__new__(Hedge)

    cdef void record(self) noexcept:
        if self.hedge is not None:
            self.drop_hedge()
        if self.pause is not None:
            self.pause.exchange = None
            self.pause = None
        Exchange.record(self)

    # Retries.

    cdef bint retry_named(self, int kind, int code) noexcept:
        cdef RetryPolicy policy = self.route.retry
        if policy is None:
            return (kind & (RETRY_CONNECT | RETRY_RESET)) != 0
        return policy.names(kind) or policy.names_code(code)

    cdef bint retry_granted(self, int kind, int code) noexcept:
        cdef RetryPolicy policy = self.route.retry
        cdef long pushback = self.pushback
        cdef uint64_t now = self.client.poller.now
        self.wait = 0
        self.pushback = PUSHBACK_NONE
        if self.tries_left <= 0 or pushback == PUSHBACK_NEVER:
            return False
        if not self.retry_named(kind, code):
            return False
        if policy is None:
            return True
        self.wait = policy.pause(self.tries) if pushback < 0 else <uint64_t>pushback * MILLISECOND_NS
        if policy.alarms is None:
            self.wait = 0
        if self.due() != UINT64_MAX and now + self.wait >= self.due():
            return False                      # what failed says more than a deadline that passes in a pause
        if policy.budget.claim(now):
            return True
        tg_add(&self.route.series[TG_S_RETRIES_REFUSED], 1)
        return False

    cdef void next_try(self) noexcept:
        self.tries_left -= 1
        if self.bound != -1:
            untie(self)
        self.client.poller.arm(self, self.expires)       # until the next try waits
        if self.wait == 0:
            self.pick()
            return
        self.move(X_BACKOFF)
        self.pause = Pause.__new__(Pause)
        self.pause.exchange = self
        self.route.retry.alarms.arm(self.pause, self.client.poller.now + self.wait)

    cdef bint try_again(self, int kind, int status) noexcept:
        cdef RetryPolicy policy = self.route.retry
        if policy is None or not policy.names(kind) or not self.repeatable():
            return False
        if (self.hedge is None or self.hedge.endpoint < 0) and not self.retry_granted(kind, -1):
            return False
        self.cancel_try()
        self.status = status
        if kind == RETRY_TIMEOUT and self.endpoint >= 0:
            tg_add(&self.pool.series[self.endpoint][TG_S_TIMEOUTS], 1)
        self.let_go(False)
        if not self.hedge_takes_over():
            self.next_try()
        return True

    cdef void count_again(self, Hedge hedge) noexcept:
        cdef Pool pool = self.pool if hedge is None else hedge.pool
        cdef int endpoint = self.endpoint if hedge is None else hedge.endpoint
        if endpoint >= 0:
            tg_add(&pool.series[endpoint][TG_S_RETRIES], 1)

    cdef void on_timer(self) noexcept:
        if self.state == X_WAITING and self.client.poller.now < self.expires:
            if self.try_again(RETRY_TIMEOUT, 504):
                return
            if self.hedge is not None and self.hedge.endpoint >= 0:
                self.cancel_try()
                self.status = 504
                tg_add(&self.pool.series[self.endpoint][TG_S_TIMEOUTS], 1)
                self.let_go(False)
                self.hedge_takes_over()
                return
        Exchange.on_timer(self)

    # Hedges.

    cdef void watch(self) noexcept:
        cdef uint64_t now = self.client.poller.now
        cdef uint64_t delay, rings
        cdef Hedge hedge
        if self.hedge is not None:
            return                            # since the connect began
        self.waits_since = 0
        if self.hedged:
            return
        if self.tries == 1:
            self.waits_since = now
        if self.pinned or self.pool.endpoints.size < 2 or not self.repeatable():
            return
        delay = self.route.hedge.delay(now)
        if delay == UINT64_MAX:
            return
        hedge = self.new_hedge()
        hedge.waits_since = now
        if self.route.hedge.per_mille:
            hedge.late_at = now + max(delay, self.unusual())
            rings = min(hedge.late_at, self.stuck_at(hedge))
        else:
            rings = hedge.late_at = now + delay
        if self.due() != UINT64_MAX and rings >= self.due():
            return
        hedge.exchange = self
        self.hedge = hedge
        self.route.hedge.alarms.arm(hedge, rings)

    cdef uint64_t unusual(self) noexcept:
        """From when on an answer is late for its endpoint, not only for the route: what is slow by nature, or has
        others before it, gains nothing by a second try, and both cost a place."""
        return <uint64_t>min(SLOWER * self.pool.usual(self.endpoint), <double>FOREVER_NS)

    cdef uint64_t stuck_at(self, Hedge hedge) noexcept:
        """From when on its endpoint is stuck, if it answers nobody until then: what is there waits for nothing, however
        short a time it has been there. UINT64_MAX where that is not known."""
        cdef double service, patience
        cdef uint64_t known = self.route.hedge.patience
        if not self.pool.policy.by_service:
            return UINT64_MAX
        service = min(self.pool.endpoints.latency_ns(self.endpoint), <double>FOREVER_NS)
        if service <= 0.0:
            return UINT64_MAX
        if self.pool.in_vain(self.endpoint) >= HEAD_START:
            patience = 1.0                    # it was found stuck: this one looks whether it still is
        elif known:
            patience = max(<double>SLOWER, known / 1000.0)
        else:
            return UINT64_MAX
        return max(
            self.pool.endpoints.progress(self.endpoint) + <uint64_t>min(patience * service, <double>FOREVER_NS),
            hedge.waits_since + max(<uint64_t>service, self.route.hedge.least),
        )

    cdef void learn_silence(self, uint64_t now) noexcept:
        """Its endpoint answers, or is given up: how long was nothing heard of it, this request being there?"""
        cdef double service
        cdef uint64_t since
        if self.pool.policy.by_service:
            service = self.pool.endpoints.latency_ns(self.endpoint)
            since = max(self.waits_since, self.pool.endpoints.progress(self.endpoint))
            if service > 0.0 and now > since:
                self.route.hedge.learn_silence(now, <uint64_t>min(1000.0 * (now - since) / service, 1e15))

    cdef void start_hedge(self) noexcept:
        """Nobody waits for it: where no other endpoint has room, or others wait for that, there is none."""
        cdef Hedge hedge = self.hedge
        cdef uint64_t now = self.client.poller.now, stuck_at
        cdef int found
        if hedge is None or hedge.endpoint >= 0 or self.endpoint < 0:
            return
        if self.state != X_WAITING and self.state != X_PICKED:
            return
        if self.pool.newer is not None and self.pool.newer.protocol != self.pool.protocol:
            return                            # it speaks what only the old one's channels do
        if now < hedge.late_at:
            stuck_at = self.stuck_at(hedge)
            if stuck_at > now:                # it has answered others since
                stuck_at = max(stuck_at, now + (hedge.late_at - hedge.waits_since) // LOOKS)
                self.route.hedge.alarms.arm(hedge, min(hedge.late_at, stuck_at))
                return
        if not self.route.hedge.budget.claim(now):
            tg_add(&self.route.series[TG_S_HEDGES_REFUSED], 1)
            return
        found = self.choose_hedge(hedge, now)
        if found < 0:
            self.route.hedge.budget.give_back(now)
            return
        hedge.endpoint = found
        hedge.picked_at = now
        if hedge.pool.costs is not None:
            hedge.charged = hedge.pool.endpoints.charged
            hedge.crowd = hedge.pool.endpoints.outstanding(found)
            hedge.company = <short>min(hedge.pool.endpoints.running(found), MOST_COMPANY)
        self.hedged = HEDGE_LOST              # until it wins
        self.tries += 1
        tg_add(&self.route.series[TG_S_HEDGES], 1)
        if not self.launch_hedge(hedge):
            self.hedge_failed(hedge, FAIL_CONNECT)

    cdef int choose_hedge(self, Hedge hedge, uint64_t now) noexcept:
        """Since a reload the slot of an endpoint that is gone may be another's: what the old form says of it is no
        more true. So the choice is made in the newest, although the exchange's own try is in its old one."""
        cdef Pool own = self.pool
        cdef uint64_t wanted = self.wanted
        cdef int kept_to = self.kept_to, exclude = self.endpoint, found
        cdef str beside = <str>own.endpoints.addresses[exclude]
        if own.newer is not None:
            self.pool = own.newer
            self.want_model(self.wanted_model)
            self.kept_to = -1
            exclude = self.pool.index_at(beside)
        hedge.pool = self.pool
        if self.pool.costs is not None:
            self.pool.endpoints.cost = self.charged if self.charged else self.price(now)
        if self.explained:
            before_choice(self, now, exclude, False)
        if self.wanted:
            found = self.pool.acquire_wanted(now, self.key, exclude, self.wanted, False)
        else:
            found = self.pool.acquire(now, self.key, exclude)
        if found >= 0 and found == exclude:
            self.pool.release(found, now, 0, True, 0, self.pool.endpoints.charged, 0)
            found = -1
        if self.explained:
            after_choice(self, now, found, beside)
        self.pool = own
        self.wanted = wanted
        self.kept_to = kept_to
        return found

    cdef void own_answer(self) noexcept:
        cdef uint64_t now = self.client.poller.now
        if self.waits_since:
            self.route.hedge.learn(now, now - self.waits_since)
            self.learn_silence(now)
            self.waits_since = 0
        if self.hedge is not None:
            self.drop_hedge()

    cdef bint hedge_answer(self, Hedge hedge, bint good, int status, int code) noexcept:
        cdef uint64_t now = self.client.poller.now
        cdef int endpoint = self.endpoint
        if not good:
            # The first try may still do better.
            self.cancel_hedge(hedge)
            self.release_hedge(hedge, status, code, now - hedge.picked_at, False)
            tg_add(&self.route.series[TG_S_HEDGES_LOST], 1)
            return False
        self.cancel_try()
        if self.waits_since:
            self.route.hedge.learn_given_up(now, now - self.waits_since)
            if self.pool.in_vain(endpoint) == 0:
                self.learn_silence(now)       # once for all that it holds
            self.waits_since = 0
        self.endpoint = -1
        count_answer(self.pool.series[endpoint], 0, now - self.picked_at)
        count_code(self.pool.series[endpoint], self.code_of_call(GRPC_CANCELLED))
        tg_add(&self.pool.series[endpoint][TG_S_BYTES_OUT], self.bytes_in)
        self.pool.give_up(endpoint, now, now - self.picked_at, self.charged)
        self.hedged = HEDGE_WON
        tg_add(&self.route.series[TG_S_HEDGES_WON], 1)
        self.hedge_takes_over()
        return True

    cdef void hedge_failed(self, Hedge hedge, int kind) noexcept:
        cdef uint64_t *words = hedge.pool.series[hedge.endpoint]
        if kind == FAIL_TIMEOUT:
            tg_add(&words[TG_S_TIMEOUTS], 1)
        else:
            tg_add(&words[TG_S_CONNECT_ERRORS if kind == FAIL_CONNECT else TG_S_RESPONSE_ERRORS], 1)
        tg_add(&self.route.series[TG_S_HEDGES_LOST], 1)
        self.release_hedge(
            hedge, 502, self.code_of_call(GRPC_DEADLINE_EXCEEDED if kind == FAIL_TIMEOUT else GRPC_UNAVAILABLE),
            self.client.poller.now - hedge.picked_at, False)

    cdef bint hedge_takes_over(self) noexcept:
        cdef Hedge hedge = self.hedge
        if hedge is None:
            return False
        self.hedge = None
        hedge.exchange = None
        if hedge.endpoint < 0:
            return False
        if self.hedged != HEDGE_WON:
            self.hedged = HEDGE_WON           # its answer will be taken, whatever it is
            tg_add(&self.route.series[TG_S_HEDGES_WON], 1)
        self.waits_since = 0
        if hedge.pool is not self.pool:
            rebind(self, hedge.pool)
        self.endpoint = hedge.endpoint
        self.last_endpoint = hedge.endpoint
        self.picked_at = hedge.picked_at
        self.company = hedge.company          # unknown where requests are not weighed: nobody counted them
        self.charged = hedge.charged
        self.crowd = hedge.crowd
        self.adopt(hedge)
        if self.state == X_PICKED:
            self.move(X_WAITING)              # the first try had no connection yet
        self.arm_wait()
        return True

    cdef void drop_hedge(self) noexcept:
        cdef Hedge hedge = self.hedge
        if hedge.endpoint >= 0:
            self.cancel_hedge(hedge)
            tg_add(&self.route.series[TG_S_HEDGES_LOST], 1)
            # What a try that was stopped has taken says little of its endpoint: nothing is learned from it.
            self.release_hedge(hedge, 0, self.code_of_call(GRPC_CANCELLED), 0, True)
        else:
            self.hedge = None
            hedge.exchange = None

    cdef int code_of_call(self, int code) noexcept:
        return code if self.grpc else -1

    cdef void release_hedge(self, Hedge hedge, int status, int code, uint64_t latency, bint ok) noexcept:
        cdef int verdict = VERDICT_NONE
        cdef uint64_t now = self.client.poller.now
        cdef Pool pool = hedge.pool
        cdef uint64_t *words = pool.series[hedge.endpoint]
        self.hedge = None
        hedge.exchange = None
        tg_add(&words[TG_S_BYTES_OUT], self.bytes_in)
        if latency:
            verdict = verdict_of_grpc(code) if code >= 0 else verdict_of(status, ok)
            pool.judge(hedge.endpoint, verdict, hedge.picked_at, now)
        count_try(words, status, code, verdict, now - hedge.picked_at)
        if ok:
            pool.tell_queue(hedge.endpoint, now, latency, True)
        pool.release(hedge.endpoint, now, latency, ok, hedge.company, hedge.charged, hedge.crowd)
