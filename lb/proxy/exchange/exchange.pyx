"""One request with its answer: the steps that every exchange takes, top to bottom.

    begin            route and admission are done (admission.pyx); the attempt brings the request into its protocol's
                     form
    pick             the policy chooses an endpoint; in-flight is counted. Where none has room, the exchange waits
    picked           the attempt takes the endpoint and is launched there: http1_attempt.pyx speaks HTTP/1.1,
                     http2_attempt.pyx HTTP/2 and gRPC, inference_attempt.pyx translates
    attempt_failed   another attempt, where rules, deadline and budget allow one; after a pause, in which the exchange
                     has no endpoint and no room in a queue
    watch            the request is sent: a timer for its hedge, a second attempt at another endpoint
    own_answer       the first attempt's answer begins: the hedge is dropped
    hedge_answers    the hedge's does: the first attempt is given up, and the hedge becomes the exchange's own
    fail             an answer of our own, with the status that says whose fault it was
    end              in-flight is given back, counters and the access log are written, the client goes on

Behind the steps stands what they need: limits of time, refusals, the record (counters and the access log),
explanations, and what binds it to an endpoint (lb.proxy.exchange.affinity). docs/adr/hedging.md has the reasons of
hedges.
"""

import logging
from lb.proxy.exchange.explain.choices import NOBODY, View
from lb.proxy.exchange.explain.explanation import HEADER_BYTES, LOG_BYTES, Explanation
from lb.proxy.exchange.explain.situation import Situation

cimport cython
from cpython.object cimport PyTypeObject
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stdint cimport UINT64_MAX, int64_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport free
from libc.string cimport memcmp, memcpy, memset, strlen
from lb.failure cimport (
    CLIENT_GONE, COUNT_REJECTED, COUNT_TIMEOUT,
    FAIL_BAD_CREDENTIAL, FAIL_BODY_TOO_LARGE, FAIL_CLIENT_GONE, FAIL_CONNECT, FAIL_MARKED, FAIL_MODEL_NOT_READY,
    FAIL_NONE, FAIL_NO_CREDENTIAL, FAIL_NO_ENDPOINT, FAIL_NO_MEMORY, FAIL_NO_SOCKET, FAIL_QUOTA, FAIL_RATE_LIMIT,
    FAIL_RESET, FAIL_SEQUENCE_LOST,
    FAIL_SEQUENCE_UNKNOWN, FAIL_SLOW_BODY, FAIL_TIMEOUT, RETRY_CONNECT, RETRY_RESET, RETRY_TIMEOUT, VERDICT_GOOD,
    VERDICT_NONE, failure_of, grpc_code, is_fault, tg_failure, verdict_of, verdict_of_grpc,
)
from lb.net.buffer cimport tg_buffer, tg_buffer_append, tg_buffer_free, tg_buffer_head, tg_buffer_size, tg_buffer_tail
from lb.net.ending cimport tg_end_by
from lb.shared.hashing cimport hash64
from lb.http.head cimport M_OTHER, Field, Scan
from lb.http.head_text cimport append_number, append_text
from lb.http.methods cimport method_name
from lb.net.poller cimport Timed
from lb.net.reuse cimport tg_reuse
from lb.shared.counters cimport bucket_of
from lb.shared.segment cimport tg_add
from lb.shared.segment_words cimport (
    ANSWER_REQUESTS_429, ENDPOINT_RETRIES, ENDPOINT_TIMEOUTS, MODEL_CACHED,
    MODEL_FAILURES_ABORTED, MODEL_FAILURES_CLIENT_ERROR, MODEL_FAILURES_REFUSED, MODEL_FAILURES_SERVER_ERROR,
    MODEL_FAILURES_TIMEOUT, ROUTE_CACHE_BYPASS,
    ROUTE_CACHE_COLLAPSED, ROUTE_CACHE_HIT, ROUTE_CACHE_MISS, ROUTE_CACHE_NEGATIVE, ROUTE_CACHE_REFRESHED,
    ROUTE_CACHE_REVALIDATED, ROUTE_CACHE_STALE, ROUTE_CACHE_STALE_IF_ERROR, ROUTE_CLIENT_ABORTS, ROUTE_HEDGES,
    ROUTE_HEDGE_RESULTS_LOST, ROUTE_HEDGE_RESULTS_REFUSED, ROUTE_HEDGE_RESULTS_WON, ROUTE_RETRIES,
    ROUTE_RETRIES_REFUSED, SERIES_FINISHED,
)
from lb.net.source_key cimport hash_source
from lb.net.splice cimport PASS_NOT
from lb.net.states cimport states_of, tg_move, tg_state, tg_states
from lb.net.tls.version cimport tls_version
from lb.http.trace cimport TRACE_SAMPLED
from lb.endpoints.choice cimport Choice
from lb.endpoints.set cimport EndpointSet
from lb.proxy.exchange.affinity cimport (
    append_cookie, follow_pool, learn, leave_sequence, read_cookie, read_session, sequence_now,
)
from lb.proxy.client.client cimport Client
from lb.proxy.random cimport random_below
from lb.proxy.routing.keys cimport count_values, find_value
from lb.proxy.exchange.refusal cimport SPEAKS_GRPC, SPEAKS_HTTP, Refusal, refusal
from lb.proxy.exchange.hedge cimport HedgePolicy
from lb.proxy.exchange.no_endpoint cimport is_at_zero, no_endpoint
from lb.proxy.exchange.retry cimport RetryPolicy
from lb.proxy.routing.error_pages cimport ErrorPage, note_error
from lb.proxy.routing.quota cimport use_quotas
from lb.proxy.routing.route cimport Route
from lb.proxy.routing.values.format cimport (
    V_CLIENT_ADDRESS, V_CLIENT_PORT, V_LISTENER, V_METHOD, V_POOL, V_PROTOCOL, V_REQUEST_ID, V_ROUTE, V_SCHEME,
    protocol_name, set_name, set_value, tg_values,
)
from lb.proxy.exchange.explain.sampler cimport EXPLAIN_ASKED
from lb.telemetry.accesslog cimport (
    A_CLIENT, A_ENDPOINT, A_HOST, A_LISTENER, A_METHOD, A_MODEL, A_POOL, A_REASON, A_REQUEST_ID, A_ROUTE, A_TARGET,
    A_USER_AGENT, A_IDENTITY, set_explanation, set_fields, set_object, set_text, tg_access, wall_ns,
)
from lb.upstream.attempt cimport (
    A_OVER, A_PICKED, A_SENT, ENDED, GIVEN_UP, STOPPED, Attempt, ending, release, take_slot, tg_outcome,
)
from lb.upstream.load.cost cimport UNIT_BYTES, PoolCosts
from lb.http.grpc.text cimport GRPC_UNKNOWN, PUSHBACK_NEVER, PUSHBACK_NONE
from lb.upstream.load.load_report cimport take_report
from lb.upstream.pool cimport HEAD_START, KEY_HEADER, KEY_NONE, KEY_PATH, POOL_HTTP, POOL_OIP, Pool
from lb.upstream.queue cimport (
    ALL_MODELS_BLOCKED, Q_FULL, Q_HOPELESS, Q_NO_START, Q_NOBODY, Q_SHED, Q_TIMEOUT, TAKEN_FULL, TAKEN_NOBODY, Waiter,
    stand_in_line,
)
from lb.upstream.affinity.sequences cimport SEQUENCE_HERE, SEQUENCE_LEAVING, SEQUENCE_LOST, SEQUENCE_UNKNOWN, where
from lb.upstream.tally cimport count_answered, count_failure, count_refusal, status_word, tg_answered
from lb.upstream.excluded cimport acquire_past, exclude_until, forget_excluded

log = logging.getLogger("tidegate.proxy")


cdef enum:
    GRPC_CANCELLED = 1
    GRPC_DEADLINE_EXCEEDED = 4
    GRPC_RESOURCE_EXHAUSTED = 8
    GRPC_UNAVAILABLE = 14
    HIGH_WATER = 64 * 1024            # bytes that wait for the client before the endpoint is held back
    MILLISECOND_NS = 1_000_000
    SECOND_NS = 1_000_000_000
    EARLY_NS = 5 * MILLISECOND_NS     # by so much a deadline may pass sooner for a server, which is told whole ms
    SLOWER = 2                        # than the endpoint's average is late
    LOOKS = 8                         # at most, whether an endpoint is stuck, until its answer is late anyway
    FOREVER_NS = 3_600_000_000_000
    NOTICE_NS = 25 * MILLISECOND_NS   # in which the master hears of the end of a process, on a machine with time
    NOTICE_MOST = 20                  # attempts; on one without, half a second
    # llhttp's numbers of the methods that may be repeated (RFC 9110 section 9.2.2).
    M_DELETE = 0
    M_GET = 1
    M_HEAD = 2
    M_PUT = 4
    M_OPTIONS = 6
    M_TRACE = 7

# Which state may follow which.
cdef tg_states TABLE
TABLE.machine = b"exchange"
tg_state(&TABLE, b"new", 1 << X_REQUEST | 1 << X_QUEUED | 1 << X_ATTEMPT | 1 << X_DONE)
tg_state(&TABLE, b"request", 1 << X_QUEUED | 1 << X_ATTEMPT | 1 << X_ANSWERING | 1 << X_DONE)
tg_state(&TABLE, b"queued", 1 << X_QUEUED | 1 << X_ATTEMPT | 1 << X_ANSWERING | 1 << X_DONE)
tg_state(&TABLE, b"attempt", (
    1 << X_QUEUED | 1 << X_ATTEMPT | 1 << X_BACKOFF | 1 << X_ANSWERING | 1 << X_UPGRADED | 1 << X_DONE
))
tg_state(&TABLE, b"backoff", 1 << X_QUEUED | 1 << X_ATTEMPT | 1 << X_ANSWERING | 1 << X_DONE)
tg_state(&TABLE, b"answering", 1 << X_DONE)
tg_state(&TABLE, b"upgraded", 1 << X_DONE)
tg_state(&TABLE, b"done", 0)
STATES = states_of(&TABLE)


