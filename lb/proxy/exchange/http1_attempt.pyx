"""An attempt at an endpoint that speaks HTTP/1.1: see http1_attempt.pxd.

The request is serialised once, into one buffer, and sent from there; while it fits the listener's `retry_buffer` it is
kept until the answer begins, so that it can be sent to another endpoint. Longer bodies stream through without being
kept. A retry is this attempt, launched again; a hedge is another with a copy of the request.
"""

import base64
import hashlib
import os

cimport cython
from cpython.object cimport PyTypeObject
from libc.stdint cimport UINT64_MAX, uint64_t
from libc.string cimport memset
from lb.failure cimport (
    FAIL_CONNECT, FAIL_IDLE, FAIL_NONE, FAIL_NO_MEMORY, FAIL_NO_SOCKET, FAIL_PROTOCOL, FAIL_REFUSED, FAIL_RESET,
    failure_of, is_good,
)
from lb.net.buffer cimport tg_buffer, tg_buffer_append, tg_buffer_free, tg_buffer_head, tg_buffer_size
from lb.http.chunks cimport GATHERED, append_chunk
from lb.net.ending cimport tg_end_by
from lb.http.head cimport (
    H_CONNECTION, H_EXPECT, H_HOST, H_TE, H_UPGRADE, Field, Scan, has_token, mark_hop_by_hop, plainly_chunked,
    same_name,
)
from lb.http.head_text cimport append_chunk_size, append_fields, append_text, append_trailers
from lb.http.methods cimport method_text
from lb.net.reuse cimport tg_reuse
from lb.shared.segment cimport tg_add
from lb.shared.segment_words cimport ENDPOINT_RESPONSE_ERRORS, ROUTE_UPGRADES
from lb.net.splice cimport PASS_LOST, PASS_NOT, pass_through
from lb.net.stream cimport IO_ERROR, iovec
from lb.proxy.client.client cimport Client
from lb.proxy.routing.headers.client_certificate cimport append_client_certificate
from lb.proxy.routing.cors cimport drop_cors
from lb.proxy.exchange.exchange cimport (
    X_ANSWERING, X_DONE, X_NEW, X_ATTEMPT, X_UPGRADED, Exchange, learn_session, verdict_by_status,
)
from lb.proxy.exchange.intercepted cimport intercept
from lb.proxy.exchange.retried_answer cimport retry_answer
from lb.proxy.routing.headers.fields cimport OMIT_CERTIFICATE, replace_host
from lb.proxy.routing.headers.forwarded cimport tg_hop
from lb.upstream.attempt cimport (
    A_ANSWERING, A_CONNECTING, A_SENDING, A_SENT, Attempt, step, tg_outcome,
)
from lb.upstream.connect_failure cimport NO_SOCKET
from lb.upstream.connections.http1 cimport Http1Call, Http1Pool, Http1Upstream
from lb.upstream.pool cimport Pool


