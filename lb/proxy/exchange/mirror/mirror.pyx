"""Copies of requests for another pool: see mirror.pxd.

A copy begins when its original is complete and has been handed to its endpoint. From then on the two have nothing in
common: it has its own memory, its own connection, its own deadline. It is tried once. In the metrics it is an attempt
at its endpoint, by status and latency as any other, and no request of its route or listener.
"""

from libc.stdint cimport UINT64_MAX, uint64_t
from lb.failure cimport (
    FAIL_NONE, FAIL_NO_SOCKET, FAIL_PROTOCOL, FAIL_RESET, FAIL_TIMEOUT, VERDICT_NONE, failure_of, verdict_of,
)
from lb.net.buffer cimport tg_buffer, tg_buffer_append, tg_buffer_free, tg_buffer_head, tg_buffer_size
from lb.http.head cimport Scan
from lb.net.poller cimport Poller, monotonic_ns
from lb.net.stream cimport IO_ERROR, iovec
from lb.endpoints.choice cimport Choice
from lb.proxy.exchange.mirror.comparison cimport Comparer, Comparison
from lb.proxy.random cimport random_below
from lb.upstream.attempt cimport A_OVER, ENDED, STOPPED, Attempt, release, take_slot, tg_outcome
from lb.upstream.load.cost cimport UNIT_BYTES, PoolCosts
from lb.upstream.connections.http1 cimport Http1Call, Http1Pool, Http1Upstream
from lb.upstream.pool cimport POOL_GRPC, POOL_HTTP, POOL_HTTP2, POOL_OIP, Pool
from lb.upstream.tally cimport count_failure

cdef enum:
    MILLION = 1_000_000

cdef uint64_t LONGEST_NS = 60_000_000_000   # for a copy of a pool without response_timeout


cdef class Mirror:
    """The mirror of a plan (`MirrorPlan`) with its pool, which speaks what the pools of the route speak; `route` is the
    name by which comparisons are reported. Raises ValueError for a pool of bytes or datagrams."""

    def __init__(self, plan, Pool pool not None, str route not None=""):
        if pool.protocol not in (POOL_HTTP, POOL_HTTP2, POOL_GRPC, POOL_OIP):
            raise ValueError(f"pool {pool.name} cannot be sent copies")
        self.pool = pool
        self.per_million = plan.per_million
        self.max_in_flight = plan.max_in_flight
        self.max_bytes = plan.max_bytes
        if plan.compare is not None:
            self.comparer = Comparer(plan.compare, self.max_bytes, route)

    cdef bint wants(self) noexcept:
        if self.per_million < MILLION and random_below(MILLION) >= self.per_million:
            return False
        if self.in_flight < self.max_in_flight and self.held < self.max_bytes:
            return True
        mirror_counts.skipped += 1
        return False

    cdef void offer(self, Poller poller, const tg_buffer *request, bint replayable, uint64_t key,
                    bint head_method) noexcept:
        if self.pool.protocol != POOL_HTTP or not self.wants():
            return
        if replayable:
            self.send(poller, request, key, head_method)
        else:
            mirror_counts.skipped += 1

    cdef bint begin(self, Attempt copy, size_t size, uint64_t key, uint64_t now) noexcept:
        cdef Choice choice
        cdef int endpoint
        if self.held + size > self.max_bytes:
            mirror_counts.skipped += 1
            return False
        choice = self.pool.new_choice(now, key)
        if self.pool.costs is not None:
            choice.cost = self.price(size, now)
        endpoint = self.pool.acquire(choice)
        mirror_counts.sent += 1
        if endpoint < 0:
            mirror_counts.failed += 1
            return False
        take_slot(copy, self.pool, endpoint, choice.charged, now)
        self.in_flight += 1
        self.held += size
        return True

    cdef int price(self, size_t size, uint64_t now) noexcept:
        """A copy has nothing that tells its batch: it is an average request then."""
        cdef PoolCosts costs = self.pool.costs
        return costs.price(costs.units_of_bytes(size), 0, now) if costs.unit == UNIT_BYTES else self.pool.endpoints.one

    cdef void end(self, Attempt copy, size_t size, size_t received, int status, int code, int verdict,
                  bint answered) noexcept:
        cdef tg_outcome outcome
        self.in_flight -= 1
        self.held -= size
        if not answered:
            mirror_counts.failed += 1
        outcome.how = ENDED
        if verdict == VERDICT_NONE and not answered:           # nothing went out
            outcome.how = STOPPED
            status, code = 0, -1
        outcome.ok = True
        outcome.answered = answered
        outcome.status = status
        outcome.code = code
        outcome.late = False
        outcome.verdict = verdict
        outcome.bytes_in = received
        outcome.bytes_out = size
        release(copy, &outcome, monotonic_ns())

    cdef Comparison compare(self, bint framed):
        return self.comparer.begin(framed) if self.comparer is not None else None

    cdef uint64_t patience(self) noexcept:
        return self.pool.response_timeout if self.pool.response_timeout else LONGEST_NS

    cdef void send(self, Poller poller, const tg_buffer *request, uint64_t key, bint head_method) noexcept:
        cdef MirrorCall call = MirrorCall.__new__(MirrorCall)
        cdef int failed
        call.mirror = self
        call.poller = poller
        call.size = tg_buffer_size(request)
        call.head_method = head_method
        if tg_buffer_append(&call.request, tg_buffer_head(request), call.size) < 0:
            mirror_counts.skipped += 1
            return
        if not self.begin(call, call.size, key, monotonic_ns()):
            return
        poller.arm(call, poller.now + self.patience())
        failed = (<Http1Pool>self.pool.channels[call.endpoint]).take(call, False)
        if failed != FAIL_NONE:
            call.on_broken(None, failed)


