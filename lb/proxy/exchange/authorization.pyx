"""Questions to authorization servers: see authorization.pxd.

A question stands in the queue of the server's pool where the endpoints there have as many as they may, until its time
is over. Where the connection fails, another endpoint is asked, once. In the metrics a question is an attempt at its
endpoint, as the copies of a mirror are, and no request of a route.
"""

from libc.stdint cimport UINT64_MAX, uint64_t
from libc.stdlib cimport free
from libc.string cimport memset
from lb.endpoints.choice cimport Choice
from lb.failure cimport (
    FAIL_CONNECT, FAIL_NONE, FAIL_NO_SOCKET, FAIL_PROTOCOL, FAIL_REFUSED, FAIL_RESET, FAIL_TIMEOUT, FAIL_TOO_LARGE,
    VERDICT_GATEWAY, VERDICT_NONE, failure_of, verdict_of, verdict_of_grpc,
)
from lb.http.head cimport Scan
from lb.net.buffer cimport (
    tg_buffer, tg_buffer_append, tg_buffer_clear, tg_buffer_free, tg_buffer_head, tg_buffer_size,
)
from lb.net.poller cimport Poller
from lb.net.stream cimport IO_ERROR, iovec
from lb.net.tls.session cimport Tls
from lb.proxy.access.known cimport (
    ACCESS_DENIED, LET_THROUGH, UNAVAILABLE, Decision, Known,
)
from lb.proxy.access.provider cimport Provider
from lb.proxy.access.server cimport AuthServer, tg_asker
from lb.upstream.attempt cimport A_OVER, ENDED, STOPPED, Attempt, ending, release, take_slot, tg_outcome
from lb.upstream.connections.grpc_call cimport GrpcCall
from lb.upstream.connections.http1 cimport Http1Call, Http1Pool, Http1Upstream
from lb.upstream.connections.http2 cimport Http2Channel
from lb.upstream.excluded cimport acquire_past, forget_excluded
from lb.upstream.pool cimport Pool
from lb.upstream.queue cimport NORMAL, Q_NOBODY, Q_NO_START, stand_in_line
from lb.upstream.tally cimport count_failure

cdef enum:
    ROOM = 1024                       # questions of a provider that may be under way, in this worker
    ATTEMPTS = 2
    GRPC_UNAVAILABLE = 14
    REPLY_MOST = 256 * 1024           # bytes of an answer over gRPC

cdef bytes CHECK = b"/envoy.service.auth.v3.Authorization/Check"
cdef tg_buffer asked                  # the question that `recall` made
cdef tg_buffer key

cdef struct tg_counts:                # of the worker since it started
    uint64_t asked
    uint64_t remembered
    uint64_t denied
    uint64_t failed
    uint64_t let_through
cdef tg_counts tally
memset(&tally, 0, sizeof(tally))


def counts():
    """Counts of this worker since it started, for the status page."""
    return {
        "auth_asked": tally.asked,
        "auth_remembered": tally.remembered,
        "auth_denied": tally.denied,
        "auth_failed": tally.failed,
        "auth_let_through": tally.let_through,
    }


cdef Known recall(Provider provider, Scan *scan, const tg_asker *asker, Tls tls, uint64_t now):
    cdef Known found
    if not provider.server.cache:
        return None
    digest = digest_of(provider, scan, asker, tls)
    found = None if digest is None else provider.recall_decision(digest, now)
    if found is not None:
        tally.remembered += 1
    return found


cdef bytes digest_of(Provider provider, Scan *scan, const tg_asker *asker, Tls tls):
    """What a decision about the request is remembered by, with the question in `asked`; None: out of memory."""
    tg_buffer_clear(&asked)
    tg_buffer_clear(&key)
    if (provider.server.ask(&asked, scan, asker, tls) < 0 or provider.server.key(&key, &asked, scan) < 0):
        return None
    try:
        return provider.digest_of(tg_buffer_head(&key), tg_buffer_size(&key))
    except MemoryError:
        return None


cdef object ask_server(Provider provider, Poller poller, Scan *scan, const tg_asker *asker, Tls tls, object waiter,
                       told_type told):
    cdef AuthServer server = provider.server
    cdef AuthQuestion question
    cdef bytes digest = None
    if server.cache:
        digest = digest_of(provider, scan, asker, tls)
        question = <AuthQuestion>provider.waiting.get(digest) if digest is not None else None
        if question is not None:
            question.waiting.append(waiter)
            return question
    if server.busy >= ROOM:
        return undecided(server, "too many questions are under way")
    question = AuthQuestion.__new__(AuthQuestion)
    if server.ask(&question.text, scan, asker, tls) < 0:
        return undecided(server, "out of memory")
    question.provider = provider
    question.server = server
    question.poller = poller
    question.told = told
    question.waiting = [waiter]
    question.last = -1
    question.until = poller.now + server.timeout
    if digest is not None:
        question.digest = digest
        provider.waiting[digest] = question
    server.busy += 1
    tally.asked += 1
    question.attempt()
    question.begun = True
    return question if question.found is None else question.found


