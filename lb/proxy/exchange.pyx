"""One request with its answer: the steps that every exchange takes, top to bottom.

    begin          route and admission are done (admission.pyx); the subclass builds its request
    pick           the policy chooses an endpoint; in-flight is counted. When none has room, the exchange waits its turn
    launch         upstream (the subclass): forward.pyx speaks HTTP/1.1, forward_http2.pyx HTTP/2, infer.pyx translates
    fail           an answer of our own, with the status that says whose fault it was
    end            in-flight is given back, counters and the access log are written, the client goes on

What they need beside the story: bound.pyx (sequences), kept.pyx and session.pyx (clients that stay), explained.pyx,
timeouts.pyx, refused.pyx (what is said to whom), exchange_record.pyx (counters and the access log).
"""

import logging

from libc.stdint cimport UINT64_MAX, uint64_t
from libc.stdlib cimport free
from lb.core.buffer cimport tg_buffer, tg_buffer_append, tg_buffer_free, tg_buffer_tail
from lb.core.hashing cimport hash64
from lb.core.head cimport Field, Scan
from lb.core.poller cimport monotonic_ns
from lb.core.segment cimport TG_S_BYTES_IN, TG_S_BYTES_OUT, TG_S_REJECTED, TG_S_RETRIES, tg_add
from lb.core.source_key cimport hash_source
from lb.core.splice cimport PASS_NOT
from lb.core.trace cimport TRACE_SAMPLED
from lb.proxy.bound cimport begin_sequence, bind, follow, leave_sequence, lose_sequence, rebind
from lb.proxy.client cimport Client
from lb.proxy.exchange_record cimport count_exchange, log_exchange
from lb.proxy.explained cimport append_explanation, explain_choice, forget_explanation
from lb.proxy.kept cimport acquire_kept, read_cookie, tell_client
from lb.proxy.keys cimport find_value
from lb.proxy.refusal cimport SPEAKS_HTTP, Refusal, grpc_code
from lb.proxy.refused cimport refusal_of, refuse_exchange
from lb.proxy.session cimport read_session
from lb.proxy.tally cimport count_try
from lb.proxy.timeouts cimport limit_of_answer, limit_of_try, time_is_over
from lb.upstream.cost cimport UNIT_BYTES, PoolCosts
from lb.upstream.http1 cimport Http1Call
from lb.upstream.load_report cimport take_report
from lb.upstream.outlier cimport VERDICT_GOOD, VERDICT_NONE, verdict_of
from lb.upstream.pool cimport KEY_NONE, Pool
from lb.upstream.queue cimport Q_FULL, Q_NOBODY, Q_WAITS, TAKEN_FULL, TAKEN_NOBODY
from lb.upstream.untried cimport acquire_untried

cdef enum:
    GRPC_CANCELLED = 1

log = logging.getLogger("tidegate.proxy")

# Which state may follow which: a bit per follower.
cdef int FOLLOWERS[8]
FOLLOWERS[X_NEW] = 1 << X_REQUEST | 1 << X_QUEUED | 1 << X_PICKED | 1 << X_DONE
FOLLOWERS[X_REQUEST] = 1 << X_QUEUED | 1 << X_PICKED | 1 << X_ANSWERING | 1 << X_DONE
FOLLOWERS[X_QUEUED] = 1 << X_QUEUED | 1 << X_PICKED | 1 << X_DONE
FOLLOWERS[X_PICKED] = (
    1 << X_QUEUED | 1 << X_PICKED | 1 << X_WAITING | 1 << X_BACKOFF | 1 << X_ANSWERING | 1 << X_DONE
)
FOLLOWERS[X_WAITING] = 1 << X_QUEUED | 1 << X_PICKED | 1 << X_BACKOFF | 1 << X_ANSWERING | 1 << X_DONE
FOLLOWERS[X_BACKOFF] = 1 << X_QUEUED | 1 << X_PICKED | 1 << X_DONE
FOLLOWERS[X_ANSWERING] = 1 << X_DONE
FOLLOWERS[X_DONE] = 0