cdef class MirrorCall(Http1Call):

    def __dealloc__(self):
        tg_buffer_free(&self.request)

    cdef void on_connecting(self, Http1Upstream upstream) noexcept:
        self.upstream = upstream

    cdef void on_connected(self, Http1Upstream upstream) noexcept:
        cdef iovec part
        self.upstream = upstream
        upstream.parser.headless = self.head_method
        part.iov_base = tg_buffer_head(&self.request)
        part.iov_len = tg_buffer_size(&self.request)
        if upstream.push_parts(&part, 1) == IO_ERROR:
            upstream.broken(FAIL_RESET)
            return
        tg_buffer_free(&self.request)         # what the kernel has not taken is in the connection's queue

    cdef void on_answer(self, Http1Upstream upstream, Scan *scan) noexcept:
        if scan.head:
            if upstream.parser.http.status_code < 200:
                # 101 cannot be: nothing was asked for that it would answer.
                if upstream.parser.http.status_code == 101:
                    upstream.broken(FAIL_PROTOCOL)
                return
            self.status = upstream.parser.http.status_code
        self.received += scan.body_bytes
        if scan.complete:
            self.finish(True, upstream.parser.keep_alive())
        elif self.received > <size_t>MIRROR_ANSWER_LIMIT:
            self.finish(True, False)          # it has answered; the rest is nobody's

    cdef void on_broken(self, Http1Upstream upstream, int kind) noexcept:
        self.upstream = None                  # it is closed already
        if self.state != A_OVER:
            count_failure(self.mirror.pool.series[self.endpoint], kind)
        self.status = 0 if kind == FAIL_NO_SOCKET else failure_of(kind).status
        self.finish(False, False)

    cdef void on_timer(self) noexcept:
        if self.state != A_OVER:
            count_failure(self.mirror.pool.series[self.endpoint], FAIL_TIMEOUT)
        self.status = failure_of(FAIL_TIMEOUT).status
        self.finish(False, False)

    cdef void finish(self, bint ok, bint reusable) noexcept:
        """Counts the copy, and gives back what it took, once."""
        cdef Http1Upstream upstream = self.upstream
        cdef Mirror mirror = self.mirror
        if self.state == A_OVER:
            return
        self.upstream = None
        self.deadline = UINT64_MAX
        mirror.end(self, self.size, self.received, self.status, -1,
                   verdict_of(self.status, ok) if self.status else VERDICT_NONE, ok)
        if upstream is None:
            return
        if reusable:
            (<Http1Pool>mirror.pool.channels[self.endpoint]).give(upstream)
        else:
            upstream.pool.drop(upstream)


def counts():
    """Counts of this worker since it started, for the status page."""
    return {
        "mirrored": mirror_counts.sent,
        "mirror_failed": mirror_counts.failed,
        "mirror_skipped": mirror_counts.skipped,
    }