@cython.final
cdef class Http1Attempt(Http1Call):

    # The request, on its way in.

    cdef bint begin(self, Scan *scan) noexcept:
        cdef Exchange exchange = <Exchange>self.owner
        self.alone = brings_proof(scan)
        if len(OWN):
            keep_to_own(exchange)
        self.replayable = True
        self.chunked = scan.chunked
        if build_head(self, exchange, scan) < 0:
            exchange.fail(FAIL_NO_MEMORY, "out of memory")
            return False
        # A request that is here whole goes out with its body in one write, from take_body.
        if scan.websocket:
            exchange.request_complete = True      # the head is all of it; what follows is for `switch_protocols`
        return not scan.complete

    cdef void take_trailers(self, Scan *scan) noexcept:
        cdef Exchange exchange = <Exchange>self.owner
        # A request that is parked has not begun here: whether it has chunks is not known yet.
        if (self.chunked or exchange.state == X_NEW) and append_trailers(&self.trailers, scan) < 0:
            exchange.fail(FAIL_NO_MEMORY, "out of memory")

    cdef int append_end(self, tg_buffer *out) noexcept:
        """The last chunk and the trailers (RFC 9112 section 7.1.2)."""
        if append_text(out, b"0\r\n") < 0:
            return -1
        if tg_buffer_append(out, tg_buffer_head(&self.trailers), tg_buffer_size(&self.trailers)) < 0:
            return -1
        return append_text(out, b"\r\n")

    cdef void take_body(self, const iovec *spans, int count, size_t size, bint last) noexcept:
        cdef Exchange exchange = <Exchange>self.owner
        if exchange.state == X_UPGRADED:
            take_raw(exchange, self.upstream, spans, count, size, last)
            return
        if exchange.state >= X_ANSWERING and self.upstream is None:
            return
        if self.upstream is not None and not self.upstream.connecting:
            if tg_buffer_size(&self.request) + size > exchange.listener.retry_buffer:
                self.replayable = False
        if self.replayable:
            if self.keep_body(spans, count, size) < 0 or (last and self.chunked and self.append_end(&self.request) < 0):
                exchange.fail(FAIL_NO_MEMORY, "out of memory")
                return
        else:
            self.spill(spans, count, size, last)
            if exchange.state == X_DONE:
                return
        if last:
            exchange.request_complete = True
        if self.upstream is None:
            if exchange.state == X_NEW:
                exchange.pick()
        elif not self.upstream.connecting:
            if last or not self.replayable or not self.gathers():
                self.send_request(exchange)
            elif size:
                self.upstream.poller.mark(self.upstream)      # on_batch_end sends it
        elif last and exchange.route.hedge is not None:
            exchange.watch()
            exchange.arm_look()
        if exchange.state < X_DONE and not exchange.request_complete:
            if self.upstream is None or self.upstream.connecting:
                # Not connected: what was read stays, but no more than that.
                exchange.wants_body = tg_buffer_size(&self.request) < <size_t>exchange.listener.retry_buffer
            else:
                exchange.wants_body = self.upstream.pending() < HIGH_WATER
                if not exchange.wants_body:
                    exchange.arm_wait()       # nobody else watches an endpoint that takes no more of it
        if (exchange.request_complete and exchange.route.mirror is not None and not self.upgrading
                and exchange.route.mirror.pool is not exchange.pool):
            exchange.route.mirror.offer(exchange.client.poller, &self.request, self.replayable, exchange.key,
                                        exchange.head_method)

    cdef Py_ssize_t pass_body(self, size_t size) noexcept:
        return pass_request(self, <Exchange>self.owner, size)

    cdef bint gathers(self) noexcept:
        return self.chunked or (<Exchange>self.owner).version == 20     # else a piece is what one read gave

    cdef int keep_body(self, const iovec *spans, int count, size_t size) noexcept:
        cdef int i
        if self.chunked:
            return append_chunk(&self.request, &self.chunk, tg_buffer_size(&self.request) - self.sent, spans, count,
                                size)
        for i in range(count):
            if tg_buffer_append(&self.request, spans[i].iov_base, spans[i].iov_len) < 0:
                return -1
        return 0

    cdef void spill(self, const iovec *spans, int count, size_t size, bint last) noexcept:
        """Body bytes that are not kept: straight to the endpoint, behind what is left of `request`."""
        cdef int i, failed = 0
        cdef Exchange exchange = <Exchange>self.owner
        cdef Http1Upstream upstream = self.upstream
        self.send_request(exchange)
        if exchange.state == X_DONE or self.upstream is not upstream or upstream.deaf:
            return
        if tg_buffer_size(&self.request):
            tg_buffer_free(&self.request)
            self.sent = 0
            self.chunk = 0
        if size >= GATHERED or not self.gathers():
            self.chunk = 0
            if self.chunked:
                failed = append_chunk_size(&upstream.out, size)
            if not failed and size and upstream.push_parts(spans, count) == IO_ERROR:
                upstream.write_failed()
                return
            if self.chunked:
                failed |= append_text(&upstream.out, b"\r\n")
        elif self.chunked:
            failed = append_chunk(&upstream.out, &self.chunk, tg_buffer_size(&upstream.out), spans, count, size)
        else:
            for i in range(count):
                failed |= tg_buffer_append(&upstream.out, spans[i].iov_base, spans[i].iov_len)
        if last and self.chunked:
            failed |= self.append_end(&upstream.out)
        if failed:
            upstream.broken(FAIL_RESET)
            return
        upstream.poller.mark(upstream)

    # The endpoint.

    cdef void launch(self) noexcept:
        cdef Exchange exchange = <Exchange>self.owner
        cdef Http1Pool channel = <Http1Pool>self.pool.channels[self.endpoint]
        cdef Http1Upstream own
        cdef int failed
        self.sent = 0
        if self is exchange.attempt:
            if exchange.client.put_off():
                return                        # until Exchange.launch_now
            own = take_own(exchange, channel, self.fresh) if len(OWN) else None
            if own is not None:
                self.alone = True
                own.serve(self)
                self.on_connected(own)
                return
        # What streams may soon not be kept any more.
        failed = channel.take(self, self.fresh, not exchange.request_complete)
        if failed != FAIL_NONE:
            self.lost(failed)

    cdef void on_connecting(self, Http1Upstream upstream) noexcept:
        cdef Exchange exchange = <Exchange>self.owner
        self.upstream = upstream
        step(self, A_CONNECTING)
        if exchange.route.hedge is not None and exchange.request_complete:
            exchange.watch()                  # a connect may hang as well as an answer
            exchange.arm_look()

    cdef void on_connected(self, Http1Upstream upstream) noexcept:
        cdef Exchange exchange = <Exchange>self.owner
        self.upstream = upstream
        step(self, A_SENDING)
        if exchange.recorded():
            self.connected_at = exchange.client.poller.now
        upstream.parser.headless = exchange.head_method
        self.send_request(exchange)
        if not exchange.request_complete and exchange.state < X_ANSWERING:
            exchange.wants_body = True
            exchange.client.resume_request()

    cdef void send_request(self, Exchange exchange) noexcept:
        cdef iovec part
        cdef Http1Upstream upstream = self.upstream
        part.iov_len = self.request.end - self.request.start - self.sent
        if part.iov_len and not upstream.deaf:
            part.iov_base = self.request.data + self.request.start + self.sent
            self.sent += part.iov_len
            if upstream.ask(&part) == IO_ERROR:
                upstream.write_failed()
        if exchange.request_complete and self.state == A_SENDING:
            step(self, A_SENT)
            if self is exchange.attempt:
                if exchange.route.hedge is not None:
                    exchange.watch()
                exchange.arm_wait()

    cdef void on_batch_end(self, Http1Upstream upstream) noexcept:
        if self.replayable:
            self.send_request(<Exchange>self.owner)

    cdef void on_drained(self, Http1Upstream upstream) noexcept:
        cdef Exchange exchange = <Exchange>self.owner
        if exchange.state == X_UPGRADED:
            raw_drained(exchange, upstream)
            return
        if not exchange.request_complete and not exchange.wants_body:
            exchange.wants_body = True
            if exchange.state < X_ANSWERING:
                exchange.client.poller.arm(exchange, exchange.expires)
            exchange.client.resume_request()

    # The answer.

    cdef void on_answer(self, Http1Upstream upstream, Scan *scan) noexcept:
        cdef Exchange exchange = <Exchange>self.owner
        if scan.head:
            if self is exchange.hedge:
                if scan.status == 101:
                    upstream.broken(FAIL_PROTOCOL)            # no upgrade was asked for
                    return
                if scan.status < 200 or not exchange.hedge_answers(is_good(scan.status), scan.status, -1):
                    return
            if scan.status < 200:
                self.take_interim(exchange, upstream, scan)
                return
            if not self.take_head(exchange, upstream, scan):
                return
        if scan.span_count:
            exchange.bytes_out += scan.body_bytes
            exchange.client.respond_body(scan.spans, scan.span_count)
            if exchange.state == X_DONE:
                return
        if scan.complete:
            self.take_end(exchange, upstream, scan)
            return
        if exchange.client.backlog() > HIGH_WATER:
            self.client_slow = True
            upstream.pause()
        exchange.arm_wait()

    cdef void take_interim(self, Exchange exchange, Http1Upstream upstream, Scan *scan) noexcept:
        if scan.status == 101 and self.upgrading and is_granted(self, scan):
            step(self, A_ANSWERING)
            self.replayable = False
            switch_protocols(exchange, upstream, scan)
        elif scan.status == 101:
            upstream.broken(FAIL_PROTOCOL)                    # no upgrade, or another, was asked for
        elif scan.status != 100 and not exchange.http10:      # 100: we sent it ourselves
            mark_hop_by_hop(scan)
            exchange.client.respond(scan, NULL, False)

    cdef bint take_head(self, Exchange exchange, Http1Upstream upstream, Scan *scan) noexcept:
        """The head of the final answer. False: it is not passed on, or ends the exchange."""
        cdef int status = scan.status
        cdef tg_buffer extra
        if self.upgrading and exchange.version == 20 and status < 300:
            # The stream's CONNECT would be granted by it, and what follows taken for frames (RFC 8441 section 5).
            upstream.broken(FAIL_PROTOCOL)
            return False
        if not plainly_chunked(scan):
            upstream.broken(FAIL_PROTOCOL)       # a coding that nobody asked for, and that we would not undo
            return False
        if self.pool.policy.reads_reports:
            exchange.find_report(scan.fields, scan.field_count)
        if status >= 429 and retry_answer(exchange, scan):
            return False
        if exchange.route.hedge is not None:
            exchange.own_answer()
        if exchange.pool.sessions is not None:
            learn_session(exchange, status, scan.fields, scan.field_count)
        if exchange.route.cors is not None:
            drop_cors(scan)
        if exchange.change_answer(scan) < 0:
            upstream.broken(FAIL_PROTOCOL)       # it has no room left for ours
            return False
        if status >= 400:
            intercept(exchange, scan)
        if asks_for_proof(scan):
            self.alone = True
        exchange.status = status
        exchange.first_byte_at = exchange.client.poller.now
        step(self, A_ANSWERING)
        exchange.move(X_ANSWERING)
        # Both bodies may go on at once (RFC 9110 section 7.5), unless the endpoint shows that it wants no more.
        if not exchange.request_complete and (scan.complete or status >= 300 or not upstream.parser.keep_alive()):
            exchange.client.answered_early()
        mark_hop_by_hop(scan)
        memset(&extra, 0, sizeof(extra))
        exchange.append_endpoint(&extra)
        exchange.client.respond(scan, &extra, scan.complete and not scan.span_count and not scan.trailer_count)
        tg_buffer_free(&extra)
        return exchange.state != X_DONE

    cdef void take_end(self, Exchange exchange, Http1Upstream upstream, Scan *scan) noexcept:
        if scan.trailer_count:
            if self.pool.policy.reads_reports:
                exchange.find_report(scan.trailers, scan.trailer_count)
            exchange.client.respond_trailers(scan)
        self.upstream = None
        if exchange.request_complete and self.alone and upstream.parser.keep_alive():
            give_own(exchange, upstream)
        elif exchange.request_complete and upstream.parser.keep_alive():
            upstream.pool.give(upstream)
        else:
            upstream.pool.drop(upstream)
        exchange.end()

    cdef Py_ssize_t pass_answer(self, Http1Upstream upstream, size_t size) noexcept:
        return pass_response(<Exchange>self.owner, upstream, size)

    cdef void judge_outcome(self, tg_outcome *outcome) noexcept:
        outcome.code = -1
        outcome.verdict = verdict_by_status(<Exchange>self.owner, outcome.ok)

    # Behind an upgrade.

    cdef void on_raw(self, Http1Upstream upstream, const char *data, size_t n) noexcept:
        give_raw(<Exchange>self.owner, upstream, data, n)

    cdef void on_raw_end(self, Http1Upstream upstream) noexcept:
        self.upstream = None
        upstream.pool.drop(upstream)
        (<Exchange>self.owner).end()

    cdef void idle(self) noexcept:
        cdef Http1Upstream upstream = self.upstream
        if upstream is not None:
            (<Exchange>self.owner).reason = failure_of(FAIL_IDLE).reason
            self.on_raw_end(upstream)

    cdef void client_drained(self) noexcept:
        if self.upstream is not None:
            self.upstream.resume()

    # Its end before the answer's.

    cdef void on_broken(self, Http1Upstream upstream, int kind) noexcept:
        self.upstream = None
        self.fresh = True
        self.lost(kind)

    cdef void lost(self, int kind) noexcept:
        cdef Exchange exchange = <Exchange>self.owner
        if exchange.state >= X_ANSWERING:
            tg_add(&self.pool.series[self.endpoint][ENDPOINT_RESPONSE_ERRORS], 1)
            exchange.fail(FAIL_RESET, "")
        elif exchange.attempt_failed(self, kind):
            return
        elif kind == FAIL_CONNECT:
            exchange.fail(FAIL_CONNECT, "could not connect to the endpoint")
        elif kind == FAIL_NO_SOCKET:
            exchange.fail(FAIL_NO_SOCKET, NO_SOCKET)
        elif kind == FAIL_PROTOCOL:
            exchange.fail(FAIL_PROTOCOL, "the endpoint's answer is not valid HTTP")
        else:
            exchange.fail(FAIL_RESET, "the endpoint closed the connection without a complete answer")

    cdef bint may_retry(self, int kind) noexcept:
        """Safe when nothing has arrived; or when no answer has begun, and repeating does no harm."""
        cdef Exchange exchange = <Exchange>self.owner
        if not self.replayable or not (kind == FAIL_CONNECT or kind == FAIL_NO_SOCKET or kind == FAIL_REFUSED
                                       or (kind == FAIL_RESET and exchange.idempotent)):
            return False
        return exchange.retry_granted(failure_of(kind).retry, -1)

    cdef bint repeatable(self) noexcept:
        cdef Exchange exchange = <Exchange>self.owner
        return (self.replayable and exchange.request_complete and exchange.idempotent and not self.upgrading
                and not self.alone)

    cdef Attempt twin(self):
        cdef Http1Attempt attempt = Http1Attempt.__new__(Http1Attempt)
        if tg_buffer_append(&attempt.request, tg_buffer_head(&self.request), tg_buffer_size(&self.request)) < 0:
            return None
        attempt.replayable = True
        attempt.chunked = self.chunked
        return attempt

    cdef void stop(self) noexcept:
        cdef Http1Upstream upstream = self.upstream
        if upstream is not None:
            self.upstream = None
            # In the middle of an exchange: the endpoint is to know at once, and the port is free again. Clients that
            # give up quickly would else have every port wait out a close.
            upstream.reset_on_close()
            upstream.pool.drop(upstream)