cdef Known undecided(AuthServer server, str why):
    server.failed(why)
    tally.failed += 1
    if not server.lets_through:
        return UNAVAILABLE
    tally.let_through += 1
    return LET_THROUGH


cdef class AuthQuestion:

    def __dealloc__(self):
        tg_buffer_free(&self.text)
        free(self.excluded)

    cdef void attempt(self) noexcept:
        cdef Pool pool = self.server.pool
        cdef uint64_t now = self.poller.now
        cdef int found
        if pool.newer is not None:
            pool = pool.newer                 # of a provider that a plan in force no longer has
        if self.pool is not pool:
            self.move_to(pool)                # a reload came between, or it is the first
        found = self.take_endpoint_now(now)
        if found < 0:
            found = stand_in_line(pool.queue, self, found, NORMAL, self.until, self.last >= 0, now)
        if found >= 0:
            self.send(found)

    cdef int take_endpoint_now(self, uint64_t now) noexcept:
        return self.take(self.choice(now))

    cdef int take_endpoint(self, uint64_t now, uint64_t blocked) noexcept:
        cdef Choice choice = self.choice(now)
        choice.turn = True
        choice.block(blocked)
        return self.take(choice)

    cdef int take(self, Choice choice) noexcept:
        cdef int found = acquire_past(self.pool, choice, self.last, &self.excluded)
        if found >= 0:
            self.charged = choice.charged
        return found

    cdef Choice choice(self, uint64_t now):
        cdef Choice choice = self.pool.new_choice(now, 0)
        if self.pool.costs is not None:
            choice.cost = self.pool.endpoints.one
        return choice

    cdef void queued(self, uint64_t until) noexcept:
        self.poller.arm(self, min(until, self.until))

    cdef void admitted(self, int endpoint) noexcept:
        self.poller.disarm(self)
        self.send(endpoint)

    cdef void turned_away(self, int why) noexcept:
        self.poller.disarm(self)
        if why == Q_NOBODY or why == Q_NO_START:
            self.failed(f"no endpoint of pool {self.pool.name} is available", False)
        else:
            self.failed(f"the endpoints of pool {self.pool.name} are busy, and too many questions wait", False)

    cdef void on_timer(self) noexcept:
        if self.queue is not None:
            self.queue.leave(self, True)
            self.failed(f"the endpoints of pool {self.pool.name} were busy for too long", False)

    cdef void settle(self) noexcept:
        self.last = -1
        forget_excluded(self.excluded)

    cdef void move_to(self, object pool) noexcept:
        if self.pool is None or (<Pool>pool).protocol == self.pool.protocol:
            self.pool = pool
            self.settle()                     # they are indexes of the old one

    cdef void send(self, int endpoint) noexcept:
        cdef Pool pool = self.pool
        cdef HttpAuthCall http
        cdef GrpcAuthCall grpc
        self.attempts += 1
        self.last = endpoint
        if self.server.grpc:
            grpc = GrpcAuthCall.__new__(GrpcAuthCall)
            grpc.question = self
            self.call = grpc
            take_slot(grpc, pool, endpoint, self.charged, self.poller.now)
            grpc.ask()
        else:
            http = HttpAuthCall.__new__(HttpAuthCall)
            http.question = self
            self.call = http
            take_slot(http, pool, endpoint, self.charged, self.poller.now)
            http.ask()

    cdef void failed(self, str why, bint again) noexcept:
        self.call = None
        if again and self.attempts < ATTEMPTS and self.poller.now < self.until:
            self.attempt()
        else:
            self.conclude(undecided(self.server, why))

    cdef void conclude(self, Known found) noexcept:
        cdef list waiting = self.waiting
        cdef object waiter
        if self.over:
            return
        self.over = True
        self.call = None
        self.server.busy -= 1
        self.waiting = []
        if self.digest is not None:
            if self.provider.waiting.get(self.digest) is self:
                del self.provider.waiting[self.digest]
            if isinstance(found, Decision):
                self.provider.keep_decision(self.digest, <Decision>found, self.poller.now)
        if not self.begun:
            self.found = found
            return
        for waiter in waiting:
            self.told(waiter, self.provider, found)

    cdef void leave(self, object waiter) noexcept:
        cdef Attempt call = self.call
        if self.over or waiter not in self.waiting:
            return
        self.waiting.remove(waiter)
        if self.waiting:
            return
        self.over = True
        self.call = None
        self.server.busy -= 1
        if self.digest is not None and self.provider.waiting.get(self.digest) is self:
            del self.provider.waiting[self.digest]
        if self.queue is not None:
            self.poller.disarm(self)
            self.queue.leave(self, False)
        if call is not None:
            call.stop()


