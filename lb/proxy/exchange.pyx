"""One request with its answer: the steps that every exchange takes, top to bottom.

    begin          route and admission are done (admission.pyx); the subclass builds its request
    pick           the policy chooses an endpoint; in-flight is counted. When none has room, the exchange waits its turn
    launch         upstream (the subclass): forward.pyx speaks HTTP/1.1, forward_http2.pyx HTTP/2, infer.pyx translates
    fail           an answer of our own, with the status that says whose fault it was
    end            in-flight is given back, counters and the access log are written, the client goes on
"""

import logging

from libc.stdint cimport UINT64_MAX, int64_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset, strlen
from lb.core.buffer cimport (
    tg_buffer, tg_buffer_append, tg_buffer_free, tg_buffer_head, tg_buffer_size, tg_buffer_tail,
)
from lb.core.hashing cimport hash64
from lb.core.head cimport M_OTHER, Field, Scan
from lb.core.head_text cimport append_number, append_text
from lb.core.methods cimport method_name
from lb.core.poller cimport monotonic_ns
from lb.core.segment cimport (
    TG_S_BYTES_IN, TG_S_BYTES_OUT, TG_S_CACHE_BYPASS, TG_S_CACHE_COLLAPSED, TG_S_CACHE_HIT, TG_S_CACHE_MISS,
    TG_S_CODE_1XX, TG_S_CODE_OTHER, TG_S_DURATION_SUM_NS, TG_S_FINISHED, TG_S_HISTOGRAM, TG_S_REJECTED, TG_S_RETRIES,
    TG_S_TIMEOUTS, tg_add, tg_bucket,
)
from lb.core.source_key cimport hash_source
from lb.core.trace cimport TRACE_SAMPLED
from lb.core.tls_version cimport tls_version
from lb.proxy.client cimport Client
from lb.proxy.explained cimport (
    after_choice, append_explanation, before_choice, explain_record, forget_explanation, no_choice,
)
from lb.proxy.keys cimport drop_cookie, find_value
from lb.proxy.refusal cimport SPEAKS_GRPC, SPEAKS_HTTP, Refusal, grpc_code, refusal
from lb.proxy.session cimport read_session
from lb.telemetry.accesslog cimport (
    A_CLIENT, A_ENDPOINT, A_HOST, A_LISTENER, A_METHOD, A_POOL, A_REASON, A_REQUEST_ID, A_ROUTE, A_TARGET, set_object,
    set_text, tg_access, wall_ns,
)
from lb.upstream.cookie cimport EndpointCookie
from lb.upstream.cost cimport UNIT_BYTES, PoolCosts
from lb.upstream.http1 cimport Http1Call
from lb.upstream.load_report cimport take_report
from lb.upstream.outlier cimport VERDICT_NONE, verdict_of
from lb.upstream.pool cimport KEY_COOKIE, KEY_NONE, Pool
from lb.upstream.queue cimport Q_FULL, Q_HOPELESS, Q_NOBODY, Q_SHED, Q_TIMEOUT, Q_WAITS, TAKEN_FULL, TAKEN_NOBODY
from lb.upstream.sequences cimport SEQUENCE_HERE, SEQUENCE_LEAVING, SEQUENCE_LOST, SEQUENCE_UNKNOWN, where

log = logging.getLogger("tidegate.proxy")

cdef enum:
    SECOND_NS = 1_000_000_000

# Which state may follow which: a bit per follower.
cdef int FOLLOWERS[8]
FOLLOWERS[X_NEW] = 1 << X_REQUEST | 1 << X_QUEUED | 1 << X_PICKED | 1 << X_DONE
FOLLOWERS[X_REQUEST] = 1 << X_QUEUED | 1 << X_PICKED | 1 << X_ANSWERING | 1 << X_DONE
FOLLOWERS[X_QUEUED] = 1 << X_PICKED | 1 << X_DONE
FOLLOWERS[X_PICKED] = (
    1 << X_QUEUED | 1 << X_PICKED | 1 << X_WAITING | 1 << X_BACKOFF | 1 << X_ANSWERING | 1 << X_DONE
)
FOLLOWERS[X_WAITING] = 1 << X_QUEUED | 1 << X_PICKED | 1 << X_BACKOFF | 1 << X_ANSWERING | 1 << X_DONE
FOLLOWERS[X_BACKOFF] = 1 << X_QUEUED | 1 << X_PICKED | 1 << X_DONE
FOLLOWERS[X_ANSWERING] = 1 << X_DONE
FOLLOWERS[X_DONE] = 0