cdef void end_attempt(void *attempt) noexcept:
    tg_buffer_free(&(<Http1Attempt>attempt).request)
    tg_buffer_free(&(<Http1Attempt>attempt).trailers)


tg_end_by(<PyTypeObject *>Http1Attempt, end_attempt)
tg_reuse(<PyTypeObject *>Http1Attempt)


cdef int build_head(Http1Attempt attempt, Exchange exchange, Scan *scan) noexcept:
    cdef size_t n
    cdef const char *method = method_text(scan, exchange.method, &n)
    cdef uint64_t skip = <uint64_t>1 << H_EXPECT
    cdef tg_hop hop
    cdef bytes name
    tg_buffer_append(&attempt.request, method, n)
    tg_buffer_append(&attempt.request, b" ", 1)
    tg_buffer_append(&attempt.request, scan.target, scan.target_length)
    append_text(&attempt.request, b" HTTP/1.1\r\n")
    mark_hop_by_hop(scan)
    hop.omit = 0 if exchange.route.request_fields is None else exchange.route.request_fields.omit
    if not hop.omit & OMIT_CERTIFICATE and append_client_certificate(&attempt.request, exchange.client, scan) < 0:
        return -1
    attempt.upgrading = upgrade_wanted(scan) and exchange.listener.may_upgrade(scan)
    if scan.first[H_HOST] < 0 and exchange.route.new_host is None:
        # HTTP/1.0 may come without; HTTP/1.1 may not go without.
        name = exchange.pool.name.encode()
        append_text(&attempt.request, b"Host: ")
        tg_buffer_append(&attempt.request, <const char *>name, <size_t>len(name))
        append_text(&attempt.request, b"\r\n")
    hop.text = &attempt.request
    if exchange.listener.hop.collect(scan, exchange.ids, exchange.client.ip, exchange.client.ip_length,
                                     exchange.client.scheme(), scan.version, &hop) < 0:
        return -1
    if exchange.route.new_host is not None and replace_host(scan, exchange.route.new_host) < 0:
        return -1                         # after X-Forwarded-Host, which says what the client asked for
    if append_fields(&attempt.request, scan, skip) < 0:
        return -1
    if attempt.chunked:
        append_text(&attempt.request, b"Transfer-Encoding: chunked\r\n")
    if attempt.upgrading:
        return append_upgrade(attempt, scan)
    if scan.first[H_TE] >= 0 and has_token(&scan.fields[scan.first[H_TE]], b"trailers"):
        append_text(&attempt.request, b"TE: trailers\r\nConnection: TE\r\n")
    return tg_buffer_append(&attempt.request, b"\r\n", 2)