cdef class BodySource:

    cdef void begin(self, Exchange exchange, Scan *scan) noexcept:
        pass

    cdef void take(self, Exchange exchange, const iovec *spans, int count, size_t size, bint last) noexcept:
        pass

    cdef void passed(self, Exchange exchange, const char *data, size_t size) noexcept:
        pass

    cdef char *space(self, Exchange exchange, size_t size) noexcept:
        return NULL

    cdef int price(self, Exchange exchange, uint64_t now) noexcept:
        return 0

    cdef uint64_t due(self, Exchange exchange) noexcept:
        return exchange.expires

    cdef bytes model(self):
        return None

    cdef bytes counted(self, Exchange exchange, int64_t *rows):
        return None

    cdef bint on_time(self, Exchange exchange) noexcept:
        return False

    cdef void picked(self, Exchange exchange) noexcept:
        pass

    cdef void answer_begins(self, Exchange exchange, bint last) noexcept:
        pass

    cdef void ended_well(self, Exchange exchange) noexcept:
        pass

    cdef void told(self, Exchange exchange, int status, str message, bytes reply) noexcept:
        pass

    cdef bint rescue(self, Exchange exchange, int kind, int status) noexcept:
        return False

    cdef void append_fields(self, Exchange exchange, tg_buffer *head) noexcept:
        pass

    cdef void leave(self, Exchange exchange) noexcept:
        pass


cdef class AttemptTimer(Timed):

    cdef void on_timer(self) noexcept:
        cdef Exchange exchange = self.exchange
        if exchange is None:
            return
        if exchange.state == X_BACKOFF:
            exchange.drop_timer()
            exchange.pick()
        else:
            exchange.start_hedge()