cdef void count_answer(uint64_t *words, int status, uint64_t duration) noexcept nogil:
    """One answer in a series: status class and latency in nanoseconds."""
    cdef int kind = status // 100 - 1
    if kind < 0 or kind > 4:
        kind = TG_S_CODE_OTHER
    tg_add(&words[TG_S_CODE_1XX + kind], 1)
    tg_add(&words[TG_S_DURATION_SUM_NS], duration)
    tg_add(&words[TG_S_HISTOGRAM + tg_bucket(duration)], 1)


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

    cdef void begin(self, Scan *scan) noexcept:
        pass

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

    cdef void take_trailers(self, Scan *scan) noexcept:
        """Passed on by those that forward; nobody else asked for them."""

    cdef void client_drained(self) noexcept:
        pass

    cdef void cancel_upstream(self) noexcept:
        """Stop what runs at the endpoint, without a callback."""

    cdef void move(self, int state) noexcept:
        if not (FOLLOWERS[self.state] >> state) & 1:
            log.error("exchange: state %d cannot follow %d", state, self.state)
        self.state = state

    cdef void launch(self) noexcept:
        pass

    cdef uint64_t due(self) noexcept:
        return self.expires

    cdef void pick(self) noexcept:
        """An endpoint by the pool's policy, not the one that just failed; in line when none has room."""
        cdef uint64_t now = self.client.poller.now
        cdef int found
        cdef int verdict = Q_NOBODY
        if self.pool.costs is not None:
            self.weigh(now)
        found = self.find_endpoint(now)
        if found == TAKEN_FULL:
            verdict = Q_FULL
            if self.pool.queue is not None:
                verdict = self.pool.queue.join(self, self.route.priority, self.due(), now)
            if verdict != Q_WAITS and self.last_endpoint >= 0:
                self.settle()                 # where it has failed rather than nowhere
                found = self.find_endpoint(now)
        if found >= 0:
            self.picked(found)
            return
        if verdict != Q_WAITS:
            self.refuse(verdict)
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

    cdef int find_endpoint(self, uint64_t now) noexcept:
        cdef int found
        if not self.explained:
            return self.choose(now)
        before_choice(self, now, self.last_endpoint, False)
        found = self.choose(now)
        after_choice(self, now, found, False)
        return found

    cdef int choose(self, uint64_t now) noexcept:
        if self.pinned and self.bound != -1:
            return self.choose_turn(now)
        if self.kept_to >= 0:
            return self.acquire_kept(now, False)
        if self.wanted:
            return self.pool.acquire_wanted(now, self.key, self.last_endpoint, self.wanted, False)
        return self.pool.acquire(now, self.key, self.last_endpoint)

    cdef void picked(self, int endpoint) noexcept:
        self.picked_at = self.client.poller.now
        self.endpoint = endpoint
        if self.tries:
            tg_add(&self.route.series[TG_S_RETRIES], 1)
        self.tries += 1
        self.last_endpoint = endpoint
        self.charged = self.pool.endpoints.charged
        if self.pool.costs is not None:
            self.crowd = self.pool.endpoints.outstanding(endpoint)
        if self.pool.policy.by_company or self.pool.costs is not None:
            self.company = <short>min(self.pool.endpoints.running(endpoint), MOST_COMPANY)
        if self.pinned and self.sequence_start:
            self.pool.sequences.begin(self.pin, endpoint, self.picked_at)
        self.move(X_PICKED)
        self.launch()

    # The queue (lb.upstream.queue.Waiter).

    cdef int take_endpoint(self, uint64_t now) noexcept:
        cdef int found
        if self.pool.costs is not None:
            self.weigh(now)
        if not self.explained:
            return self.choose_turn(now)
        before_choice(self, now, self.last_endpoint, True)
        found = self.choose_turn(now)
        after_choice(self, now, found, False)
        return found

    cdef int choose_turn(self, uint64_t now) noexcept:
        if self.bound != -1:
            return self.pool.acquire_bound(self.bound, now) if self.bound >= 0 else TAKEN_NOBODY
        if self.kept_to >= 0:
            return self.acquire_kept(now, True)
        if self.wanted:
            return self.pool.acquire_wanted(now, self.key, self.last_endpoint, self.wanted, True)
        return self.pool.acquire_next(now, self.key, self.last_endpoint)

    cdef void admitted(self, int endpoint) noexcept:
        self.client.poller.arm(self, self.expires)
        self.picked(endpoint)

    cdef void turned_away(self, int why) noexcept:
        self.refuse(why)

    cdef void settle(self) noexcept:
        self.last_endpoint = -1

    cdef void move_to(self, object pool) noexcept:
        cdef Pool old = self.pool
        cdef uint32_t slot
        self.pool = pool
        self.want_model(self.wanted_model)    # whose bit may be another there
        self.last_endpoint = -1               # an index of the old one
        if self.kept_to >= 0:
            self.kept_to = self.pool.index_at(old.endpoints.addresses[self.kept_to]) if self.pool.sticky else -1
        if self.bound >= 0:
            slot = old.sequences.slots[self.bound]
            self.bound = self.pool.sequences.index_of(slot) if self.pool.sequences is not None else -1
            if self.bound < 0 and self.pool.sequences is not None and self.pool.leaving is not None:
                self.pool = self.pool.leaving
                self.bound = self.pool.sequences.index_of(slot)
            if self.bound < 0:
                self.bound = BOUND_LOST
        if self.pinned and self.pool.sequences is None:
            self.pinned = False               # they were switched off
            self.pin = 0

    cdef void leave_queue(self, bint timed_out) noexcept:
        if self.queue is not None:
            self.queue.leave(self, timed_out)

    cdef void refuse(self, int why) noexcept:
        """No endpoint for it, and no place in the queue (any more)."""
        if self.explained:
            no_choice(self, self.client.poller.now, why)
        if why == Q_NOBODY and self.bound != -1:
            self.fail_lost()
            return
        if why == Q_HOPELESS and self.client.poller.now >= self.due():
            tg_add(&self.route.series[TG_S_TIMEOUTS], 1)
            self.fail(504, b"timeout", f"no endpoint of pool {self.pool.name} had room in time")
            return
        if why == Q_NOBODY and self.wanted and self.pool.crowded():
            self.model_not_ready()
            return
        tg_add(&self.route.series[TG_S_REJECTED], 1)
        if why == Q_NOBODY:
            self.fail(503, b"no-endpoint", f"no endpoint of pool {self.pool.name} is available")
        elif why == Q_HOPELESS:
            self.fail(503, b"queue-late", f"the queue of pool {self.pool.name} is too long to answer in time")
        elif why == Q_SHED:
            self.fail(503, b"queue-shed", f"pool {self.pool.name} is overloaded")
        elif why == Q_TIMEOUT:
            self.fail(503, b"queue-timeout", f"the endpoints of pool {self.pool.name} were busy for too long")
        else:
            self.fail(503, b"queue-full", f"the endpoints of pool {self.pool.name} are busy, and its queue is full")

    cdef void want_model(self, bytes name) noexcept:
        self.wanted_model = name
        self.wanted = 0
        if name is not None and self.pool.models is not None:
            self.wanted = self.pool.model_bit(name)

    cdef void model_not_ready(self) noexcept:
        tg_add(&self.route.series[TG_S_REJECTED], 1)
        name = self.wanted_model.decode("utf-8", "replace")
        self.fail(503, b"model-not-ready", f"no endpoint of pool {self.pool.name} has model {name} ready")

    # Sequences (lb.upstream.sequences).

    cdef bint join_sequence(self, uint64_t key, bint start, bint end) noexcept:
        cdef int index = -1
        cdef where found = self.pool.sequences.find(key, start, self.client.poller.now, &index)
        self.pinned = True
        self.pin = key
        self.sequence_start = start
        self.sequence_end = end
        self.tries_left = 0
        if found == SEQUENCE_HERE or found == SEQUENCE_LEAVING:
            if found == SEQUENCE_LEAVING:
                self.pool = self.pool.leaving
            self.kept_to = -1                 # a cookie has no say
            self.bound = index
            self.tied = True
        elif found == SEQUENCE_UNKNOWN:
            self.fail(409, b"sequence-unknown", "the sequence is not open: its first request must say sequence_start, "
                      "and it ends when it is idle for too long")
            return False
        elif found == SEQUENCE_LOST:
            self.fail_lost()
            return False
        return True

    cdef void fail_lost(self) noexcept:
        if self.pinned and self.bound != -1:
            self.pool.sequences.lose(self.pin)
        self.fail(409, b"sequence-lost", "the endpoint that has the sequence's state is gone: begin the sequence anew")

    cdef void leave_sequence(self) noexcept:
        """A request of it is over."""
        cdef bint well = self.succeeded()
        if self.sequence_end and well or self.sequence_start and self.tries and not well and self.status != 499:
            self.pool.sequences.end(self.pin)
        elif self.tries:
            self.pool.sequences.touch(self.pin, self.client.poller.now)

    # The pool's cookie (lb.upstream.cookie), or what it learned (session.pyx).

    cdef void read_kept(self, Scan *scan) noexcept:
        if self.pool.cookie is not None:
            self.read_cookie(scan)
        else:
            read_session(self, scan)

    cdef void read_cookie(self, Scan *scan) noexcept:
        cdef EndpointCookie cookie = self.pool.cookie
        cdef const char *name = <const char *>cookie.name
        cdef size_t n = <size_t>len(cookie.name)
        cdef const char *text
        cdef size_t size
        cdef bint due = False
        if not find_value(scan, KEY_COOKIE, name, n, &text, &size):
            return
        self.kept_to = cookie.index_of(text, size, <uint64_t>wall_ns() // SECOND_NS, &due)
        self.cookie_due = due
        drop_cookie(scan, name, n)

    cdef int acquire_kept(self, uint64_t now, bint turn) noexcept:
        cdef int found
        if self.last_endpoint == self.kept_to:
            self.kept_to = -1                 # it has failed: another is asked, and named from now on
            self.cookie_stays = False
        else:
            found = self.pool.acquire_kept(self.kept_to, now, self.wanted, turn)
            if found >= 0:
                return found
            self.cookie_stays = found == TAKEN_FULL
        if self.wanted:
            return self.pool.acquire_wanted(now, self.key, self.last_endpoint, self.wanted, turn)
        if turn:
            return self.pool.acquire_next(now, self.key, self.last_endpoint)
        return self.pool.acquire(now, self.key, self.last_endpoint)

    cdef void append_cookie(self, tg_buffer *head) noexcept:
        if self.last_endpoint < 0 or self.bound != -1 or self.grpc == SPEAKS_GRPC:
            return                            # gRPC has no cookies
        if self.kept_to >= 0 and (not self.cookie_due if self.last_endpoint == self.kept_to else self.cookie_stays):
            return
        if self.pool.cookie.append(head, self.last_endpoint, <uint64_t>wall_ns() // SECOND_NS) < 0:
            log.error("pool %s: no memory for a cookie", self.pool.name)

    cdef bint succeeded(self) noexcept:
        return 200 <= self.status < 300 and self.reason == NULL

    cdef void let_go(self, bint ok) noexcept:
        """The try is over: give the endpoint back, with what it took and how it ended."""
        cdef int endpoint = self.endpoint
        cdef uint64_t now, took
        cdef uint64_t *words
        if endpoint < 0:
            return
        self.endpoint = -1
        now = self.client.poller.now
        took = now - self.picked_at
        words = self.pool.series[endpoint]
        count_answer(words, self.status, took)
        tg_add(&words[TG_S_BYTES_IN], self.bytes_out)
        tg_add(&words[TG_S_BYTES_OUT], self.bytes_in)
        if self.pool.outlier is not None:
            self.pool.outlier.judge(endpoint, self.verdict(ok), self.picked_at)
        self.pool.release(endpoint, now, took, ok, self.company, self.charged, self.crowd)

    cdef void find_report(self, const Field *fields, int count) noexcept:
        if self.endpoint >= 0:
            take_report(fields, count, self.pool.endpoints, self.endpoint, self.client.poller.now)

    cdef int verdict(self, bint ok) noexcept:
        """What the end of a try says of the endpoint (lb.upstream.outlier)."""
        if ok and self.reason != NULL and self.status < 500:
            return VERDICT_NONE               # an answer of our own, for a client's fault
        return verdict_of(self.status, ok)

    cdef uint64_t response_limit(self) noexcept:
        """Longest wait for an answer to begin, in nanoseconds; 0 = none. The route's own goes before its pool's."""
        return self.pool.response_timeout if self.route.response_timeout < 0 else <uint64_t>self.route.response_timeout

    cdef uint64_t try_limit(self) noexcept:
        """The same for a single try, which the route may give up sooner."""
        cdef uint64_t limit = self.response_limit()
        if self.route.retry is None or self.route.retry.per_try_timeout == 0:
            return limit
        return min(limit, self.route.retry.per_try_timeout) if limit else self.route.retry.per_try_timeout

    cdef void arm_wait(self) noexcept:
        """Wait for the endpoint: for its response timeout, and never past the exchange's own deadline."""
        cdef uint64_t when = self.expires
        cdef uint64_t limit = self.pool.response_timeout
        if self.route.timed:
            limit = self.try_limit() if self.state == X_WAITING else self.response_limit()
        if limit and self.client.poller.now + limit < when:
            when = self.client.poller.now + limit
        self.client.poller.arm(self, when)

    cdef void on_timer(self) noexcept:
        cdef uint64_t *words
        if self.state == X_DONE:
            return
        if self.state == X_QUEUED:
            self.leave_queue(True)
            self.refuse(Q_HOPELESS if self.client.poller.now >= self.due() else Q_TIMEOUT)
            return
        if self.state == X_ANSWERING and self.client.poller.now < self.expires and (
                self.client.backlog() or (self.wants_body and not self.request_complete)):
            self.arm_wait()               # the client is slow, not the endpoint; the client has a timeout of its own
            return
        tg_add(&self.route.series[TG_S_TIMEOUTS], 1)
        if not self.request_complete and self.wants_body and self.state < X_ANSWERING:
            self.fail(408, b"slow-body", "the request did not come in the time that its route allows")
            return
        if self.endpoint >= 0:
            words = self.pool.series[self.endpoint]
            tg_add(&words[TG_S_TIMEOUTS], 1)
        self.fail(504, b"timeout", "the endpoint did not answer in time")

    cdef void fail(self, int status, const char *reason, str message) noexcept:
        """Ends the exchange with an answer of our own, or by cutting the connection when the answer has begun."""
        cdef Refusal answer
        cdef tg_buffer fields
        cdef Client client = self.client
        if self.state == X_DONE:
            return
        self.reason = reason
        self.leave_queue(False)
        self.cancel_upstream()
        if self.state == X_ANSWERING:
            self.let_go(False)
            self.record()
            client.abort()
            return
        self.status = status
        self.let_go(status < 500)         # a client's fault is not held against the endpoint
        memset(&fields, 0, sizeof(fields))
        if self.rate.wait and status == 429:
            self.route.rate.append_refusal(&fields, &self.rate)
        elif status == 503 and self.pool is not None and self.pool.queue is not None:
            append_text(&fields, b"Retry-After: ")
            append_number(&fields, self.pool.queue.retry_after(self.client.poller.now))
            append_text(&fields, b"\r\n")
        if self.explained:
            append_explanation(self, &fields)
        if self.route.cors is not None:
            self.append_cors(&fields, False)
        answer = refusal(status, message, self.grpc, &fields)
        tg_buffer_free(&fields)
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

    cdef void record(self) noexcept:
        cdef uint64_t *words = self.route.series
        cdef uint64_t duration = monotonic_ns() - self.started
        self.move(X_DONE)
        self.deadline = UINT64_MAX
        if self.pinned:
            self.leave_sequence()
        elif self.pin and self.pool.sessions is not None:
            self.pool.sessions.touch(self.pin, self.client.poller.now)
        count_answer(words, 0 if self.status == 499 else self.status, duration)
        tg_add(&words[TG_S_FINISHED], 1)
        tg_add(&words[TG_S_BYTES_IN], self.bytes_in)
        tg_add(&words[TG_S_BYTES_OUT], self.bytes_out)
        if self.cache == CACHE_HIT:
            tg_add(&words[TG_S_CACHE_HIT], 1)
        elif self.cache == CACHE_MISS:
            tg_add(&words[TG_S_CACHE_MISS], 1)
        elif self.cache == CACHE_COLLAPSED:
            tg_add(&words[TG_S_CACHE_COLLAPSED], 1)
        elif self.cache == CACHE_BYPASS:
            tg_add(&words[TG_S_CACHE_BYPASS], 1)
        if self.recorded():
            self.log_access(duration)
        if self.explained:
            forget_explanation(self)

    cdef int final_grpc_status(self) noexcept:
        if self.grpc == SPEAKS_HTTP or self.status == 200 or self.status == 499:
            return -1
        return grpc_code(self.status)

    cdef void log_access(self, uint64_t duration) noexcept:
        cdef tg_access *record
        cdef const char *method
        cdef const char *source
        cdef uint64_t first
        cdef size_t n
        record = self.listener.access.begin()
        if record == NULL:
            return
        record.wall_ns = wall_ns() - <int64_t>duration
        record.total_ns = duration
        if self.picked_at:
            first = self.first_byte_at if self.first_byte_at else self.started + duration
            record.wait_ns = self.picked_at - self.started
            record.upstream_ns = first - self.picked_at
            if self.connected_at > self.picked_at:
                record.connect_ns = self.connected_at - self.picked_at
            record.transfer_ns = self.started + duration - first
        else:
            record.wait_ns = duration
        record.bytes_in = self.bytes_in
        record.bytes_out = self.bytes_out
        record.status = <unsigned short>self.status
        record.grpc_status = <short>self.final_grpc_status()
        record.tries = <unsigned short>self.tries
        record.port = self.client.port
        record.cache = <unsigned short>self.cache
        record.hedge = <unsigned short>self.hedged
        record.version = <unsigned short>self.version
        if self.client.tls is not None:
            record.tls = <unsigned short>tls_version(self.client.tls)
        if self.ids != NULL:
            memcpy(record.trace_id, self.ids.trace.trace_id, sizeof(record.trace_id))
            memcpy(record.span_id, self.ids.trace.span_id, sizeof(record.span_id))
            memcpy(record.parent_id, self.ids.trace.parent_id, sizeof(record.parent_id))
            record.trace_flags = self.ids.trace.flags
            set_text(record, A_REQUEST_ID, self.ids.request_id, self.ids.request_id_length)
        if self.method == M_OTHER:
            set_text(record, A_METHOD, tg_buffer_tail(&self.target) - self.origin_length - self.method_length,
                     self.method_length)
        else:
            method = method_name(self.method)
            set_text(record, A_METHOD, method, strlen(method))
        source = self.source(&n)
        set_text(record, A_CLIENT, source, n)
        set_text(record, A_HOST, tg_buffer_head(&self.target), self.host_length)
        set_text(record, A_TARGET, tg_buffer_head(&self.target) + self.host_length,
                 tg_buffer_size(&self.target) - self.host_length - self.method_length - self.origin_length)
        set_object(record, A_LISTENER, self.listener.name)
        set_object(record, A_ROUTE, self.route.name)
        if self.pool is not None:             # the route's own answer has none
            set_object(record, A_POOL, self.pool.name)
        if self.last_endpoint >= 0:
            set_object(record, A_ENDPOINT, self.pool.endpoints.addresses[self.last_endpoint])
        if self.reason != NULL:
            set_text(record, A_REASON, self.reason, strlen(self.reason))
        if self.explained and self.pool is not None:
            explain_record(self, record)
        self.listener.access.commit()

    cdef int append_cors(self, tg_buffer *head, bint preflight) noexcept:
        return self.route.cors.append(head, tg_buffer_tail(&self.target) - self.origin_length, self.origin_length,
                                      preflight)

    cdef int append_endpoint(self, tg_buffer *head) noexcept:
        """What the route and its pool add to answers: what the rate limit leaves, the pool's cookie, why it was this
        endpoint, and X-Tidegate-Endpoint when one answered."""
        cdef bytes address
        if self.route.rate is not None:
            self.route.rate.append_fields(head, &self.rate)
        if self.route.cors is not None:
            self.append_cors(head, False)
        if self.pool.cookie is not None:
            self.append_cookie(head)
        if self.explained:
            append_explanation(self, head)
        if not self.route.expose_endpoint or self.last_endpoint < 0:
            return 0
        address = (<str>self.pool.endpoints.addresses[self.last_endpoint]).encode()
        tg_buffer_append(head, b"X-Tidegate-Endpoint: ", 21)
        tg_buffer_append(head, <const char *>address, <size_t>len(address))
        return tg_buffer_append(head, b"\r\n", 2)

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

    cdef const char *source(self, size_t *n) noexcept:
        if self.ids != NULL and self.ids.source_length:
            n[0] = self.ids.source_length
            return self.ids.source
        n[0] = self.client.ip_length
        return self.client.ip

    cdef bint recorded(self) noexcept:
        if not self.listener.access.enabled:
            return False
        return self.listener.access.writing or (self.ids != NULL and self.ids.trace.flags & TRACE_SAMPLED)

    cdef bint admit(self, Scan *scan) noexcept:
        cdef size_t n
        cdef const char *source = self.source(&n)
        if self.route.rate is None or self.route.rate.admit(scan, source, n, self.started, &self.rate):
            return True
        tg_add(&self.route.series[TG_S_REJECTED], 1)
        self.request_complete = scan.complete     # then the connection can go on
        self.fail(429, b"rate-limit", "too many requests; Retry-After says when to ask again")
        return False