cdef int append_upgrade(Http1Attempt attempt, Scan *scan) noexcept:
    """The end of a head that asks for an upgrade, and may be asked to by a stream (RFC 8441 section 5)."""
    cdef Field *field
    cdef bytes key
    if scan.websocket:
        key = b"Sec-WebSocket-Key: " + base64.b64encode(os.urandom(16)) + b"\r\n"
        tg_buffer_append(&attempt.request, <const char *>key, <size_t>len(key))
        return append_text(&attempt.request, b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
    field = &scan.fields[scan.first[H_UPGRADE]]
    append_text(&attempt.request, b"Upgrade: ")
    tg_buffer_append(&attempt.request, field.value, field.value_length)
    return append_text(&attempt.request, b"\r\nConnection: Upgrade\r\n\r\n")


cdef bint upgrade_wanted(Scan *scan) noexcept:
    """Whether the request asks for another protocol (RFC 9110 section 7.8); one with a body does not get it."""
    if scan.websocket:
        return True
    return (scan.version == 11 and scan.first[H_UPGRADE] >= 0 and scan.first[H_CONNECTION] >= 0
            and not scan.chunked and scan.content_length == 0
            and has_token(&scan.fields[scan.first[H_CONNECTION]], b"upgrade"))


cdef Py_ssize_t pass_request(Http1Attempt attempt, Exchange exchange, size_t size) noexcept:
    cdef Http1Upstream upstream = attempt.upstream
    cdef Py_ssize_t n
    if attempt.replayable or attempt.chunked or exchange.state != X_ATTEMPT or tg_buffer_size(&attempt.request):
        return PASS_NOT
    if upstream is None or upstream.connecting or upstream.tls is not None or upstream.pending() or upstream.deaf:
        return PASS_NOT
    if exchange.client.fd < 0:
        return PASS_NOT                       # an HTTP cache stands between (lb.proxy.exchange.http_cache)
    if exchange.bytes_in + size > exchange.route.max_body:
        return PASS_NOT
    n = pass_through(exchange.client, upstream, size)
    if n == PASS_LOST:
        upstream.write_failed()
    elif n > 0:
        exchange.bytes_in += <uint64_t>n
        exchange.wants_body = upstream.pending() < HIGH_WATER
        if not exchange.wants_body:
            exchange.arm_wait()               # nobody else watches an endpoint that takes no more of it
        upstream.poller.mark(upstream)
    return n


cdef Py_ssize_t pass_response(Exchange exchange, Http1Upstream upstream, size_t size) noexcept:
    cdef Py_ssize_t n
    if exchange.state != X_ANSWERING:
        return PASS_NOT
    n = exchange.client.respond_through(upstream, size)
    if n > 0:
        exchange.bytes_out += <uint64_t>n
        if exchange.client.backlog() > HIGH_WATER:
            exchange.attempt.client_slow = True
            upstream.pause()
        exchange.arm_wait()
    return n


cdef bytes WEBSOCKET_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


cdef bint is_granted(Http1Attempt attempt, const Scan *scan) noexcept:
    cdef bytes head = tg_buffer_head(&attempt.request)[:tg_buffer_size(&attempt.request)]
    cdef bytes asked = field_of(head, b"upgrade")
    cdef bytes key
    cdef const Field *field
    if asked is None or not has_field_token(scan, H_UPGRADE, asked):
        return False
    if not has_field_token(scan, H_CONNECTION, b"upgrade"):
        return False
    if asked != b"websocket":
        return True
    key = field_of(head, b"sec-websocket-key", False)
    field = only_field(scan, b"sec-websocket-accept")
    if key is None or field == NULL:
        return False
    return base64.b64encode(hashlib.sha1(key + WEBSOCKET_GUID).digest()) == field.value[:field.value_length]


cdef bytes field_of(bytes head, bytes name, bint lower=True):
    """The value of the only field of that name in a head of ours; None: there is none, or several."""
    found = [line for line in head.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]
             if line.partition(b":")[0].lower() == name]
    if len(found) != 1:
        return None
    value = found[0].partition(b":")[2].strip()
    return value.lower() if lower else value