cdef class Exchange(Http1Call):

    def __cinit__(self):
        self.endpoint = -1
        self.last_endpoint = -1
        self.bound = -1
        self.kept_to = -1
        self.expires = UINT64_MAX
        self.wants_body = True

    def __dealloc__(self):
        tg_buffer_free(&self.target)
        free(self.ids)

    cdef void move(self, int state) noexcept:
        if not (FOLLOWERS[self.state] >> state) & 1:
            log.error("exchange: state %d cannot follow %d", state, self.state)
        self.state = state

    # The request.

    cdef void begin(self, Scan *scan) noexcept:
        pass

    cdef bint admit(self, Scan *scan) noexcept:
        cdef size_t n
        cdef const char *source = self.source(&n)
        if self.route.rate is None or self.route.rate.admit(scan, source, n, self.started, &self.rate):
            return True
        tg_add(&self.route.series[TG_S_REJECTED], 1)
        self.request_complete = scan.complete     # then the connection can go on
        self.fail(429, b"rate-limit", "too many requests; Retry-After says when to ask again")
        return False

    cdef const char *source(self, size_t *n) noexcept:
        if self.ids != NULL and self.ids.source_length:
            n[0] = self.ids.source_length
            return self.ids.source
        n[0] = self.client.ip_length
        return self.client.ip

    cdef void take_body(self, const iovec *spans, int count, size_t size, bint last) noexcept:
        if self.request_complete:
            return
        self.bytes_in += size
        if self.bytes_in > self.route.max_body:
            self.fail(413, b"body-too-large", f"the request's body is over the limit of {self.route.max_body} bytes")
            return
        self.request_body(spans, count, size, last)

    cdef void request_body(self, const iovec *spans, int count, size_t size, bint last) noexcept:
        pass

    cdef char *body_place(self, size_t size) noexcept:
        return NULL

    cdef Py_ssize_t pass_body(self, size_t size) noexcept:
        return PASS_NOT

    cdef void take_trailers(self, Scan *scan) noexcept:
        """Passed on by those that forward; nobody else asked for them."""

    # The policy.

    cdef uint64_t find_key(self, Scan *scan) noexcept:
        """The affinity key of the request, by the pool's `key`; a request without it is keyed by its source."""
        cdef Pool pool = self.pool
        cdef const char *text
        cdef size_t n
        if pool.sticky:
            self.read_kept(scan)
        if pool.key_kind == KEY_NONE:
            return 0
        if find_value(scan, pool.key_kind, <const char *>pool.key_name, <size_t>len(pool.key_name), &text, &n):
            return hash64(text, n)
        text = self.source(&n)
        return hash_source(text, n, &pool.prefixes)

    cdef bint join_sequence(self, uint64_t key, bint start, bint end) noexcept:
        return bind(self, key, start, end)

    cdef void fail_lost(self) noexcept:
        lose_sequence(self)
        self.fail(409, b"sequence-lost", "the endpoint that has the sequence's state is gone: begin the sequence anew")

    cdef void read_kept(self, Scan *scan) noexcept:
        if self.pool.cookie is not None:
            read_cookie(self, scan)
        else:
            read_session(self, scan)

    cdef void want_model(self, bytes name) noexcept:
        self.wanted_model = name
        self.wanted = 0
        if name is not None and self.pool.models is not None:
            self.wanted = self.pool.model_bit(name)

    cdef void model_not_ready(self) noexcept:
        tg_add(&self.route.series[TG_S_REJECTED], 1)
        name = self.wanted_model.decode("utf-8", "replace")
        self.fail(503, b"model-not-ready", f"no endpoint of pool {self.pool.name} has model {name} ready")

    cdef void pick(self) noexcept:
        """An endpoint by the pool's policy, not the one that just failed; in line when none has room."""
        cdef uint64_t now = self.client.poller.now
        cdef int found
        cdef int verdict = Q_NOBODY
        if self.pool.newer is not None:
            follow(self)
        if self.pool.costs is not None:
            self.weigh(now)
        found = self.find_endpoint(now, False)
        if found == TAKEN_FULL:
            verdict = Q_FULL
            if self.pool.queue is not None:
                verdict = self.pool.queue.join(self, self.route.priority, self.due(), now)
            if verdict != Q_WAITS and self.last_endpoint >= 0:
                self.settle()                 # where it has failed rather than nowhere
                found = self.find_endpoint(now, False)
        if found >= 0:
            self.picked(found)
            return
        if verdict != Q_WAITS:
            if self.pool.queue is not None:
                self.pool.queue.count_refused(verdict)
            refuse_exchange(self, verdict)
            return
        self.move(X_QUEUED)
        self.client.poller.arm(self, min(self.due(), self.pool.queue.patience_of(self)))

    cdef int price(self, uint64_t now) noexcept:
        """By what has come of its body, unless a subclass knows better; without a batch it is one of 1."""
        cdef PoolCosts costs = self.pool.costs
        return costs.price(costs.units_of_bytes(self.bytes_in) if costs.unit == UNIT_BYTES else 1.0, 0, now)

    cdef void weigh(self, uint64_t now) noexcept:
        """Once: who waits, or is tried again, is asked many times, and would lead the mean."""
        if self.charged == 0:
            self.charged = self.price(now)
        self.pool.endpoints.cost = self.charged

    cdef int find_endpoint(self, uint64_t now, bint turn) noexcept:
        return explain_choice(self, now, turn) if self.explained else self.choose(now, turn)

    cdef int choose(self, uint64_t now, bint turn) noexcept:
        if self.bound != -1:
            return self.pool.acquire_bound(self.bound, now) if self.bound >= 0 else TAKEN_NOBODY
        if self.kept_to >= 0:
            return acquire_kept(self, now, turn)
        return self.acquire_any(now, turn)

    cdef int acquire_any(self, uint64_t now, bint turn) noexcept:
        if self.last_endpoint >= 0:
            return acquire_untried(self.pool, now, self.key, self.last_endpoint, &self.tried, self.wanted, turn)
        if self.wanted:
            return self.pool.acquire_wanted(now, self.key, -1, self.wanted, turn)
        if turn:
            return self.pool.acquire_next(now, self.key, -1)
        return self.pool.acquire(now, self.key, -1)

    cdef void picked(self, int endpoint) noexcept:
        self.picked_at = self.client.poller.now
        self.endpoint = endpoint
        if self.tries:
            tg_add(&self.route.series[TG_S_RETRIES], 1)
            tg_add(&self.pool.series[endpoint][TG_S_RETRIES], 1)
        self.tries += 1
        self.last_endpoint = endpoint
        self.charged = self.pool.endpoints.charged
        if self.pool.costs is not None:
            self.crowd = self.pool.endpoints.outstanding(endpoint)
        if self.pool.policy.by_company or self.pool.costs is not None:
            self.company = <short>min(self.pool.endpoints.running(endpoint), MOST_COMPANY)
        if self.pinned and self.sequence_start:
            begin_sequence(self)
        self.move(X_PICKED)
        self.launch()

    # The queue (lb.upstream.queue.Waiter).

    cdef int take_endpoint(self, uint64_t now) noexcept:
        if self.pool.costs is not None:
            self.weigh(now)
        return self.find_endpoint(now, True)

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
        return self.expires

    cdef void leave_queue(self, bint timed_out) noexcept:
        if self.queue is not None:
            self.queue.leave(self, timed_out)

    # The upstream.

    cdef void launch(self) noexcept:
        pass

    cdef void client_drained(self) noexcept:
        pass

    cdef void cancel_upstream(self) noexcept:
        """Stop what runs at the endpoint, without a callback."""

    cdef uint64_t try_limit(self) noexcept:
        return limit_of_try(self)

    cdef void arm_wait(self) noexcept:
        """Wait for the endpoint: for its response timeout, and never past the exchange's own deadline."""
        cdef uint64_t when = self.expires
        cdef uint64_t limit = self.pool.response_timeout
        if self.route.timed:
            limit = limit_of_try(self) if self.state == X_WAITING else limit_of_answer(self)
        if limit and self.client.poller.now + limit < when:
            when = self.client.poller.now + limit
        self.client.poller.arm(self, when)

    cdef void on_timer(self) noexcept:
        time_is_over(self)

    cdef void find_report(self, const Field *fields, int count) noexcept:
        if self.endpoint >= 0:
            take_report(fields, count, self.pool.endpoints, self.endpoint, self.client.poller.now)

    # The response.

    cdef int append_endpoint(self, tg_buffer *head) noexcept:
        """What the route and its pool add to answers: what the rate limit leaves, the pool's cookie, why it was this
        endpoint, and X-Tidegate-Endpoint when one answered."""
        cdef bytes address
        if self.route.rate is not None:
            self.route.rate.append_fields(head, &self.rate)
        if self.route.cors is not None:
            self.append_cors(head, False)
        if self.pool.cookie is not None:
            tell_client(self, head)
        if self.explained:
            append_explanation(self, head)
        if not self.route.expose_endpoint or self.last_endpoint < 0:
            return 0
        address = (<str>self.pool.endpoints.addresses[self.last_endpoint]).encode()
        tg_buffer_append(head, b"X-Tidegate-Endpoint: ", 21)
        tg_buffer_append(head, <const char *>address, <size_t>len(address))
        return tg_buffer_append(head, b"\r\n", 2)

    cdef int append_cors(self, tg_buffer *head, bint preflight) noexcept:
        return self.route.cors.append(head, tg_buffer_tail(&self.target) - self.origin_length, self.origin_length,
                                      preflight)

    cdef void fail(self, int status, const char *reason, str message) noexcept:
        """Ends the exchange with an answer of our own, or by cutting the connection when the answer has begun."""
        cdef Refusal answer
        cdef Client client = self.client
        if self.state == X_DONE:
            return
        self.reason = reason
        self.leave_queue(False)
        self.cancel_upstream()
        if self.state == X_ANSWERING:
            self.cut = status
            self.let_go(False)
            self.record()
            client.abort()
            return
        self.status = status
        self.let_go(status < 500)         # a client's fault is not held against the endpoint
        answer = refusal_of(self, status, message)
        self.bytes_out = answer.part.iov_len
        self.record()
        client.respond_whole(answer.status, &answer.head, &answer.part, 1)

    cdef void client_gone(self) noexcept:
        """The client left: stop the work, free the slot; there is nobody to answer (nginx's 499)."""
        if self.state == X_DONE:
            return
        self.leave_queue(False)
        self.cancel_upstream()
        self.status = 499
        self.reason = b"client-gone"
        self.let_go(True)
        self.record()

    cdef void end(self) noexcept:
        """The answer is complete."""
        cdef Client client = self.client
        self.let_go(self.status < 500)
        self.record()
        client.respond_end()

    # The record.

    cdef bint succeeded(self) noexcept:
        return 200 <= self.status < 300 and self.reason == NULL

    cdef void let_go(self, bint ok) noexcept:
        """The try is over: give the endpoint back, with what it took and how it ended."""
        cdef int endpoint = self.endpoint
        cdef int verdict
        cdef uint64_t now, took
        cdef uint64_t *words
        if endpoint < 0:
            return
        self.endpoint = -1
        now = self.client.poller.now
        took = now - self.picked_at
        words = self.pool.series[endpoint]
        verdict = self.verdict(ok)
        count_try(words, self.cut if self.cut else self.status, self.attempt_code(ok), verdict, took)
        tg_add(&words[TG_S_BYTES_IN], self.bytes_out)
        tg_add(&words[TG_S_BYTES_OUT], self.bytes_in)
        self.pool.judge(endpoint, verdict, self.picked_at, now)
        ok = ok and verdict <= VERDICT_GOOD   # what was refused took no time: nobody learns from that
        if ok:
            self.pool.tell_queue(endpoint, now, took, self.reason == NULL)
        self.pool.release(endpoint, now, took, ok, self.company, self.charged, self.crowd)

    cdef int verdict(self, bint ok) noexcept:
        """What the end of a try says of the endpoint (lb.upstream.outlier)."""
        if ok and self.reason != NULL and self.status < 500:
            return VERDICT_NONE               # an answer of our own, for a client's fault
        return verdict_of(self.status, ok)

    cdef int attempt_code(self, bint ok) noexcept:
        return -1

    cdef void record(self) noexcept:
        cdef uint64_t duration = monotonic_ns() - self.started
        self.move(X_DONE)
        self.deadline = UINT64_MAX
        if self.pinned:
            leave_sequence(self)
        elif self.pin and self.pool.sessions is not None:
            self.pool.sessions.touch(self.pin, self.client.poller.now)
        count_exchange(self, duration)
        if self.recorded():
            log_exchange(self, duration)
        if self.explained:
            forget_explanation(self)

    cdef bytes named_model(self):
        return self.wanted_model

    cdef bint recorded(self) noexcept:
        if not self.listener.access.enabled:
            return False
        return self.listener.access.writing or (self.ids != NULL and self.ids.trace.flags & TRACE_SAMPLED)

    cdef int final_grpc_status(self) noexcept:
        if self.grpc == SPEAKS_HTTP or self.status == 200 or self.status == 499:
            return -1
        return grpc_code(self.status)

    cdef int counted_grpc_status(self) noexcept:
        if self.grpc == SPEAKS_HTTP:
            return -1
        return GRPC_CANCELLED if self.status == 499 else self.final_grpc_status()
