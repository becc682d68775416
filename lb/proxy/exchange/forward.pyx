"""An exchange with a pool that speaks HTTP/1.1.

The request is serialised once, into one buffer, and sent from there; while it fits the listener's `retry_buffer` it is
kept until the answer begins, so that another endpoint can be tried. Longer bodies stream through without being kept.
"""

import base64
import hashlib
import os

from cpython.object cimport PyTypeObject
from libc.stdint cimport UINT64_MAX, uint64_t
from libc.string cimport memset
from lb.net.buffer cimport tg_buffer, tg_buffer_append, tg_buffer_free, tg_buffer_head, tg_buffer_size
from lb.http.chunks cimport GATHERED, append_chunk
from lb.http.head cimport (
    H_CONNECTION, H_EXPECT, H_HOST, H_TE, H_UPGRADE, Field, Scan, has_token, mark_hop_by_hop, plainly_chunked,
    same_name,
)
from lb.http.head_text cimport append_chunk_size, append_fields, append_text, append_trailers
from lb.http.methods cimport method_text
from lb.net.reuse cimport tg_reuse
from lb.shared.segment cimport TG_S_CONNECT_ERRORS, TG_S_RESPONSE_ERRORS, tg_add
from lb.net.splice cimport PASS_LOST, PASS_NOT, pass_through
from lb.net.stream cimport IO_ERROR, iovec
from lb.proxy.routing.headers.client_certificate cimport append_client_certificate
from lb.proxy.routing.cors cimport drop_cors
from lb.proxy.exchange.exchange cimport X_ANSWERING, X_DONE, X_NEW, X_PICKED, X_WAITING, Exchange, learn_session
from lb.proxy.routing.headers.fields cimport OMIT_CERTIFICATE, replace_host
from lb.proxy.routing.headers.forwarded cimport tg_hop
from lb.proxy.client.http1_answer cimport AnsweringConnection
from lb.proxy.exchange.retry cimport RETRY_5XX, RETRY_CONNECT, RETRY_RESET, is_good, is_retryable
from lb.proxy.exchange.attempts cimport Hedge, TryingExchange
from lb.upstream.failure cimport FAIL_CONNECT, FAIL_PROTOCOL, FAIL_REFUSED, FAIL_RESET
from lb.upstream.connections.http1 cimport Http1Pool, Http1Upstream
from lb.upstream.pool cimport Pool


cdef enum:
    # llhttp's numbers of the methods that may be repeated (RFC 9110 section 9.2.2).
    M_DELETE = 0
    M_GET = 1
    M_HEAD = 2
    M_PUT = 4
    M_OPTIONS = 6
    M_TRACE = 7


cdef class Http1Hedge(Hedge):

    cdef void on_connecting(self, Http1Upstream upstream) noexcept:
        self.upstream = upstream

    cdef void on_connected(self, Http1Upstream upstream) noexcept:
        self.upstream = upstream
        (<ForwardExchange>self.exchange).send_hedge(self)

    cdef void on_answer(self, Http1Upstream upstream, Scan *scan) noexcept:
        cdef TryingExchange exchange = self.exchange
        if not scan.head:
            return
        if scan.status == 101:
            upstream.broken(FAIL_PROTOCOL)            # no upgrade was asked for
        elif scan.status >= 200 and exchange.hedge_answer(self, is_good(scan.status), scan.status, -1):
            exchange.on_answer(upstream, scan)

    cdef void on_broken(self, Http1Upstream upstream, int kind) noexcept:
        self.upstream = None
        self.exchange.hedge_failed(self, kind)