cdef bint has_field_token(const Scan *scan, int id, bytes token) noexcept:
    cdef int i
    for i in range(scan.field_count):
        if scan.fields[i].id == id and has_token(&scan.fields[i], <const char *>token):
            return True
    return False


cdef const Field *only_field(const Scan *scan, const char *name) noexcept:
    cdef const Field *found = NULL
    cdef int i
    for i in range(scan.field_count):
        if same_name(scan.fields[i].name, scan.fields[i].name_length, name):
            if found != NULL:
                return NULL
            found = &scan.fields[i]
    return found


cdef void switch_protocols(Exchange exchange, Http1Upstream upstream, Scan *scan) noexcept:
    exchange.status = 101
    if exchange.pool.sessions is not None:
        learn_session(exchange, 101, scan.fields, scan.field_count)
    exchange.first_byte_at = exchange.client.poller.now
    exchange.move(X_UPGRADED)
    tg_add(&exchange.route.series[ROUTE_UPGRADES], 1)
    exchange.request_complete = False
    exchange.wants_body = True
    upstream.become_raw()
    mark_hop_by_hop(scan)
    exchange.client.respond_upgrade(scan)
    touch(exchange)


cdef void touch(Exchange exchange) noexcept:
    cdef uint64_t timeout = exchange.listener.upgrade_idle_timeout
    exchange.client.poller.arm(exchange, exchange.client.poller.now + timeout if timeout else UINT64_MAX)