cdef class HttpAuthCall(Http1Call):
    """A question over HTTP/1.1: one attempt."""
    cdef AuthQuestion question
    cdef Http1Upstream upstream
    cdef size_t sent
    cdef size_t received              # bytes of the answer's body
    cdef tg_buffer body               # of an answer that is for the client
    cdef Decision decision            # what its head says; None: no decision, or none yet
    cdef int status                   # of the answer; 0 = none yet
    cdef str trouble                  # why it decides nothing; None: it does

    def __dealloc__(self):
        tg_buffer_free(&self.body)

    cdef void ask(self) noexcept:
        cdef int failed
        self.question.poller.arm(self, self.question.until)
        # One that was tried in vain may have been an idle connection that the server was just closing.
        failed = (<Http1Pool>self.pool.channels[self.endpoint]).take(self, self.question.attempts > 1, True)
        if failed != FAIL_NONE:
            self.on_broken(None, failed)

    cdef void on_connecting(self, Http1Upstream upstream) noexcept:
        self.upstream = upstream

    cdef void on_connected(self, Http1Upstream upstream) noexcept:
        cdef bytes lines = self.question.server.first_lines(<str>self.pool.endpoints.addresses[self.endpoint])
        cdef iovec[2] parts
        self.upstream = upstream
        parts[0].iov_base = <char *>lines
        parts[0].iov_len = <size_t>len(lines)
        parts[1].iov_base = tg_buffer_head(&self.question.text)
        parts[1].iov_len = tg_buffer_size(&self.question.text)
        self.sent = parts[0].iov_len + parts[1].iov_len
        if upstream.push_parts(parts, 2) == IO_ERROR:
            upstream.broken(FAIL_RESET)

    cdef void on_answer(self, Http1Upstream upstream, Scan *scan) noexcept:
        cdef int i
        if scan.head:
            if scan.status < 200:
                if scan.status == 101:        # nothing was asked for that it would answer
                    upstream.broken(FAIL_PROTOCOL)
                return
            self.status = scan.status
            try:
                self.decision = self.question.server.read(scan)
                if self.decision is None:
                    self.trouble = f"its answer is {scan.status}"
            except (ValueError, MemoryError) as error:
                self.trouble = str(error) or "out of memory"
        self.received += scan.body_bytes
        if self.received > self.question.server.max_answer:
            tg_buffer_clear(&self.body)       # the status has to do
            self.finish(False)
            return
        if self.decision is not None and self.decision.state == ACCESS_DENIED:
            for i in range(scan.span_count):
                if tg_buffer_append(&self.body, scan.spans[i].iov_base, scan.spans[i].iov_len) < 0:
                    tg_buffer_clear(&self.body)
                    self.finish(False)
                    return
        if scan.complete:
            self.finish(upstream.parser.keep_alive())

    cdef void on_broken(self, Http1Upstream upstream, int kind) noexcept:
        self.upstream = None                  # it is closed already
        self.lose(kind)

    cdef void on_timer(self) noexcept:
        self.lose(FAIL_TIMEOUT)

    cdef void stop(self) noexcept:
        if self.state != A_OVER:
            over(self, STOPPED, 0, -1, VERDICT_NONE, self.question.poller.now, 0, self.sent)
            self.hang_up(False)

    cdef void lose(self, int kind) noexcept:
        """There is no answer, or not all of one."""
        if self.state == A_OVER:
            return
        count_failure(self.pool.series[self.endpoint], kind)
        if kind == FAIL_NO_SOCKET:
            over(self, STOPPED, 0, -1, VERDICT_NONE, self.question.poller.now, 0, 0)
        else:
            over(self, ENDED, failure_of(kind).status, -1, VERDICT_GATEWAY, self.question.poller.now, self.received,
                 self.sent)
        self.hang_up(False)
        self.question.failed(trouble_of(kind), is_repeatable(kind))

    cdef void finish(self, bint reusable) noexcept:
        cdef AuthQuestion question = self.question
        if self.state == A_OVER:
            return
        over(self, ENDED, self.status, -1, verdict_of(self.status, True), question.poller.now, self.received, self.sent)
        self.hang_up(reusable)
        if self.decision is None:
            question.failed(self.trouble, False)
            return
        if self.decision.state == ACCESS_DENIED:
            self.decision.body = tg_buffer_head(&self.body)[:tg_buffer_size(&self.body)]
        decided(question, self.decision)

    cdef void hang_up(self, bint reusable) noexcept:
        cdef Http1Upstream upstream = self.upstream
        self.deadline = UINT64_MAX
        self.upstream = None
        if upstream is None:
            return
        if reusable:
            (<Http1Pool>self.pool.channels[self.endpoint]).give(upstream)
        else:
            upstream.pool.drop(upstream)