cdef class ForwardExchange(TryingExchange):

    def __dealloc__(self):
        tg_buffer_free(&self.request)
        tg_buffer_free(&self.trailers)

    # The request, on its way in.

    cdef void begin(self, Scan *scan) noexcept:
        self.key = self.find_key(scan)
        self.alone = brings_proof(scan)
        keep_to_own(self)
        if self.pool.costs is not None and scan.has_length:
            self.kibibytes = <float>(<double>scan.content_length / 1024)
        self.kept = True
        self.chunked = scan.chunked
        self.idempotent = self.method in (M_GET, M_HEAD, M_PUT, M_DELETE, M_OPTIONS, M_TRACE) or self.route.idempotent
        if build_head(self, scan) < 0:
            self.fail(503, b"no-memory", "out of memory")
            return
        # A request that is here whole goes out with its body in one write, from request_body.
        if scan.websocket:
            self.request_complete = True      # the head is all of it; what follows is for `switch`
        if not scan.complete:
            self.start_try(False)

    cdef void take_trailers(self, Scan *scan) noexcept:
        if self.chunked and append_trailers(&self.trailers, scan) < 0:
            self.fail(503, b"no-memory", "out of memory")

    cdef int append_end(self, tg_buffer *out) noexcept:
        """The last chunk and the trailers (RFC 9112 section 7.1.2)."""
        if append_text(out, b"0\r\n") < 0:
            return -1
        if tg_buffer_append(out, tg_buffer_head(&self.trailers), tg_buffer_size(&self.trailers)) < 0:
            return -1
        return append_text(out, b"\r\n")

    cdef void take_body(self, const iovec *spans, int count, size_t size, bint last) noexcept:
        if self.upgraded:
            take_raw(self, spans, count, size, last)
        else:
            Exchange.take_body(self, spans, count, size, last)

    cdef void request_body(self, const iovec *spans, int count, size_t size, bint last) noexcept:
        if self.state >= X_ANSWERING and self.upstream is None:
            return
        if self.upstream is not None and not self.upstream.connecting:
            if tg_buffer_size(&self.request) + size > self.listener.retry_buffer:
                self.kept = False
        if self.kept:
            if self.keep_body(spans, count, size) < 0 or (last and self.chunked and self.append_end(&self.request) < 0):
                self.fail(503, b"no-memory", "out of memory")
                return
        else:
            self.spill(spans, count, size, last)
            if self.state == X_DONE:
                return
        if last:
            self.request_complete = True
        if self.upstream is None:
            if self.state == X_NEW:
                self.start_try(False)
        elif not self.upstream.connecting:
            if last or not self.kept or not self.gathers():
                self.send_request()
            elif size:
                self.upstream.poller.mark(self.upstream)      # on_batch_end sends it
        elif last and self.route.hedge is not None:
            self.watch()
        if self.state < X_DONE and not self.request_complete:
            if self.upstream is None or self.upstream.connecting:
                # Not connected: what was read stays, but no more than that.
                self.wants_body = tg_buffer_size(&self.request) < <size_t>self.listener.retry_buffer
            else:
                self.wants_body = self.upstream.pending() < HIGH_WATER
                if not self.wants_body:
                    self.arm_wait()               # nobody else watches an endpoint that takes no more of it
        if self.request_complete and self.route.mirror is not None and not self.upgrading:
            self.route.mirror.offer(self.client.poller, &self.request, self.kept, self.key, self.head_method)

    cdef Py_ssize_t pass_body(self, size_t size) noexcept:
        return pass_request(self, size)

    cdef bint gathers(self) noexcept:
        return self.chunked or self.version == 20     # else a piece is what one read gave

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
        cdef Http1Upstream upstream = self.upstream
        self.send_request()
        if self.state == X_DONE or self.upstream is not upstream or upstream.deaf:
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

    cdef int price(self, uint64_t now) noexcept:
        cdef uint64_t size = max(<uint64_t>(self.kibibytes * 1024), self.bytes_in)
        return self.pool.costs.price(self.pool.costs.units_of_bytes(size), 0, now)

    cdef void start_try(self, bint fresh) noexcept:
        self.fresh = fresh
        self.pick()

    cdef void launch(self) noexcept:
        cdef Http1Upstream own
        if self.client.put_off():
            return
        own = take_own(self, <Http1Pool>self.pool.channels[self.endpoint])
        self.sent = 0
        if own is not None:
            self.alone = True
            own.call = self
            own.asked = 0
            own.poller.disarm(own)
            self.on_connected(own)
            return
        # What streams may soon not be kept any more.
        if (<Http1Pool>self.pool.channels[self.endpoint]).take(self, self.fresh, not self.request_complete):
            return
        self.try_failed(FAIL_CONNECT)
        if not self.may_retry(FAIL_CONNECT):
            self.fail(502, b"connect", "could not connect to the endpoint")
            return
        self.next_try()

    cdef void try_failed(self, int kind) noexcept:
        cdef uint64_t *words = self.pool.series[self.endpoint]
        tg_add(&words[TG_S_CONNECT_ERRORS if kind == FAIL_CONNECT else TG_S_RESPONSE_ERRORS], 1)
        self.status = 502
        self.let_go(False)

    cdef void on_connecting(self, Http1Upstream upstream) noexcept:
        self.upstream = upstream
        if self.route.hedge is not None and self.request_complete:
            self.watch()                      # a connect may hang as well as an answer

    cdef void on_connected(self, Http1Upstream upstream) noexcept:
        self.upstream = upstream
        if self.recorded():
            self.connected_at = self.client.poller.now
        upstream.parser.headless = self.head_method
        self.send_request()
        if not self.request_complete and self.state < X_ANSWERING:
            self.wants_body = True
            self.client.resume_request()

    cdef void send_request(self) noexcept:
        cdef iovec part
        cdef Http1Upstream upstream = self.upstream
        part.iov_len = self.request.end - self.request.start - self.sent
        if part.iov_len and not upstream.deaf:
            part.iov_base = self.request.data + self.request.start + self.sent
            self.sent += part.iov_len
            if upstream.ask(&part) == IO_ERROR:
                upstream.write_failed()
        if self.request_complete and self.state == X_PICKED:
            self.move(X_WAITING)
            self.arm_wait()
            if self.route.hedge is not None:
                self.watch()

    cdef void on_batch_end(self, Http1Upstream upstream) noexcept:
        if self.kept:
            self.send_request()

    cdef void on_drained(self, Http1Upstream upstream) noexcept:
        if self.upgraded:
            raw_drained(self, upstream)
            return
        if not self.request_complete and not self.wants_body:
            self.wants_body = True
            if self.state < X_ANSWERING:
                self.client.poller.arm(self, self.expires)
            self.client.resume_request()

    # The answer.

    cdef void on_answer(self, Http1Upstream upstream, Scan *scan) noexcept:
        cdef int status
        cdef tg_buffer extra
        if scan.head:
            status = scan.status
            if status < 200:
                if status == 101 and self.upgrading and is_granted(self, scan):
                    switch_protocols(self, upstream, scan)
                elif status == 101:
                    upstream.broken(FAIL_PROTOCOL)   # no upgrade, or another, was asked for
                elif status != 100 and not self.http10:
                    mark_hop_by_hop(scan)
                    self.client.respond(scan, NULL, False)
                return                               # 100: we sent it ourselves
            if self.upgrading and self.version == 20 and status < 300:
                # The stream's CONNECT would be granted by it, and what follows taken for frames (RFC 8441 section 5).
                upstream.broken(FAIL_PROTOCOL)
                return
            if not plainly_chunked(scan):
                upstream.broken(FAIL_PROTOCOL)       # a coding that nobody asked for, and that we would not undo
                return
            if self.pool.policy.reads_reports:
                self.find_report(scan.fields, scan.field_count)
            if is_retryable(status) and self.try_again(RETRY_5XX, status):
                return
            if self.route.hedge is not None:
                self.own_answer()
            if self.pool.sessions is not None:
                learn_session(self, status, scan.fields, scan.field_count)
            if self.route.cors is not None:
                drop_cors(scan)
            if self.route.response_fields is not None and self.route.response_fields.apply(scan) < 0:
                upstream.broken(FAIL_PROTOCOL)       # it has no room left for ours
                return
            if asks_for_proof(scan):
                self.alone = True
            self.status = status
            self.first_byte_at = self.client.poller.now
            self.move(X_ANSWERING)
            # Both bodies may go on at once (RFC 9110 section 7.5), unless the endpoint shows that it wants no more.
            if not self.request_complete and (scan.complete or status >= 300 or not upstream.parser.keep_alive()):
                self.client.answered_early()
            mark_hop_by_hop(scan)
            memset(&extra, 0, sizeof(extra))
            self.append_endpoint(&extra)
            self.client.respond(scan, &extra, scan.complete and not scan.span_count and not scan.trailer_count)
            tg_buffer_free(&extra)
            if self.state == X_DONE:
                return
        if scan.span_count:
            self.bytes_out += scan.body_bytes
            self.client.respond_body(scan.spans, scan.span_count)
            if self.state == X_DONE:
                return
        if scan.complete:
            if scan.trailer_count:
                if self.pool.policy.reads_reports:
                    self.find_report(scan.trailers, scan.trailer_count)
                self.client.respond_trailers(scan)
            self.upstream = None
            if self.request_complete and self.alone and upstream.parser.keep_alive():
                give_own(self, upstream)
            elif self.request_complete and upstream.parser.keep_alive():
                (<Http1Pool>self.pool.channels[self.last_endpoint]).give(upstream)
            else:
                upstream.pool.drop(upstream)
            self.end()
            return
        if self.client.backlog() > HIGH_WATER:
            upstream.pause()
        self.arm_wait()

    cdef Py_ssize_t pass_answer(self, Http1Upstream upstream, size_t size) noexcept:
        return pass_response(self, upstream, size)

    # Behind an upgrade (lb.proxy.exchange.forward).

    cdef void on_raw(self, Http1Upstream upstream, const char *data, size_t n) noexcept:
        give_raw(self, upstream, data, n)

    cdef void on_raw_end(self, Http1Upstream upstream) noexcept:
        self.upstream = None
        upstream.pool.drop(upstream)
        self.end()

    cdef void on_timer(self) noexcept:
        cdef Http1Upstream upstream = self.upstream
        if not self.upgraded:
            TryingExchange.on_timer(self)
        elif upstream is not None:
            self.reason = b"idle"
            self.on_raw_end(upstream)

    cdef void client_gone(self) noexcept:
        if not self.upgraded:
            Exchange.client_gone(self)
        elif self.state != X_DONE:
            self.cancel_upstream()
            self.let_go(True)
            self.record()

    cdef void client_drained(self) noexcept:
        if self.upstream is not None:
            self.upstream.resume()

    cdef void on_broken(self, Http1Upstream upstream, int kind) noexcept:
        self.upstream = None
        if self.state == X_ANSWERING:
            tg_add(&self.pool.series[self.last_endpoint][TG_S_RESPONSE_ERRORS], 1)
            self.fail(502, b"upstream-reset", "")
            return
        self.try_failed(kind)
        if self.hedge_takes_over():
            return
        if self.may_retry(kind):
            self.fresh = True
            self.next_try()
            return
        if kind == FAIL_CONNECT:
            self.fail(502, b"connect", "could not connect to the endpoint")
        elif kind == FAIL_PROTOCOL:
            self.fail(502, b"upstream-protocol", "the endpoint's answer is not valid HTTP")
        else:
            self.fail(502, b"upstream-reset", "the endpoint closed the connection without a complete answer")

    cdef bint may_retry(self, int kind) noexcept:
        """Safe when nothing has arrived; or when no answer has begun, and repeating does no harm."""
        if not self.kept or not (kind == FAIL_CONNECT or kind == FAIL_REFUSED
                                 or (kind == FAIL_RESET and self.idempotent)):
            return False
        return self.retry_granted(RETRY_CONNECT if kind == FAIL_CONNECT else RETRY_RESET, -1)

    cdef bint repeatable(self) noexcept:
        return self.kept and self.request_complete and self.idempotent and not self.upgrading and not self.alone

    cdef Hedge new_hedge(self):
        return Http1Hedge.__new__(Http1Hedge)

    cdef bint launch_hedge(self, Hedge hedge) noexcept:
        return (<Http1Pool>hedge.pool.channels[hedge.endpoint]).take(hedge, False)

    cdef void send_hedge(self, Hedge hedge) noexcept:
        cdef iovec part
        part.iov_base = self.request.data + self.request.start
        part.iov_len = tg_buffer_size(&self.request)
        hedge.upstream.parser.headless = self.head_method
        if hedge.upstream.ask(&part) == IO_ERROR:
            hedge.upstream.broken(FAIL_RESET)

    cdef void cancel_hedge(self, Hedge hedge) noexcept:
        cdef Http1Upstream upstream = hedge.upstream
        if upstream is not None:
            hedge.upstream = None
            upstream.reset_on_close()
            upstream.pool.drop(upstream)

    cdef void adopt(self, Hedge hedge) noexcept:
        self.upstream = hedge.upstream
        hedge.upstream = None
        self.upstream.call = self
        self.sent = 0 if self.upstream.connecting else tg_buffer_size(&self.request)

    cdef void cancel_upstream(self) noexcept:
        cdef Http1Upstream upstream = self.upstream
        if upstream is not None:
            self.upstream = None
            # In the middle of an exchange: the endpoint is to know at once, and the port is free again. Clients that
            # give up quickly would else have every port wait out a close.
            upstream.reset_on_close()
            upstream.pool.drop(upstream)