cdef void take_raw(Exchange exchange, Http1Upstream upstream, const iovec *spans, int count, size_t size,
                   bint last) noexcept:
    cdef int i, failed = 0
    if upstream is None:
        return
    if size >= GATHERED or exchange.version != 20:
        failed = count and upstream.push_parts(spans, count) == IO_ERROR
    else:
        for i in range(count):                        # frames may be many: one write at the end of the batch
            failed |= upstream.queue(spans[i].iov_base, spans[i].iov_len)
        upstream.poller.mark(upstream)
    if failed:
        upstream.broken(FAIL_RESET)
        return
    touch(exchange)
    exchange.request_complete = last
    exchange.wants_body = upstream.pending() < HIGH_WATER
    if last and not upstream.pending():
        upstream.shutdown_write()


cdef void raw_drained(Exchange exchange, Http1Upstream upstream) noexcept:
    if exchange.request_complete:
        upstream.shutdown_write()
    elif not exchange.wants_body:
        exchange.wants_body = True
        exchange.client.resume_request()


cdef void give_raw(Exchange exchange, Http1Upstream upstream, const char *data, size_t n) noexcept:
    cdef iovec part
    part.iov_base = <void *>data
    part.iov_len = n
    exchange.bytes_out += n
    touch(exchange)
    exchange.client.respond_body(&part, 1)
    if exchange.state != X_DONE and exchange.client.backlog() > HIGH_WATER:
        upstream.pause()