cdef class GrpcAuthCall(GrpcCall):
    """A question over gRPC: one attempt."""
    cdef AuthQuestion question
    cdef iovec part
    cdef size_t received

    cdef void ask(self) noexcept:
        self.part.iov_base = tg_buffer_head(&self.question.text)
        self.part.iov_len = tg_buffer_size(&self.question.text)
        self.parts = &self.part
        self.part_count = 1
        self.message_size = self.part.iov_len
        if self.call_path(<const char *>CHECK, <size_t>len(CHECK)) < 0:
            over(self, STOPPED, 0, -1, VERDICT_NONE, self.question.poller.now, 0, 0)
            self.question.failed("out of memory", False)
            return
        (<Http2Channel>self.pool.channels[self.endpoint]).start(self, self.question.until)

    cdef int take_data(self, const char *data, size_t size, size_t *held) noexcept:
        self.received += size
        return FAIL_TOO_LARGE if self.received > <size_t>REPLY_MOST else GrpcCall.take_data(self, data, size, held)

    cdef void on_done(self, int status, const char *message, size_t n) noexcept:
        cdef AuthQuestion question = self.question
        cdef Decision decision = None
        cdef str why = None
        over(self, ENDED, 200, status, verdict_of_grpc(status), question.poller.now, self.received, self.part.iov_len)
        if status:
            text = message[:n].decode("utf-8", "backslashreplace")
            question.failed(f"its answer is the gRPC status {status} ({text!a})", status == GRPC_UNAVAILABLE)
            return
        try:
            decision = question.server.read_reply(tg_buffer_head(&self.reply), tg_buffer_size(&self.reply))
        except (ValueError, MemoryError) as error:
            why = str(error) or "out of memory"
        if decision is None:
            question.failed(why, False)
        else:
            decided(question, decision)

    cdef void on_failed(self, int kind) noexcept:
        count_failure(self.pool.series[self.endpoint], kind)
        if kind == FAIL_NO_SOCKET:
            over(self, STOPPED, 0, -1, VERDICT_NONE, self.question.poller.now, 0, 0)
        else:
            over(self, ENDED, failure_of(kind).status, failure_of(kind).grpc_status, VERDICT_GATEWAY,
                 self.question.poller.now, self.received, self.part.iov_len)
        self.question.failed(trouble_of(kind), is_repeatable(kind))

    cdef void stop(self) noexcept:
        if self.state != A_OVER:
            over(self, STOPPED, 0, -1, VERDICT_NONE, self.question.poller.now, self.received, self.part.iov_len)
            (<Http2Channel>self.pool.channels[self.endpoint]).cancel(self)


cdef void decided(AuthQuestion question, Decision decision) noexcept:
    question.server.answered()
    if decision.state == ACCESS_DENIED:
        tally.denied += 1
    question.conclude(decision)


cdef bint is_repeatable(int kind) noexcept:
    """A question does no harm when it is asked twice; one that took too long has no time left."""
    return kind == FAIL_CONNECT or kind == FAIL_NO_SOCKET or kind == FAIL_REFUSED or kind == FAIL_RESET


cdef str trouble_of(int kind):
    if kind == FAIL_TIMEOUT:
        return "it did not answer in time"
    if kind == FAIL_CONNECT:
        return "there is no connection to it"
    if kind == FAIL_NO_SOCKET:
        return "this host has no source port, descriptor or memory for a connection to it"
    if kind == FAIL_TOO_LARGE:
        return "its answer is too large"
    return f"the connection to it failed ({failure_of(kind).reason.decode()})"


cdef void over(Attempt call, ending how, int status, int code, int verdict, uint64_t now, size_t received,
               size_t sent) noexcept:
    """Gives back what a question took, and counts it. What answers is well, whatever it decides."""
    cdef tg_outcome outcome
    outcome.how = how
    outcome.ok = verdict != VERDICT_GATEWAY
    outcome.answered = outcome.ok and how == ENDED
    outcome.status = status
    outcome.code = code
    outcome.late = False
    outcome.verdict = verdict
    outcome.bytes_in = received
    outcome.bytes_out = sent
    release(call, &outcome, now)