tg_reuse(<PyTypeObject *>ForwardExchange)


cdef int build_head(ForwardExchange exchange, Scan *scan) noexcept:
    cdef size_t n
    cdef const char *method = method_text(scan, exchange.method, &n)
    cdef uint64_t skip = <uint64_t>1 << H_EXPECT
    cdef tg_hop hop
    cdef bytes name
    tg_buffer_append(&exchange.request, method, n)
    tg_buffer_append(&exchange.request, b" ", 1)
    tg_buffer_append(&exchange.request, scan.target, scan.target_length)
    append_text(&exchange.request, b" HTTP/1.1\r\n")
    mark_hop_by_hop(scan)
    hop.omit = 0 if exchange.route.request_fields is None else exchange.route.request_fields.omit
    if not hop.omit & OMIT_CERTIFICATE and append_client_certificate(&exchange.request, exchange.client, scan) < 0:
        return -1
    exchange.upgrading = upgrade_wanted(scan) and exchange.listener.may_upgrade(scan)
    if scan.first[H_HOST] < 0 and exchange.route.new_host is None:
        # HTTP/1.0 may come without; HTTP/1.1 may not go without.
        name = exchange.pool.name.encode()
        append_text(&exchange.request, b"Host: ")
        tg_buffer_append(&exchange.request, <const char *>name, <size_t>len(name))
        append_text(&exchange.request, b"\r\n")
    hop.text = &exchange.request
    if exchange.listener.hop.collect(scan, exchange.ids, exchange.client.ip, exchange.client.ip_length,
                                     exchange.client.scheme(), scan.version, &hop) < 0:
        return -1
    if exchange.route.new_host is not None and replace_host(scan, exchange.route.new_host) < 0:
        return -1                         # after X-Forwarded-Host, which says what the client asked for
    if append_fields(&exchange.request, scan, skip) < 0:
        return -1
    if exchange.chunked:
        append_text(&exchange.request, b"Transfer-Encoding: chunked\r\n")
    if exchange.upgrading:
        return append_upgrade(exchange, scan)
    if scan.first[H_TE] >= 0 and has_token(&scan.fields[scan.first[H_TE]], b"trailers"):
        append_text(&exchange.request, b"TE: trailers\r\nConnection: TE\r\n")
    return tg_buffer_append(&exchange.request, b"\r\n", 2)