# Connections to endpoints that are one client's alone, by the client's connection: nearly always none.
cdef dict OWN = {}


cdef bint names_scheme(const Field *field) noexcept nogil:
    """Whether one of the list's elements begins with such a scheme. One within quotes does no harm."""
    cdef size_t i = 0, begun
    while i < field.value_length:
        while i < field.value_length and (field.value[i] == 32 or field.value[i] == 9 or field.value[i] == 44):
            i += 1
        begun = i
        while i < field.value_length and field.value[i] not in (32, 9, 44):
            i += 1
        if (same_name(field.value + begun, i - begun, b"ntlm")
                or same_name(field.value + begun, i - begun, b"negotiate")):
            return True
        while i < field.value_length and field.value[i] != 44:
            i += 1
    return False


cdef bint brings_proof(const Scan *scan) noexcept nogil:
    cdef const Field *field
    cdef int i
    for i in range(scan.field_count):
        field = &scan.fields[i]
        if field.name_length == 13 and same_name(field.name, 13, b"authorization") and names_scheme(field):
            return True
    return False


cdef bint asks_for_proof(const Scan *scan) noexcept nogil:
    cdef const Field *field
    cdef int i
    if scan.status != 401:
        return False
    for i in range(scan.field_count):
        field = &scan.fields[i]
        if field.name_length == 16 and same_name(field.name, 16, b"www-authenticate") and names_scheme(field):
            return True
    return False