@cython.final
cdef class Exchange(Waiter):

    def __cinit__(self):
        self.last_endpoint = -1
        self.affinity.sequence_at = -1
        self.affinity.sticky = -1
        self.grpc_status = -1
        self.expires = UINT64_MAX
        self.pushback = PUSHBACK_NONE
        self.wants_body = True

    cdef void move(self, int state) noexcept:
        tg_move(&TABLE, &self.state, state)

    # The request.

    cdef void begin(self, Scan *scan) noexcept:
        self.idempotent = self.method in (M_GET, M_HEAD, M_PUT, M_DELETE, M_OPTIONS, M_TRACE) or self.route.idempotent
        if not self.idempotent and self.route.idempotency_key:
            self.idempotent = has_idempotency_key(scan)
        if self.source is not None:
            self.source.begin(self, scan)
            return
        self.key = self.find_key(scan)
        if self.pool.costs is not None and scan.has_length:
            self.announced = scan.content_length
        if self.attempt.begin(scan):
            self.pick()

    cdef bint admit(self, Scan *scan, const char *key, size_t key_length) noexcept:
        cdef size_t n
        cdef const char *source = self.source_address(&n)
        if self.route.rate is None or self.route.rate.admit(
                scan, key, key_length, source, n, self.started, &self.rate):
            return True
        self.request_complete = scan.complete     # then the connection can go on
        self.fail(FAIL_RATE_LIMIT, "too many requests; Retry-After says when to ask again")
        return False

    cdef bint take_quotas(self, const Scan *scan) noexcept:
        cdef size_t n
        cdef const char *source = self.source_address(&n)
        try:
            self.quota_use = use_quotas(self.route.quotas, scan, source, n, wall_ns())
        except MemoryError:
            self.request_complete = scan.complete
            self.fail(FAIL_NO_MEMORY, "out of memory")
            return False
        if self.quota_use.refused_by is None:
            return True
        self.request_complete = scan.complete     # then the connection can go on
        if self.grpc != SPEAKS_HTTP:
            self.grpc_status = <short>failure_of(FAIL_QUOTA).grpc_status
        self.fail(FAIL_QUOTA,
                  f"quota {self.quota_use.refused_by.name} is used up; Retry-After says when it begins anew")
        return False

    cdef const char *source_address(self, size_t *n) noexcept:
        if self.ids != NULL and self.ids.source_length:
            n[0] = self.ids.source_length
            return self.ids.source
        n[0] = self.client.ip_length
        return self.client.ip

    cdef void take_body(self, const iovec *spans, int count, size_t size, bint last) noexcept:
        cdef Exchange own = self              # which the client lets go of when it is answered at once
        if own.request_complete or own.state == X_DONE:      # its answer may still go out
            return
        self.bytes_in += size
        if self.bytes_in > self.route.max_body and self.state != X_UPGRADED:
            self.fail(FAIL_BODY_TOO_LARGE, f"the request's body is over the limit of {self.route.max_body} bytes")
            return
        if self.source is None:
            self.attempt.take_body(spans, count, size, last)
        else:
            self.source.take(self, spans, count, size, last)

    cdef char *body_space(self, size_t size) noexcept:
        return NULL if self.source is None else self.source.space(self, size)

    cdef Py_ssize_t pass_body(self, size_t size) noexcept:
        return self.attempt.pass_body(size) if self.source is None and self.attempt is not None else PASS_NOT

    cdef void take_trailers(self, Scan *scan) noexcept:
        if self.attempt is not None:
            self.attempt.take_trailers(scan)

    # The endpoint.

    cdef uint64_t find_key(self, Scan *scan) noexcept:
        """The affinity key of the request, by the pool's `key`; a request without it is keyed by its source."""
        cdef Pool pool = self.pool
        cdef const char *text
        cdef size_t n
        if pool.sticky:
            self.read_affinity(scan)
        if pool.key_kind == KEY_NONE:
            return 0
        if pool.key_kind >= KEY_PATH:
            return self.key                   # found before the route changed anything
        if find_value(scan, pool.key_kind, <const char *>pool.key_name, <size_t>len(pool.key_name), &text, &n):
            return hash64(text, n)
        text = self.source_address(&n)
        return hash_source(text, n, &pool.prefixes)

    cdef bint join_sequence(self, uint64_t key, bint start, bint end) noexcept:
        cdef int index = -1
        cdef where found = self.pool.sequences.find(key, start, self.client.poller.now, &index)
        self.affinity.in_sequence = True
        self.affinity.key = key
        self.affinity.starts = start
        self.affinity.ends = end
        if not start:
            self.retries_left = 0
        if found == SEQUENCE_HERE or found == SEQUENCE_LEAVING:
            if found == SEQUENCE_LEAVING:
                self.pool = self.pool.leaving
            self.affinity.sticky = -1         # a cookie has no say
            self.affinity.sequence_at = index
            self.endpoint_bound = True
        elif found == SEQUENCE_UNKNOWN:
            self.fail(FAIL_SEQUENCE_UNKNOWN, "the sequence is not open: its first request must say sequence_start, "
                      "and it ends when it is idle for too long")
            return False
        elif found == SEQUENCE_LOST:
            self.fail_lost()
            return False
        return True

    cdef void fail_lost(self) noexcept:
        if (self.affinity.in_sequence and self.affinity.sequence_at != -1
                and sequence_now(&self.affinity, self.pool, self.client.poller.now) < 0):
            self.pool.sequences.lose(self.affinity.key)
        self.fail(FAIL_SEQUENCE_LOST, "the endpoint that has the sequence's state is gone: begin the sequence anew")

    cdef void read_affinity(self, Scan *scan) noexcept:
        if self.pool.cookie is not None:
            read_cookie(&self.affinity, self.pool, scan)
        else:
            read_session(&self.affinity, self.pool, scan, self.client.poller.now)

    cdef void want_model(self, bytes name) noexcept:
        self.wanted_model = name
        self.wanted = 0
        if name is not None and self.pool.models is not None:
            self.wanted = self.pool.model_bit(name)

    cdef void model_not_ready(self) noexcept:
        if self.source is not None and self.source.any_endpoint:
            self.want_model(None)             # what else is asked of a model than inferences any endpoint can answer
            self.pick()
            return
        name = self.wanted_model.decode("utf-8", "replace")
        self.fail(FAIL_MODEL_NOT_READY, f"no endpoint of pool {self.pool.name} has model {name} ready")

    cdef void pick(self) noexcept:
        """An endpoint by the pool's policy, not the one that just failed; in line when none has room."""
        cdef uint64_t now = self.client.poller.now
        cdef int found
        if self.pool.newer is not None:
            follow(self)
        if self.pool.endpoints.learned and now < self.due() < UINT64_MAX:
            self.pool.endpoints.allow(self.due() - now)
        found = self.find_endpoint(self.new_choice(now))
        if found < 0:
            found = stand_in_line(self.pool.queue, self, found, self.route.priority, self.due(),
                                  self.last_endpoint >= 0, now)
        if found >= 0:
            self.picked(found)

    cdef int price(self, uint64_t now) noexcept:
        """By what is announced or has come of its body, unless its source knows better; without a batch it is one of
        1."""
        cdef PoolCosts costs = self.pool.costs
        cdef int price
        if self.source is not None:
            price = self.source.price(self, now)
            if price:
                return price
        if costs.unit != UNIT_BYTES:
            return costs.price(1.0, 0, now)
        return costs.price(costs.units_of_bytes(max(self.announced, self.bytes_in)), 0, now)

    cdef Choice new_choice(self, uint64_t now):
        cdef Choice choice = self.pool.new_choice(now, self.key)
        if self.wanted:
            choice.need(self.wanted)
        if self.pool.costs is not None:
            if self.cost == 0:        # once: a request that waits, or has another attempt, would lead the mean
                self.cost = self.price(now)
            choice.cost = self.cost
        return choice

    cdef int find_endpoint(self, Choice choice) noexcept:
        cdef int found = explain_choice(self, choice) if self.explained else self.choose(choice)
        if found >= 0:
            self.cost = choice.charged
        return found

    cdef int choose(self, Choice choice) noexcept:
        if self.affinity.sequence_at != -1:
            return TAKEN_NOBODY if self.affinity.sequence_at < 0 else self.pool.acquire_in_sequence(
                self.affinity.sequence_at, choice)
        if self.affinity.sticky >= 0:
            return acquire_sticky(self, choice)
        return self.acquire_any(choice)

    cdef int acquire_any(self, Choice choice) noexcept:
        if self.last_endpoint >= 0:
            return acquire_past(self.pool, choice, self.last_endpoint, &self.excluded)
        return self.pool.acquire(choice)

    cdef void picked(self, int endpoint) noexcept:
        cdef Attempt attempt = self.attempt
        if self.attempts:
            tg_add(&self.route.series[ROUTE_RETRIES], 1)
            tg_add(&self.pool.series[endpoint][ENDPOINT_RETRIES], 1)
        elif self.pool.requests != NULL:
            tg_add(self.pool.requests, 1)
            if self.started >= self.pool.budgets_turn_at:
                turn_budgets(self)
        self.attempts += 1
        self.last_endpoint = endpoint
        take_slot(attempt, self.pool, endpoint, self.cost, self.client.poller.now)
        if self.affinity.in_sequence and self.affinity.starts:
            if self.attempts == 1:
                self.pool.sequences.begin(self.affinity.key, endpoint, attempt.picked_at)
            else:
                self.pool.sequences.move(self.affinity.key, endpoint, attempt.picked_at)
        self.move(X_ATTEMPT)
        if self.source is not None:
            self.source.picked(self)
        attempt.launch()

    cdef void launch_now(self) noexcept:
        if self.state == X_ATTEMPT and self.attempt.state == A_PICKED:
            self.attempt.launch()

    # The queue (lb.upstream.queue.Waiter).

    cdef int take_endpoint(self, uint64_t now, uint64_t blocked) noexcept:
        cdef Choice choice = self.new_choice(now)
        choice.turn = True
        if blocked:
            choice.block(blocked)
        return self.find_endpoint(choice)

    cdef int take_endpoint_now(self, uint64_t now) noexcept:
        return self.find_endpoint(self.new_choice(now))

    cdef void queued(self, uint64_t until) noexcept:
        self.move(X_QUEUED)
        self.client.poller.arm(self, until)

    cdef void admitted(self, int endpoint) noexcept:
        self.client.poller.arm(self, self.expires)
        self.picked(endpoint)

    cdef void turned_away(self, int why) noexcept:
        refuse_exchange(self, why)

    cdef void settle(self) noexcept:
        self.last_endpoint = -1

    cdef void move_to(self, object pool) noexcept:
        if (<Pool>pool).protocol == self.pool.protocol:
            rebind(self, pool)                # else it speaks what only the old one's channels do

    cdef uint64_t due(self) noexcept:
        return self.expires if self.source is None else self.source.due(self)

    cdef void leave_queue(self, bint timed_out) noexcept:
        if self.queue is not None:
            self.queue.leave(self, timed_out)

    # Time.

    cdef bint awaits_answer(self) noexcept:
        # A hedge that took over may have no connection yet: the request has waited for an answer for long enough.
        return self.state == X_ATTEMPT and (self.attempt.state == A_SENT or self.hedged == HEDGE_WON)

    cdef void arm_wait(self) noexcept:
        cdef uint64_t when = self.expires
        cdef uint64_t limit = self.pool.response_timeout
        if self.route.timed:
            limit = limit_of_attempt(self) if self.awaits_answer() else limit_of_answer(self)
        if limit and self.client.poller.now + limit < when:
            when = self.client.poller.now + limit
        if self.watched:
            self.limit = when
            when = min(when, self.look_at)
        self.client.poller.arm(self, when)

    cdef void on_timer(self) noexcept:
        if self.watched and self.look_by_tick():
            return
        if self.state == X_REQUEST and self.source.on_time(self):
            return
        if self.state == X_UPGRADED:
            self.attempt.idle()
            return
        if self.awaits_answer() and self.client.poller.now < self.expires:
            if self.retry_attempt(RETRY_TIMEOUT, failure_of(FAIL_TIMEOUT).status):
                return
            if self.hedge is not None:
                self.attempt.stop()
                self.status = failure_of(FAIL_TIMEOUT).status
                tg_add(&self.attempt.pool.series[self.attempt.endpoint][ENDPOINT_TIMEOUTS], 1)
                self.let_go(False)
                self.promote_hedge()
                return
        time_is_over(self)

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
        if pushback == PUSHBACK_NEVER or not self.retry_named(kind, code):
            return False
        if self.retries_left <= 0:
            return awaits_notice(self, kind, now)
        if policy is None or policy.careful and kind & RETRY_CONNECT:
            return True                       # it was not processed, and is no work that is done twice
        if policy.careful and not kind & RETRY_RESET and not others_may_do(self):
            return False
        self.wait = policy.pause(self.attempts)
        if pushback >= 0 and not heeds(self, <uint64_t>pushback * MILLISECOND_NS, now):
            return False
        if self.due() != UINT64_MAX and now + self.wait >= self.due():
            return False                      # what failed says more than a deadline that passes in a pause
        if policy.budget.claim(now):
            return True
        tg_add(&self.route.series[ROUTE_RETRIES_REFUSED], 1)
        return False

    cdef void next_attempt(self) noexcept:
        self.retries_left -= 1
        if self.affinity.sequence_at != -1:
            untie(self)
        self.client.poller.arm(self, self.expires)       # until the next attempt waits
        if self.wait == 0:
            self.pick()
            return
        self.move(X_BACKOFF)
        self.drop_timer()
        self.attempt_timer = AttemptTimer.__new__(AttemptTimer)
        self.attempt_timer.exchange = self
        self.route.retry.timers.arm(self.attempt_timer, self.client.poller.now + self.wait)

    cdef bint retry_attempt(self, int kind, int status) noexcept:
        cdef RetryPolicy policy = self.route.retry
        if policy is None or not policy.names(kind) or not self.attempt.repeatable():
            return False
        if self.hedge is None and not self.retry_granted(kind, -1):
            return False
        self.attempt.stop()
        self.status = status
        if kind == RETRY_TIMEOUT and self.attempt.state != A_OVER:
            tg_add(&self.attempt.pool.series[self.attempt.endpoint][ENDPOINT_TIMEOUTS], 1)
        self.let_go(False)
        if not self.promote_hedge():
            self.next_attempt()
        return True

    cdef void sent_again(self, Attempt attempt) noexcept:
        if attempt.state != A_OVER:
            tg_add(&attempt.pool.series[attempt.endpoint][ENDPOINT_RETRIES], 1)

    cdef bint attempt_failed(self, Attempt attempt, int kind) noexcept:
        count_failure(attempt.pool.series[attempt.endpoint], kind)
        if attempt is self.hedge:
            if kind == FAIL_NO_SOCKET:
                self.release_hedge(STOPPED, 0, GRPC_CANCELLED)
            else:
                self.release_hedge(ENDED, failure_of(kind).status, failure_of(kind).grpc_status)
            return True
        self.status = failure_of(kind).status
        self.failure = kind if kind == FAIL_NO_SOCKET else FAIL_NONE
        self.let_go(False)
        self.failure = FAIL_NONE
        if self.promote_hedge():
            return True
        if not attempt.may_retry(kind):
            return False
        self.next_attempt()
        return True

    cdef void endpoint_marked(self, object attempt) noexcept:
        """As if the endpoint had broken the attempt off, but nothing is held against it: others may have asked for it,
        and of a backup that is relieved nothing is wrong."""
        if attempt is self.hedge:
            self.hedge.stop()
            self.release_hedge(STOPPED, 0, GRPC_CANCELLED)
            return
        if self.state < X_ANSWERING:
            self.attempt.stop()
            self.status = failure_of(FAIL_MARKED).status
            self.failure = FAIL_MARKED
            self.let_go(False)
            self.failure = FAIL_NONE
            if self.promote_hedge():
                return
            if self.attempt.may_retry(FAIL_RESET):
                self.next_attempt()
                return
        self.fail(FAIL_MARKED, "the endpoint was marked down")

    # Hedges.

    cdef void watch(self) noexcept:
        cdef uint64_t now = self.client.poller.now
        if self.attempt_timer is not None or self.hedge is not None:
            return                            # since the connect began
        if self.route.hedge.careful:
            self.watch_by_tick()
            return
        self.waits_since = 0
        if self.hedged:
            return
        if self.attempts == 1:
            self.waits_since = now
        if self.affinity.in_sequence or self.pool.endpoints.size < 2 or not self.attempt.repeatable():
            return
        self.plan_hedge(now)

    cdef void watch_by_tick(self) noexcept:
        cdef HedgePolicy policy = self.route.hedge
        cdef uint64_t now = self.client.poller.now
        if self.watched or self.attempts != 1 or self.hedged or not (self.idempotent or self.source is not None):
            return
        self.waits_since = now
        if now >= policy.look_at:
            policy.look(now)
        if policy.known == 0:
            return
        self.watched = True
        self.limit = UINT64_MAX
        # Its endpoint may stand still long before the answer is late; that is found out no sooner than `stuck_at` says.
        self.look_at = now + (policy.soonest if self.pool.policy.keeps_progress else policy.unseen)

    cdef void arm_look(self) noexcept:
        if self.watched:
            self.limit = self.deadline
            self.client.poller.arm(self, min(self.limit, self.look_at))

    cdef bint look_by_tick(self) noexcept:
        cdef uint64_t now = self.client.poller.now
        self.watched = False
        if now >= self.limit:
            return False
        self.client.poller.arm(self, self.limit)
        if (self.state == X_ATTEMPT and self.attempt_timer is None and self.hedge is None and self.waits_since
                and not self.affinity.in_sequence and self.attempt.repeatable()):
            self.plan_hedge(self.waits_since)
        return True

    cdef void stop_watching(self) noexcept:
        self.watched = False
        self.deadline = self.limit            # the poller goes by it when it comes by the look's place

    cdef void plan_hedge(self, uint64_t since) noexcept:
        cdef uint64_t delay = self.route.hedge.delay(since), rings
        cdef AttemptTimer timer
        if delay == UINT64_MAX:
            return
        timer = AttemptTimer.__new__(AttemptTimer)
        timer.waits_since = since
        timer.late_at = since + delay
        self.attempt_timer = timer
        rings = timer.late_at
        if self.route.hedge.per_mille:
            timer.late_at = since + max(delay, self.unusual())
            rings = min(timer.late_at, self.stuck_at())
        if self.due() != UINT64_MAX and rings >= self.due():
            self.attempt_timer = None
            return
        timer.exchange = self
        self.route.hedge.timers.arm(timer, rings)

    cdef uint64_t unusual(self) noexcept:
        """From when on an answer is late for its endpoint, not only for the route: what is slow by nature, or has
        others before it, gains nothing by a second attempt, and both take a slot."""
        return <uint64_t>min(SLOWER * self.pool.usual(self.attempt.endpoint), <double>FOREVER_NS)

    cdef uint64_t stuck_at(self) noexcept:
        """From when on its endpoint is stuck, if it answers nobody until then: what is there waits for nothing, however
        short a time it has been there. UINT64_MAX where that is not known."""
        cdef int endpoint = self.attempt.endpoint
        cdef double service, patience
        cdef uint64_t known = self.route.hedge.patience
        if not self.pool.policy.keeps_progress:
            return UINT64_MAX
        service = min(self.pool.policy.usual_gap(endpoint), <double>FOREVER_NS)
        if service <= 0.0:
            return UINT64_MAX
        if self.pool.give_ups(endpoint) >= HEAD_START:
            patience = 1.0                    # it was found stuck: this one looks whether it still is
        elif known:
            patience = max(<double>SLOWER, known / 1000.0)
        else:
            return UINT64_MAX
        return max(
            self.pool.endpoints.progress(endpoint) + <uint64_t>min(patience * service, <double>FOREVER_NS),
            self.attempt_timer.waits_since + max(<uint64_t>service, self.route.hedge.least),
        )

    cdef void learn_silence(self, uint64_t now) noexcept:
        """Its endpoint answers, or is given up: how long was nothing heard of it, this request being there?"""
        cdef double service
        cdef uint64_t since
        if self.pool.policy.keeps_progress:
            service = self.pool.policy.usual_gap(self.attempt.endpoint)
            since = max(self.waits_since, self.pool.endpoints.progress(self.attempt.endpoint))
            if service > 0.0 and now > since:
                self.route.hedge.learn_silence(now, <uint64_t>min(1000.0 * (now - since) / service, 1e15))

    cdef void start_hedge(self) noexcept:
        """Nobody waits for it: where no other endpoint has room, or others wait for that, there is none."""
        cdef AttemptTimer timer = self.attempt_timer
        cdef Pool pool = self.pool
        cdef Attempt hedge
        cdef uint64_t now = self.client.poller.now, stuck_at
        cdef int found, charged = 0
        if timer is None or self.state != X_ATTEMPT or self.attempt.state == A_OVER:
            return
        if pool.newer is not None:
            if pool.newer.protocol != pool.protocol:
                return                        # it speaks what only the old one's channels do
            pool = pool.newer
        if now < timer.late_at:
            stuck_at = self.stuck_at()
            if stuck_at > now:                # it has answered others since
                stuck_at = max(stuck_at, now + (timer.late_at - timer.waits_since) // LOOKS)
                self.route.hedge.timers.arm(timer, min(timer.late_at, stuck_at))
                return
        if not self.route.hedge.pays():
            self.drop_timer()
            return
        if not self.route.hedge.budget.claim(now):
            tg_add(&self.route.series[ROUTE_HEDGE_RESULTS_REFUSED], 1)
            return
        found = self.choose_hedge(pool, now, &charged)
        if found < 0:
            self.route.hedge.budget.give_back(now)
            return
        self.drop_timer()
        self.hedged = HEDGE_LOST              # until it wins
        self.attempts += 1
        tg_add(&self.route.series[ROUTE_HEDGES], 1)
        hedge = self.attempt.twin()
        if hedge is None:
            hedge = Attempt.__new__(Attempt)  # to give the endpoint back
            take_slot(hedge, pool, found, charged, now)
            self.hedge = hedge
            self.attempt_failed(hedge, FAIL_CONNECT)
            return
        take_slot(hedge, pool, found, charged, now)
        hedge.owner = self
        self.hedge = hedge
        hedge.launch()

    cdef int choose_hedge(self, Pool pool, uint64_t now, int *charged) noexcept:
        """Since a reload the slot of an endpoint that is gone may be another's: what the old form says of it is no
        more true. So the choice is made in the newest, although the exchange's own attempt is in its old one."""
        cdef Pool own = self.pool
        cdef uint64_t wanted = self.wanted
        cdef int sticky = self.affinity.sticky, exclude = self.attempt.endpoint, found
        cdef Choice choice
        cdef str beside = <str>own.endpoints.addresses[exclude]
        if pool is not own:
            self.pool = pool
            self.want_model(self.wanted_model)
            self.affinity.sticky = -1
            exclude = pool.index_at(beside)
        choice = pool.new_choice(now, self.key)
        choice.exclude = exclude
        choice.need(self.wanted)
        if pool.costs is not None:
            choice.cost = self.cost if self.cost else self.price(now)
        if self.explained:
            before_choice(self, choice, exclude)
        found = pool.acquire(choice)
        charged[0] = choice.charged
        if found >= 0 and found == exclude:
            pool.release(found, now, 0, True, 0, choice.charged, 0)
            found = -1
        if self.explained:
            after_choice(self, now, found, beside)
        self.pool = own
        self.wanted = wanted
        self.affinity.sticky = sticky
        return found

    cdef void own_answer(self) noexcept:
        cdef uint64_t now = self.client.poller.now
        if self.watched:
            self.stop_watching()
        if self.waits_since:
            self.route.hedge.learn(now, now - self.waits_since)
            if self.pool.policy.keeps_progress:
                self.learn_silence(now)
            self.waits_since = 0
        if self.hedge is not None or self.attempt_timer is not None:
            self.drop_hedge()

    cdef bint hedge_answers(self, bint good, int status, int code) noexcept:
        cdef Attempt own = self.attempt
        cdef tg_outcome outcome
        cdef uint64_t now = self.client.poller.now
        if not good:
            self.hedge.stop()                 # the first attempt may still do better
            self.release_hedge(ENDED, status, code)
            return False
        own.stop()
        if self.waits_since:
            self.route.hedge.learn_given_up(now, now - self.waits_since)
            if own.pool.give_ups(own.endpoint) == 0:
                self.learn_silence(now)       # once for all that it holds
            self.waits_since = 0
        memset(&outcome, 0, sizeof(outcome))
        outcome.how = GIVEN_UP
        outcome.code = self.code_of_call(GRPC_CANCELLED)
        outcome.bytes_out = self.bytes_in
        release(own, &outcome, now)
        self.promote_hedge()
        return True

    cdef bint promote_hedge(self) noexcept:
        cdef Attempt hedge = self.hedge
        self.drop_timer()
        if hedge is None:
            return False
        self.hedged = HEDGE_WON               # its answer will be taken, whatever it is
        self.pushback = PUSHBACK_NONE         # that was the other endpoint's
        tg_add(&self.route.series[ROUTE_HEDGE_RESULTS_WON], 1)
        self.route.hedge.ended(True)
        self.waits_since = 0
        if hedge.pool is not self.pool:
            rebind(self, hedge.pool)
        self.attempt.owner = None
        self.attempt = hedge
        self.hedge = None
        self.last_endpoint = hedge.endpoint
        self.arm_wait()
        return True

    cdef void drop_hedge(self) noexcept:
        self.drop_timer()
        if self.hedge is not None:
            self.hedge.stop()
            self.release_hedge(STOPPED, 0, GRPC_CANCELLED)

    cdef void drop_timer(self) noexcept:
        if self.attempt_timer is not None:
            self.attempt_timer.exchange = None
            self.attempt_timer = None

    cdef void release_hedge(self, ending how, int status, int code) noexcept:
        cdef Attempt hedge = self.hedge
        cdef tg_outcome outcome
        self.hedge = None
        hedge.owner = None
        code = self.code_of_call(code)
        outcome.how = how
        outcome.ok = how == STOPPED
        outcome.answered = True
        outcome.status = status
        outcome.code = code
        outcome.late = False
        outcome.verdict = VERDICT_NONE
        if how == ENDED:
            outcome.verdict = verdict_of_grpc(code) if code >= 0 else verdict_of(status, False)
        outcome.bytes_in = 0
        outcome.bytes_out = self.bytes_in
        tg_add(&self.route.series[ROUTE_HEDGE_RESULTS_LOST], 1)
        self.route.hedge.ended(False)
        release(hedge, &outcome, self.client.poller.now)

    cdef int code_of_call(self, int code) noexcept:
        return code if self.grpc != SPEAKS_HTTP or self.pool.protocol == POOL_OIP else -1

    # The answer.

    cdef void find_report(self, const Field *fields, int count) noexcept:
        cdef Attempt attempt = self.attempt
        if attempt.state != A_OVER:
            take_report(fields, count, attempt.pool.endpoints, attempt.endpoint, self.client.poller.now)

    cdef int append_endpoint(self, tg_buffer *head) noexcept:
        """What the route and its pool add to answers: what rate limit and quotas leave, the pool's cookie, why it was
        this endpoint, and X-Tidegate-Endpoint when one answered."""
        cdef bytes address
        if self.route.rate is not None:
            self.route.rate.append_fields(head, &self.rate)
        if self.quota_use is not None:
            self.quota_use.append(head)
        if self.route.cors is not None:
            self.append_cors(head, False)
        if self.pool.cookie is not None and self.grpc != SPEAKS_GRPC:     # gRPC has no cookies
            append_cookie(&self.affinity, self.pool, self.last_endpoint, head)
        if self.granted is not None:
            tg_buffer_append(head, <const char *>self.granted, <size_t>len(self.granted))
        if self.explained:
            append_explanation(self, head)
        if not self.route.expose_endpoint or self.last_endpoint < 0:
            return 0
        address = (<str>self.pool.endpoints.addresses[self.last_endpoint]).encode()
        tg_buffer_append(head, b"X-Tidegate-Endpoint: ", 21)
        tg_buffer_append(head, <const char *>address, <size_t>len(address))
        return tg_buffer_append(head, b"\r\n", 2)

    cdef int change_answer(self, Scan *scan) noexcept:
        cdef bytes address
        if self.route.response_rewrite is not None and self.route.response_rewrite.concerns(scan):
            if self.route.response_rewrite.apply(scan, self.asked_host(), self.answering()) < 0:
                return -1
        if self.route.response_fields is None:
            return 0
        if not self.route.response_fields.valued:
            return self.route.response_fields.apply(scan)
        if self.kept is None:                 # it was not admitted: nobody but a cache gets the answer
            return 0
        address = self.answering()
        return self.route.response_fields.apply_kept(scan, self.kept, <const char *>address, <size_t>len(address))

    cdef int append_changes(self, tg_buffer *head) noexcept:
        cdef bytes address
        if self.route.response_fields is None:
            return 0
        if not self.route.response_fields.valued:
            return self.route.response_fields.append(head)
        if self.kept is None:
            return 0
        address = self.answering()
        return self.route.response_fields.append_kept(head, self.kept, <const char *>address, <size_t>len(address))

    cdef bytes asked_host(self):
        """The Host of the request, where the route's `response_rewrite` wants it; None: it is not known."""
        if self.kept is None or not self.route.response_rewrite.wants_host:
            return None
        return <bytes>self.kept[len(self.kept) - (1 if self.route.log_format is None else 2)]

    cdef bytes answering(self):
        """The address of the endpoint that answers; b"": it is none's answer."""
        if self.last_endpoint < 0:
            return b""
        return (<str>self.pool.endpoints.addresses[self.last_endpoint]).encode()

    cdef int append_cors(self, tg_buffer *head, bint preflight) noexcept:
        return self.route.cors.append(head, tg_buffer_tail(&self.target) - self.identity_length - self.origin_length,
                                      self.origin_length,
                                      preflight)

    cdef void client_drained(self) noexcept:
        if self.route.holds_answers:
            self.client.drained()
        if self.attempt is None:
            return
        if self.route.holds_answers and self.client.backlog() > HIGH_WATER:
            return                            # who stands before the client has more to do, and says when it has not
        self.attempt.client_drained()

    # The end.

    cdef void note_failure(self, int kind) noexcept:
        self.failure = <unsigned char>kind
        self.reason = failure_of(kind).reason
        count_refusal(self.route.series, kind)

    cdef void fail(self, int kind, str message) noexcept:
        self.fail_with(kind, failure_of(kind).status, message)

    cdef void fail_with(self, int kind, int status, str message) noexcept:
        """Ends the exchange with an answer of our own, or by cutting the connection when the answer has begun."""
        cdef Refusal answer
        cdef Client client = self.client
        if self.state == X_DONE or self.state == X_ANSWERING and self.attempt.end_answer(kind, message):
            return
        if status >= 500 and self.state < X_ANSWERING and self.source is not None and (
                self.source.rescue(self, kind, status)):
            return
        self.note_failure(kind)
        self.leave_queue(False)
        self.cancel()
        if self.state >= X_ANSWERING:
            self.cut = status
            self.let_go(False)
            self.record()
            client.abort()
            return
        self.status = status
        self.let_go(status < 500)         # a client's fault is not held against the endpoint
        if client.covers():
            return
        answer = refusal_of(self, status, message)
        self.bytes_out = answer.part.iov_len
        self.record()
        client.respond_whole(answer.status, &answer.head, &answer.part, 1)

    cdef void cancel(self) noexcept:
        if self.attempt is not None:
            self.attempt.stop()
        if self.source is not None:
            self.source.leave(self)

    cdef void client_gone(self) noexcept:
        """The client left: stop the work, free the slot; there is nobody to answer (nginx's 499)."""
        if self.client.outlives() or self.state == X_DONE:     # who stands before it hears of it in either case
            return
        self.leave_queue(False)
        self.cancel()
        if self.state != X_UPGRADED:          # which ends in this way, too
            self.status = CLIENT_GONE
            self.failure = FAIL_CLIENT_GONE
            self.reason = failure_of(FAIL_CLIENT_GONE).reason
        self.let_go(True)
        self.record()

    cdef void end(self) noexcept:
        """The answer is complete."""
        cdef Client client = self.client
        self.let_go(self.status < 500)
        self.record()
        client.respond_end()

    cdef void let_go(self, bint ok) noexcept:
        """The attempt is over: gives the endpoint back, with what it took and how it ended."""
        cdef Attempt attempt = self.attempt
        cdef tg_outcome outcome
        if self.watched:
            self.stop_watching()
        if attempt is None or attempt.state == A_OVER:
            return
        if ok and self.source is not None:
            self.source.ended_well(self)
        outcome.how = ENDED
        outcome.ok = ok
        outcome.answered = self.reason == NULL
        outcome.status = self.cut if self.cut else self.status
        outcome.bytes_in = self.bytes_out
        outcome.bytes_out = self.bytes_in
        attempt.judge_outcome(&outcome)
        if self.failure == FAIL_MARKED:
            outcome.verdict = VERDICT_NONE
        elif self.failure == FAIL_NO_SOCKET:                   # nothing went out
            outcome.how = STOPPED
            outcome.status = 0
            outcome.code = -1
            outcome.verdict = VERDICT_NONE
        outcome.late = outcome.verdict > VERDICT_GOOD and self.is_late(self.due())
        release(attempt, &outcome, self.client.poller.now)

    cdef bint is_late(self, uint64_t due) noexcept:
        """Whether the time until `due` is over, by the clock of an endpoint that was told how much there was."""
        return self.client.poller.now + EARLY_NS >= due

    # The record.

    cdef bint succeeded(self) noexcept:
        if self.grpc != SPEAKS_HTTP and self.grpc_status != 0:
            return False
        return 200 <= self.status < 300 and self.reason == NULL

    cdef void record(self) noexcept:
        cdef uint64_t duration = self.client.poller.clock() - self.started
        if self.hedge is not None or self.attempt_timer is not None:
            self.drop_hedge()
        if self.attempt is not None:
            self.attempt.owner = None         # which has it as its attempt
        self.move(X_DONE)
        self.deadline = UINT64_MAX
        if self.affinity.in_sequence:
            leave_sequence(&self.affinity, self.pool, self.attempts != 0, self.succeeded(), self.status == CLIENT_GONE,
                           self.client.poller.now)
        elif self.affinity.key and self.pool.sessions is not None:
            self.pool.sessions.touch(self.affinity.key, self.client.poller.now)
        if self.head_method:
            self.bytes_out = 0                # of an answer of our own, too (RFC 9110 section 9.3.2)
        count_exchange(self, duration)
        if self.tracked is not None:
            end_tracked(self)
        if self.recorded():
            log_exchange(self, duration)
        if self.explained:
            forget_explanation(self)

    cdef bytes named_model(self):
        cdef bytes model = self.source.model() if self.source is not None else None
        return self.wanted_model if model is None else model

    cdef bint recorded(self) noexcept:
        if not self.listener.access.enabled:
            return False
        return self.listener.access.writing or (self.ids != NULL and self.ids.trace.flags & TRACE_SAMPLED)

    cdef int final_grpc_status(self) noexcept:
        if self.grpc == SPEAKS_HTTP:
            return self.grpc_status           # the model server's, of which the client got an HTTP status
        if self.status == 200 or (self.grpc_status >= 0 and self.status != CLIENT_GONE):
            return self.grpc_status
        return -1 if self.status == CLIENT_GONE else grpc_code(self.status)

    cdef int counted_grpc_status(self) noexcept:
        if self.grpc == SPEAKS_HTTP:
            return -1
        if self.status == CLIENT_GONE:
            return GRPC_CANCELLED
        if self.status == 200 and self.grpc_status < 0 and self.pool is not None and self.pool.protocol != POOL_HTTP:
            return GRPC_UNKNOWN if self.reason == NULL else GRPC_UNAVAILABLE
        return self.final_grpc_status()


cdef void end_exchange(void *exchange) noexcept:
    tg_buffer_free(&(<Exchange>exchange).target)
    free((<Exchange>exchange).ids)
    free((<Exchange>exchange).excluded)


tg_end_by(<PyTypeObject *>Exchange, end_exchange)
tg_reuse(<PyTypeObject *>Exchange)


cdef void turn_budgets(Exchange exchange) noexcept:
    """A second of the budgets that are shares of the pool's requests is over. A request that has waited for a plan has
    the pool of that plan, and the budgets of the one before: the pool's own are for the next request."""
    cdef Route route = exchange.route
    if route.pool is None or route.pool is exchange.pool:
        exchange.pool.budgets_turn_at = exchange.started + SECOND_NS
    if route.retry is not None and route.retry.careful:
        route.retry.budget.begin(exchange.started)
    if route.hedge is not None and route.hedge.careful:
        route.hedge.budget.begin(exchange.started)


cdef bint heeds(Exchange exchange, uint64_t pushback, uint64_t now) noexcept:
    """The endpoint does not want to be asked again for `pushback` ns: others are asked before, and where none is left,
    the request waits. False: for longer than the route lets it."""
    cdef uint64_t at = exclude_until(
        &exchange.excluded, exchange.new_choice(now), exchange.attempt.endpoint, now + pushback)
    if at <= now:
        return True
    if at - now > exchange.route.retry.patience:
        return False
    exchange.wait = max(exchange.wait, at - now)
    return True


cdef bint has_idempotency_key(const Scan *scan) noexcept:
    """Whether the request has one key by which its endpoints know it again (draft-ietf-httpapi-idempotency-key-header
    section 2). Of two nobody knows which of them counts."""
    cdef const char *value
    cdef size_t n
    return (count_values(scan, KEY_HEADER, b"idempotency-key", 15) == 1
            and find_value(scan, KEY_HEADER, b"idempotency-key", 15, &value, &n) and n != 0)


cdef bint others_may_do(Exchange exchange) noexcept:
    """Whether an answer that is an error may be better from another endpoint: there is one, and the request is not
    this one's by what it is."""
    cdef Pool pool = exchange.pool
    return pool.endpoints.size > 1 and not pool.sticky and pool.key_kind == KEY_NONE


cdef int verdict_by_status(Exchange exchange, bint ok) noexcept:
    if ok and exchange.reason != NULL and exchange.status < 500:
        return VERDICT_NONE                   # an answer of our own, for a client's fault
    return verdict_of(exchange.status, ok)


cdef uint64_t limit_of_answer(Exchange exchange) noexcept:
    if exchange.route.response_timeout < 0:
        return exchange.pool.response_timeout
    return <uint64_t>exchange.route.response_timeout


cdef uint64_t limit_of_attempt(Exchange exchange) noexcept:
    cdef uint64_t limit = limit_of_answer(exchange)
    cdef uint64_t of_attempt
    if exchange.route.retry is None or exchange.route.retry.per_attempt_timeout == 0:
        return limit
    of_attempt = exchange.route.retry.per_attempt_timeout
    return min(limit, of_attempt) if limit else of_attempt


cdef void time_is_over(Exchange exchange) noexcept:
    cdef uint64_t now = exchange.client.poller.now
    if exchange.state == X_DONE:
        return
    if exchange.state == X_QUEUED:
        exchange.leave_queue(True)
        refuse_exchange(exchange, Q_HOPELESS if now >= exchange.due() else Q_TIMEOUT)
        return
    if exchange.state == X_ANSWERING and now < exchange.expires and (
            exchange.client.backlog() or (exchange.wants_body and not exchange.request_complete)):
        exchange.arm_wait()           # the client is slow, not the endpoint; the client has a timeout of its own
        return
    if not exchange.request_complete and exchange.wants_body and exchange.state < X_ANSWERING:
        exchange.fail(FAIL_SLOW_BODY, "the request did not come in the time that its route allows")
        return
    if exchange.attempt is not None and exchange.attempt.state != A_OVER:
        tg_add(&exchange.attempt.pool.series[exchange.attempt.endpoint][ENDPOINT_TIMEOUTS], 1)
    exchange.fail(FAIL_TIMEOUT, "the endpoint did not answer in time")


cdef void refuse_exchange(Exchange exchange, int why) noexcept:
    cdef int kind
    cdef str message
    if why == Q_NOBODY and exchange.affinity.in_sequence and goes_on(exchange):
        return
    if exchange.explained:
        no_choice(exchange, exchange.client.poller.now, why)
    if why == Q_NOBODY and exchange.affinity.sequence_at != -1:
        exchange.fail_lost()
        return
    if (why == Q_NOBODY and exchange.wanted and not is_at_zero(exchange.pool, why)
            and exchange.pool.takes_requests()):
        exchange.model_not_ready()
        return
    kind, message = no_endpoint(exchange.pool, why, exchange.client.poller.now >= exchange.due())
    exchange.fail(kind, message)


cdef bint awaits_notice(Exchange exchange, int kind, uint64_t now) noexcept:
    """Whether it tries once more what refuses connections: in a pool whose endpoints the master starts, a process has
    ended, as the master is about to hear. Then others are left, or it waits for the next one."""
    cdef RetryPolicy policy = exchange.route.retry
    if kind != RETRY_CONNECT or not exchange.pool.awaits_start or policy is None or policy.timers is None:
        return False
    if exchange.attempts >= NOTICE_MOST or now > exchange.attempt.picked_at + NOTICE_NS:
        return False                          # nothing refuses there, nothing answers
    if exchange.due() != UINT64_MAX and now + NOTICE_NS >= exchange.due():
        return False
    exchange.wait = NOTICE_NS
    exchange.retries_left += 1
    return True


cdef uint64_t turn_after(Exchange exchange, int status) noexcept:
    """Nanoseconds after which the client may have its turn; 0: nothing is known of that."""
    cdef uint64_t now = exchange.client.poller.now, after = 0
    if status == failure_of(FAIL_RATE_LIMIT).status:
        return exchange.rate.wait if exchange.rate.wait or exchange.quota_use is None else exchange.quota_use.wait()
    if status != failure_of(FAIL_NO_ENDPOINT).status or exchange.pool is None:
        return 0
    if exchange.pool.queue is not None:
        after = exchange.pool.queue.turn_after(now)
    return after if after else exchange.pool.again_after(now)


cdef Refusal refusal_of(Exchange exchange, int status, str message):
    cdef Refusal answer
    cdef tg_buffer fields
    cdef uint64_t after
    cdef int code = grpc_code(status)
    if exchange.quota_use is not None and exchange.quota_use.refused_by is not None:
        code = failure_of(FAIL_QUOTA).grpc_status
    memset(&fields, 0, sizeof(fields))
    try:
        after = turn_after(exchange, status)
        append_fields(exchange, status, after, &fields)
        answer = refusal(status, code, message, exchange.grpc, &fields, after)
        if exchange.grpc == SPEAKS_HTTP:
            dress(exchange, answer, status, message)
        return answer
    finally:
        tg_buffer_free(&fields)


cdef void dress(Exchange exchange, Refusal answer, int status, str message):
    """Has the answer say the error page for it, where the route or its listener has one."""
    cdef ErrorPage page = None
    cdef tg_values values
    cdef char number[16]
    cdef const char *text
    cdef Py_ssize_t n = 0
    if exchange.route.error_pages is not None:
        page = exchange.route.error_pages.find(status, False)
    if page is None and exchange.listener.error_pages is not None:
        page = exchange.listener.error_pages.find(status, False)
    if page is None:
        return
    text = PyUnicode_AsUTF8AndSize(message, &n)
    memset(&values, 0, sizeof(values))
    gather_error(&values, exchange, status, text, <size_t>n, number)
    page.dress(answer, &values)


cdef void gather_error(tg_values *values, Exchange exchange, int status, const char *message, size_t n,
                       char *text) noexcept:
    note_error(values, status, message, n, text)
    values.known[V_CLIENT_ADDRESS].at = exchange.source_address(&values.known[V_CLIENT_ADDRESS].n)
    if exchange.client.port:
        values.known[V_CLIENT_PORT].n = <size_t>snprintf(values.port, sizeof(values.port), b"%d",
                                                         <int>exchange.client.port)
        values.known[V_CLIENT_PORT].at = values.port
    if exchange.method != M_OTHER:
        set_value(&values.known[V_METHOD], method_name(exchange.method))
    set_value(&values.known[V_SCHEME], exchange.client.scheme())
    set_value(&values.known[V_PROTOCOL], protocol_name(exchange.version))
    if exchange.ids != NULL:
        values.known[V_REQUEST_ID].at = exchange.ids.request_id
        values.known[V_REQUEST_ID].n = exchange.ids.request_id_length
    set_name(&values.known[V_LISTENER], exchange.listener.name)
    set_name(&values.known[V_ROUTE], exchange.route.name)
    if exchange.pool is not None:
        set_name(&values.known[V_POOL], exchange.pool.name)


cdef void append_fields(Exchange exchange, int status, uint64_t after, tg_buffer *fields) noexcept:
    if exchange.rate.wait and status == failure_of(FAIL_RATE_LIMIT).status:
        exchange.route.rate.append_refusal(fields, &exchange.rate)
    elif exchange.rate.admitted:
        exchange.route.rate.append_fields(fields, &exchange.rate)
    if exchange.quota_use is not None:
        exchange.quota_use.append(fields)
    if status == failure_of(FAIL_NO_ENDPOINT).status and after:
        append_text(fields, b"Retry-After: ")
        append_number(fields, <unsigned long>((after + random_below(after // 2 + 1)) // SECOND_NS + 1))
        append_text(fields, b"\r\n")
    if status == failure_of(FAIL_NO_CREDENTIAL).status and exchange.route.guard is not None:
        exchange.route.guard.append_challenges(
            fields, exchange.reason == failure_of(FAIL_BAD_CREDENTIAL).reason)
    if exchange.source is not None:
        exchange.source.append_fields(exchange, fields)
    if exchange.explained:
        append_explanation(exchange, fields)
    if exchange.route.cors is not None:
        exchange.append_cors(fields, False)


cdef const char *MODELS = b"/v2/models/"
cdef size_t MODELS_LENGTH = 11


cdef int told_status(Exchange exchange) noexcept:
    """The HTTP status that the client was told: an answer of our own to one that speaks gRPC is a gRPC status, and
    `status` what it stands for."""
    if (exchange.grpc == SPEAKS_HTTP or exchange.reason == NULL or exchange.first_byte_at
            or exchange.status == CLIENT_GONE):
        return exchange.status
    return 200


cdef inline bint stands_for_another(Exchange exchange, int told) noexcept:
    """Whether the client was told another status than the answer's: a gRPC client of an answer of our own. That counts
    by its own, as gRPC has one code, UNAVAILABLE, for what a limit refuses and for what fails."""
    return not exchange.cut and told != exchange.status


cdef void end_tracked(Exchange exchange) noexcept:
    """Counts what has come of it in the stick tables of its route."""
    cdef int status = exchange.cut if exchange.cut else told_status(exchange)
    cdef int code = exchange.counted_grpc_status()
    cdef bint failure, error
    if stands_for_another(exchange, status):
        status, code = exchange.status, -1
    failure = status >= 500 or is_fault(code)
    error = not failure and (400 <= status < 500 and status != CLIENT_GONE
                             or code > 0 and code != GRPC_CANCELLED)
    exchange.tracked.end(error, failure, exchange.bytes_in, exchange.bytes_out)


cdef void count_exchange(Exchange exchange, uint64_t duration) noexcept:
    cdef uint64_t *words = exchange.route.series
    cdef tg_answered answer
    if exchange.cache == CACHE_REFRESHED:
        tg_add(&words[ROUTE_CACHE_REFRESHED], 1)
        return
    # The status of an answer that was cut off said that it would be whole.
    cdef int status = exchange.cut if exchange.cut else told_status(exchange)
    answer.code = exchange.counted_grpc_status()
    if stands_for_another(exchange, status):
        answer.error = exchange.status >= 500
    else:
        answer.error = status >= 500 or is_fault(answer.code)
    if status == CLIENT_GONE:
        status = 0
        if exchange.reason != NULL:           # not an endpoint's own
            tg_add(&words[ROUTE_CLIENT_ABORTS], 1)
    answer.word = status_word(status)
    answer.bucket = bucket_of(duration)
    answer.duration = duration
    answer.received = exchange.bytes_in
    answer.sent = exchange.bytes_out
    count_answered(words, &answer)
    tg_add(&words[SERIES_FINISHED], 1)
    count_cache(exchange, words)
    if exchange.path_model is not None or exchange.source is not None and exchange.pool is not None:
        count_inference(exchange, &answer)


cdef void count_cache(Exchange exchange, uint64_t *words) noexcept:
    if exchange.cache == CACHE_HIT:
        tg_add(&words[ROUTE_CACHE_HIT], 1)
    elif exchange.cache == CACHE_MISS:
        tg_add(&words[ROUTE_CACHE_MISS], 1)
    elif exchange.cache == CACHE_COLLAPSED:
        tg_add(&words[ROUTE_CACHE_COLLAPSED], 1)
    elif exchange.cache == CACHE_BYPASS:
        tg_add(&words[ROUTE_CACHE_BYPASS], 1)
    elif exchange.cache == CACHE_STALE:
        tg_add(&words[ROUTE_CACHE_STALE], 1)
    elif exchange.cache == CACHE_REVALIDATED:
        tg_add(&words[ROUTE_CACHE_REVALIDATED], 1)
    elif exchange.cache == CACHE_STALE_IF_ERROR:
        tg_add(&words[ROUTE_CACHE_STALE_IF_ERROR], 1)
    elif exchange.cache == CACHE_NEGATIVE:
        tg_add(&words[ROUTE_CACHE_NEGATIVE], 1)


cdef void count_inference(Exchange exchange, const tg_answered *answer) noexcept:
    """By its model, where it is an inference: for metrics, and for a pool whose servers count nothing themselves."""
    cdef int64_t rows = 1
    cdef bytes model = exchange.path_model
    if model is None:
        model = exchange.source.counted(exchange, &rows)
        if model is None:
            return
    count_model(exchange, model, answer)
    if exchange.pool.counts is not None and exchange.source is not None and len(model):
        count_for_servers(exchange, model, rows, answer.duration)


cdef void count_model(Exchange exchange, bytes model, const tg_answered *answer) noexcept:
    cdef bint ok = exchange.succeeded()
    cdef bint proven = ok or exchange.pool.models is not None and exchange.pool.model_bit(model) != 0
    cdef uint64_t *words = exchange.pool.model_series.words(<const char *>model, <size_t>len(model), proven)
    if words == NULL:
        return
    count_answered(words, answer)
    if not ok:
        tg_add(&words[failure_word(exchange, answer)], 1)
    if exchange.cache != CACHE_NONE and exchange.cache != CACHE_BYPASS and exchange.cache != CACHE_MISS:
        tg_add(&words[MODEL_CACHED], 1)


cdef int failure_word(Exchange exchange, const tg_answered *answer) noexcept:
    """Why an inference has no result: the word of MODEL_FAILURES that counts it."""
    cdef const tg_failure *failure = failure_of(exchange.failure)
    if exchange.status == CLIENT_GONE:
        return MODEL_FAILURES_ABORTED
    if exchange.reason != NULL and failure.counter == COUNT_TIMEOUT or answer.code == GRPC_DEADLINE_EXCEEDED:
        return MODEL_FAILURES_TIMEOUT
    if (answer.word == ANSWER_REQUESTS_429 or answer.code == GRPC_RESOURCE_EXHAUSTED
            or exchange.reason != NULL and failure.counter == COUNT_REJECTED):
        return MODEL_FAILURES_REFUSED
    return MODEL_FAILURES_SERVER_ERROR if answer.error else MODEL_FAILURES_CLIENT_ERROR


cdef void count_for_servers(Exchange exchange, bytes model, int64_t rows, uint64_t duration) noexcept:
    """For a pool whose servers count nothing themselves (lb.upstream.model_counts)."""
    cdef uint64_t waited = duration
    cdef Attempt attempt = exchange.attempt
    cached = ""
    if exchange.status == CLIENT_GONE:
        return
    if exchange.cache == CACHE_MISS:
        cached = "miss"
    elif exchange.cache != CACHE_NONE and exchange.cache != CACHE_BYPASS:
        cached = "hit"
    if attempt is not None and attempt.picked_at:
        waited = min(duration, attempt.picked_at - min(attempt.picked_at, exchange.started))
    try:
        ok = bool(exchange.succeeded())
        if rows or not ok:       # the answers of a stream were counted as they came
            exchange.pool.counts.add(model, ok, duration, waited, rows, cached)
    except Exception:
        log.exception("an inference was not counted")


cdef void log_exchange(Exchange exchange, uint64_t duration) noexcept:
    cdef bytes fields
    cdef tg_access *record = exchange.listener.access.begin()
    if record == NULL:
        return
    record.wall_ns = wall_ns() - <int64_t>duration
    record.total_ns = duration
    log_times(exchange, record, duration)
    record.bytes_in = exchange.bytes_in
    record.bytes_out = exchange.bytes_out
    record.status = <unsigned short>told_status(exchange)
    record.grpc_status = <short>exchange.final_grpc_status()
    record.attempts = <unsigned short>exchange.attempts
    record.port = exchange.client.port
    record.cache = <unsigned short>exchange.cache
    record.hedge = <unsigned short>exchange.hedged
    record.version = <unsigned short>exchange.version
    if exchange.client.tls is not None:
        record.tls = <unsigned short>tls_version(exchange.client.tls)
    log_request(exchange, record)
    set_object(record, A_LISTENER, exchange.listener.name)
    set_object(record, A_ROUTE, exchange.route.name)
    if exchange.pool is not None:             # the route's own answer has none
        set_object(record, A_POOL, exchange.pool.name)
    if exchange.last_endpoint >= 0:
        set_object(record, A_ENDPOINT, exchange.pool.endpoints.addresses[exchange.last_endpoint])
    if exchange.kept is not None and exchange.route.log_format is not None:
        fields = <bytes>exchange.kept[len(exchange.kept) - 1]
        if len(fields):
            set_fields(record, <const char *>fields, <size_t>len(fields))
    if exchange.reason != NULL:
        set_text(record, A_REASON, exchange.reason, strlen(exchange.reason))
    if exchange.explained and exchange.pool is not None:
        explain_record(exchange, record)
    exchange.listener.access.commit()


cdef void log_times(Exchange exchange, tg_access *record, uint64_t duration) noexcept:
    """How its time divides into waiting, connecting, the endpoint's own, and the transfer of its answer."""
    cdef Attempt attempt = exchange.attempt
    cdef uint64_t first
    if attempt is None or not attempt.picked_at:
        record.wait_ns = duration
        return
    first = exchange.first_byte_at if exchange.first_byte_at else exchange.started + duration
    record.wait_ns = attempt.picked_at - exchange.started
    record.upstream_ns = first - attempt.picked_at
    if attempt.connected_at > attempt.picked_at:
        record.connect_ns = attempt.connected_at - attempt.picked_at
    record.transfer_ns = exchange.started + duration - first


cdef void log_request(Exchange exchange, tg_access *record) noexcept:
    """Who asked for what, and as part of which trace."""
    cdef const char *text
    cdef const char *target = tg_buffer_head(&exchange.target) + exchange.host_length
    cdef size_t n
    cdef size_t length = (tg_buffer_size(&exchange.target) - exchange.host_length - exchange.agent_length
                          - exchange.method_length - exchange.origin_length - exchange.identity_length)
    cdef const char *end = tg_buffer_tail(&exchange.target) - exchange.identity_length
    if exchange.ids != NULL:
        memcpy(record.trace_id, exchange.ids.trace.trace_id, sizeof(record.trace_id))
        memcpy(record.span_id, exchange.ids.trace.span_id, sizeof(record.span_id))
        memcpy(record.parent_id, exchange.ids.trace.parent_id, sizeof(record.parent_id))
        record.trace_flags = exchange.ids.trace.flags
        set_text(record, A_REQUEST_ID, exchange.ids.request_id, exchange.ids.request_id_length)
    if exchange.method == M_OTHER:
        text = end - exchange.origin_length - exchange.method_length
        set_text(record, A_METHOD, text, exchange.method_length)
    else:
        text = method_name(exchange.method)
        set_text(record, A_METHOD, text, strlen(text))
    text = exchange.source_address(&n)
    set_text(record, A_CLIENT, text, n)
    set_text(record, A_HOST, tg_buffer_head(&exchange.target), exchange.host_length)
    set_text(record, A_TARGET, target, length)
    set_text(record, A_USER_AGENT, target + length, exchange.agent_length)
    set_text(record, A_IDENTITY, end, exchange.identity_length)
    log_model(exchange, record, target, length)


cdef void log_model(Exchange exchange, tg_access *record, const char *target, size_t length) noexcept:
    """By the message, or else by the path, which is that of the protocol whatever the pool speaks."""
    cdef bytes model = exchange.named_model()
    cdef size_t n = 0
    if model is not None:
        set_text(record, A_MODEL, <const char *>model, <size_t>len(model))
    elif length > MODELS_LENGTH and memcmp(target, MODELS, MODELS_LENGTH) == 0:
        target += MODELS_LENGTH
        length -= MODELS_LENGTH
        while n < length and target[n] != c'/' and target[n] != c'?':
            n += 1
        set_text(record, A_MODEL, target, n)


# Explanations of exchanges while they run.
#
# An exchange has no room for an explanation; those few that have one are found by their address.


cdef dict OPEN = {}                   # address of an exchange -> its Explanation
cdef dict REFUSED = {
    Q_FULL: "all that take requests have as many as they may, and so has the queue",
    Q_HOPELESS: "its turn would come too late",
    Q_SHED: "the queue is kept short in an overload",
    Q_TIMEOUT: "it has waited as long as one may",
    Q_NOBODY: NOBODY,
    Q_NO_START: "it has no endpoint, and none can be started",
}


cdef object explanation_of(Exchange exchange):
    key = <size_t><void *>exchange
    found = OPEN.get(key)
    if found is None:
        found = OPEN[key] = Explanation(exchange.explained == EXPLAIN_ASKED)
    return found


cdef bint has_room(Exchange exchange) noexcept:
    """Whether an endpoint would take it: most looks of one who waits find none, and are not worth a view."""
    cdef EndpointSet endpoints = exchange.pool.endpoints
    cdef int i
    for i in range(endpoints.size):
        if not endpoints.limit_now(i) or endpoints.running(i) < endpoints.limit_now(i):
            return True
    return False


cdef void before_choice(Exchange exchange, Choice choice, int exclude) noexcept:
    cdef Pool pool = exchange.pool
    cdef uint64_t blocked = choice.blocked
    try:
        explanation = explanation_of(exchange)
        explanation.view = None               # of a choice that fell on nobody
        if choice.turn and not has_room(exchange):
            return
        if not choice.turn and pool.queue is not None and pool.queue.somebody():
            blocked = pool.queue.blocked_models()
            if blocked == ALL_MODELS_BLOCKED or blocked & choice.models:
                return                        # nothing is chosen: it has to stand in line
        explanation.look(view_of(exchange, choice, exclude, blocked), exclude)
    except Exception:
        log.exception("a choice could not be explained")


cdef object view_of(Exchange exchange, Choice choice, int exclude, uint64_t blocked):
    return View.of(exchange.pool, choice.now, choice.key, exclude, models=choice.models, blocked=blocked,
                   cost=choice.cost * choice.endpoints.scale)


cdef void after_choice(Exchange exchange, uint64_t now, int found, str beside) noexcept:
    cdef Pool pool = exchange.pool
    if found < 0:
        return
    try:
        explanation = explanation_of(exchange)
        explanation.choose(found, situation_of(exchange, now, beside).chosen(
            found, pool.endpoints.addresses[found], explanation.view, spared_of(pool, now)))
    except Exception:
        log.exception("a choice could not be explained")


cdef int explain_choice(Exchange exchange, Choice choice) noexcept:
    cdef uint64_t now = choice.now
    cdef int found
    before_choice(exchange, choice, exchange.last_endpoint)
    found = exchange.choose(choice)
    after_choice(exchange, now, found, None)
    return found


cdef list spared_of(Pool pool, uint64_t now):
    cdef int i
    if pool.slow == NULL:
        return []
    return [i for i in range(pool.endpoints.size) if pool.slow[i].until > now]


cdef object situation_of(Exchange exchange, uint64_t now, str beside):
    """`beside` as in `after_choice`."""
    cdef tuple addresses = exchange.pool.endpoints.addresses
    cdef int sticky = exchange.affinity.sticky, last = exchange.last_endpoint
    return Situation(
        now=now, started=exchange.started, retry=exchange.attempts != 0,
        queued_at=exchange.queued_at if exchange.state == X_QUEUED else 0,
        in_sequence=exchange.affinity.in_sequence, sequence_at=exchange.affinity.sequence_at,
        sticky=sticky, sticky_address=addresses[sticky] if sticky >= 0 else "",
        model=exchange.wanted_model.decode("utf-8", "replace") if exchange.wanted else "",
        failed=addresses[last] if last >= 0 else "",
        beside=beside or "", beside_since=exchange.attempt.picked_at,
    )


cdef void no_choice(Exchange exchange, uint64_t now, int why) noexcept:
    try:
        explanation = explanation_of(exchange)
        view = View.of(exchange.pool, now, exchange.key, exchange.last_endpoint, models=exchange.wanted)
        explanation.look(view, exchange.last_endpoint)
        words = REFUSED[why]
        if why == Q_NOBODY and exchange.affinity.sequence_at != -1:
            words = "the endpoint that has the sequence's state is gone"
        elif why == Q_NOBODY and exchange.wanted and exchange.pool.takes_requests():
            words = "no endpoint that takes requests has the model ready"
        elif why == Q_NOBODY and view.scores:
            words = "the policy chose none of those that take requests, or failed: see the log"
        explanation.choose(-1, situation_of(exchange, now, None).none_chosen(words))
    except Exception:
        log.exception("a choice could not be explained")


cdef bytes text_of(Exchange exchange, size_t most):
    cdef Pool pool = exchange.pool
    address = pool.endpoints.addresses[exchange.last_endpoint] if exchange.last_endpoint >= 0 else None
    return explanation_of(exchange).text(pool.name, pool.policy_type, address, most)


cdef void append_explanation(Exchange exchange, tg_buffer *head) noexcept:
    cdef bytes text
    if exchange.explained != EXPLAIN_ASKED:
        return
    try:
        text = text_of(exchange, HEADER_BYTES)
    except Exception:
        log.exception("a choice could not be explained")
        return
    tg_buffer_append(head, b"X-Tidegate-Explain: ", 20)
    tg_buffer_append(head, <const char *>text, <size_t>len(text))
    tg_buffer_append(head, b"\r\n", 2)


cdef void explain_record(Exchange exchange, tg_access *record) noexcept:
    cdef bytes text
    try:
        text = text_of(exchange, LOG_BYTES)
    except Exception:
        log.exception("a choice could not be explained")
        return
    set_explanation(record, <const char *>text, <size_t>len(text))


cdef void forget_explanation(Exchange exchange) noexcept:
    OPEN.pop(<size_t><void *>exchange, None)


cdef int acquire_sticky(Exchange exchange, Choice choice) noexcept:
    """The endpoint that a cookie or a session names, or else any; or TAKEN_…"""
    cdef int found
    if exchange.last_endpoint == exchange.affinity.sticky:
        exchange.affinity.sticky = -1         # it has failed: another is asked, and named from now on
        exchange.affinity.sticky_full = False
    else:
        found = exchange.pool.acquire_sticky(exchange.affinity.sticky, choice)
        if found >= 0:
            return found
        exchange.affinity.sticky_full = found == TAKEN_FULL
    return exchange.acquire_any(choice)


cdef void learn_session(Exchange exchange, int status, const Field *fields, int count) noexcept:
    learn(&exchange.affinity, exchange.pool, exchange.last_endpoint, status, fields, count,
          exchange.client.poller.now)


# What binds an exchange to an endpoint: its sequence (lb.upstream.affinity.sequences); and what a reload does to such
# ties.

cdef bint may_leave(Exchange exchange) noexcept:
    return not exchange.affinity.in_sequence or exchange.affinity.starts


cdef void untie(Exchange exchange) noexcept:
    """From now on any endpoint will do."""
    exchange.affinity.sequence_at = -1
    exchange.endpoint_bound = False


cdef bint goes_on(Exchange exchange) noexcept:
    cdef int index
    if exchange.affinity.sequence_at == -1:
        return False
    if exchange.affinity.starts:
        untie(exchange)
    else:
        index = sequence_now(&exchange.affinity, exchange.pool, exchange.client.poller.now)
        if index < 0:
            return False
        exchange.affinity.sequence_at = index
    exchange.client.poller.arm(exchange, exchange.expires)
    exchange.pick()
    return True


cdef void rebind(Exchange exchange, Pool pool) noexcept:
    """A reload gave its pool another form: what it knows of endpoints and models is put into the numbers of that."""
    cdef Pool old = exchange.pool
    exchange.pool = pool
    exchange.want_model(exchange.wanted_model)   # whose bit may be another there
    exchange.last_endpoint = -1               # an index of the old one
    forget_excluded(exchange.excluded)
    exchange.pool = follow_pool(&exchange.affinity, old, pool)
    exchange.endpoint_bound = exchange.affinity.sequence_at != -1


cdef void follow(Exchange exchange) noexcept:
    cdef Pool pool = exchange.pool, newest = pool.newer
    cdef int failed = exchange.last_endpoint
    exchange.move_to(newest)
    if failed >= 0 and exchange.pool is newest:
        exchange.last_endpoint = newest.index_at(<str>pool.endpoints.addresses[failed])