cdef int append_upgrade(ForwardExchange exchange, Scan *scan) noexcept:
    """The end of a head that asks for an upgrade, and may be asked to by a stream (RFC 8441 section 5)."""
    cdef Field *field
    cdef bytes key
    if scan.websocket:
        key = b"Sec-WebSocket-Key: " + base64.b64encode(os.urandom(16)) + b"\r\n"
        tg_buffer_append(&exchange.request, <const char *>key, <size_t>len(key))
        return append_text(&exchange.request, b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
    field = &scan.fields[scan.first[H_UPGRADE]]
    append_text(&exchange.request, b"Upgrade: ")
    tg_buffer_append(&exchange.request, field.value, field.value_length)
    return append_text(&exchange.request, b"\r\nConnection: Upgrade\r\n\r\n")


cdef bint upgrade_wanted(Scan *scan) noexcept:
    """Whether the request asks for another protocol (RFC 9110 section 7.8); one with a body does not get it."""
    if scan.websocket:
        return True
    return (scan.version == 11 and scan.first[H_UPGRADE] >= 0 and scan.first[H_CONNECTION] >= 0
            and not scan.chunked and scan.content_length == 0
            and has_token(&scan.fields[scan.first[H_CONNECTION]], b"upgrade"))


cdef Py_ssize_t pass_request(ForwardExchange exchange, size_t size) noexcept:
    cdef Http1Upstream upstream = exchange.upstream
    cdef Py_ssize_t n
    if exchange.kept or exchange.chunked or exchange.state != X_PICKED or tg_buffer_size(&exchange.request):
        return PASS_NOT
    if upstream is None or upstream.connecting or upstream.tls is not None or upstream.pending() or upstream.deaf:
        return PASS_NOT
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


cdef Py_ssize_t pass_response(ForwardExchange exchange, Http1Upstream upstream, size_t size) noexcept:
    cdef AnsweringConnection client
    cdef Py_ssize_t n
    if exchange.state != X_ANSWERING or exchange.upgraded or not isinstance(exchange.client, AnsweringConnection):
        return PASS_NOT
    client = <AnsweringConnection>exchange.client
    if client.fd < 0 or client.chunking or client.tls is not None or client.pending():
        return PASS_NOT
    n = pass_through(upstream, client, size)
    if n == PASS_LOST:
        client.close_now()                    # which tells the exchange
    elif n > 0:
        exchange.bytes_out += <uint64_t>n
        client.send_deadline = 0
        client.poller.mark(client)
        if client.backlog() > HIGH_WATER:
            upstream.pause()
        exchange.arm_wait()
    return n


cdef bytes WEBSOCKET_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


cdef bint is_granted(ForwardExchange exchange, const Scan *scan) noexcept:
    cdef bytes head = tg_buffer_head(&exchange.request)[:tg_buffer_size(&exchange.request)]
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


cdef void switch_protocols(ForwardExchange exchange, Http1Upstream upstream, Scan *scan) noexcept:
    exchange.status = 101
    if exchange.pool.sessions is not None:
        learn_session(exchange, 101, scan.fields, scan.field_count)
    exchange.first_byte_at = exchange.client.poller.now
    exchange.move(X_ANSWERING)
    exchange.upgraded = True
    exchange.request_complete = False
    exchange.wants_body = True
    exchange.kept = False
    upstream.raw = True
    mark_hop_by_hop(scan)
    exchange.client.respond_upgrade(scan)
    touch(exchange)


cdef void touch(ForwardExchange exchange) noexcept:
    cdef uint64_t timeout = exchange.listener.upgrade_idle_timeout
    exchange.client.poller.arm(exchange, exchange.client.poller.now + timeout if timeout else UINT64_MAX)


cdef void take_raw(ForwardExchange exchange, const iovec *spans, int count, size_t size, bint last) noexcept:
    cdef Http1Upstream upstream = exchange.upstream
    cdef int i, failed = 0
    if upstream is None or exchange.request_complete:
        return
    exchange.bytes_in += size
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


cdef void raw_drained(ForwardExchange exchange, Http1Upstream upstream) noexcept:
    if exchange.request_complete:
        upstream.shutdown_write()
    elif not exchange.wants_body:
        exchange.wants_body = True
        exchange.client.resume_request()


cdef void give_raw(ForwardExchange exchange, Http1Upstream upstream, const char *data, size_t n) noexcept:
    cdef iovec part
    part.iov_base = <void *>data
    part.iov_len = n
    exchange.bytes_out += n
    touch(exchange)
    exchange.client.respond_body(&part, 1)
    if exchange.state != X_DONE and exchange.client.backlog() > HIGH_WATER:
        upstream.pause()


cdef int owned = 0                    # connections of this worker that are a client's own: nearly always none


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


cdef AnsweringConnection client_of(ForwardExchange exchange):
    return <AnsweringConnection>exchange.client if isinstance(exchange.client, AnsweringConnection) else None


cdef void keep_to_own(ForwardExchange exchange) noexcept:
    cdef AnsweringConnection client
    cdef Pool pool = exchange.pool
    cdef int i
    if owned == 0:
        return
    client = client_of(exchange)
    if client is None or client.own is None:
        return
    for i in range(len(pool.channels)):
        if pool.channels[i] is client.own.pool:
            exchange.kept_to = i
            return


cdef Http1Upstream take_own(ForwardExchange exchange, Http1Pool channel):
    global owned
    cdef AnsweringConnection client
    cdef Http1Upstream own
    if owned == 0:
        return None
    client = client_of(exchange)
    if client is None or client.own is None:
        return None
    own = client.own
    client.own = None
    owned -= 1
    if own.fd < 0:
        return None
    if (own.pool is not channel or channel.closed or exchange.fresh or own.hangup
            or (own.tls is None and not own.silent())):
        own.pool.drop(own)
        return None
    return own


cdef void give_own(ForwardExchange exchange, Http1Upstream upstream) noexcept:
    global owned
    cdef AnsweringConnection client = client_of(exchange)
    cdef Http1Pool channel = upstream.pool
    if (client is None or client.fd < 0 or not client.keep or channel.closed or upstream.fd < 0 or upstream.pending()
            or upstream.hangup or upstream.unread or upstream.deaf):
        channel.drop(upstream)
        return
    drop_own(client)
    upstream.call = None
    upstream.used = True
    upstream.paused = False
    client.own = upstream
    owned += 1
    if channel.idle_timeout:
        channel.poller.arm(upstream, channel.poller.now + channel.idle_timeout)


cdef void drop_own(AnsweringConnection client) noexcept:
    global owned
    cdef Http1Upstream own = client.own
    if own is not None:
        client.own = None
        owned -= 1
        own.pool.drop(own)