cdef void keep_to_own(Exchange exchange) noexcept:
    cdef Pool pool = exchange.pool
    cdef Http1Upstream own = <Http1Upstream>OWN.get(exchange.client.origin())
    cdef int i
    if own is None:
        return
    for i in range(len(pool.channels)):
        if pool.channels[i] is own.pool:
            exchange.affinity.sticky = i
            return


cdef Http1Upstream take_own(Exchange exchange, Http1Pool channel, bint fresh):
    cdef Http1Upstream own = <Http1Upstream>OWN.pop(exchange.client.origin(), None)
    if own is None or own.fd < 0:
        return None
    if (own.pool is not channel or channel.closed or fresh or own.hangup
            or (own.tls is None and not own.silent())):
        own.pool.drop(own)
        return None
    return own


cdef void give_own(Exchange exchange, Http1Upstream upstream) noexcept:
    cdef Client client = exchange.client.origin()
    cdef Http1Pool channel = upstream.pool
    if (not client.may_follow() or channel.closed or upstream.fd < 0 or upstream.pending() or upstream.hangup
            or upstream.unread or upstream.deaf):
        channel.drop(upstream)
        return
    drop_own(client)
    upstream.rest()
    OWN[client] = upstream
    if channel.idle_timeout:
        channel.poller.arm(upstream, channel.poller.now + channel.idle_timeout)


cdef void drop_own(Client client) noexcept:
    cdef Http1Upstream own = <Http1Upstream>OWN.pop(client, None) if OWN else None
    if own is not None:
        own.pool.drop(own)
