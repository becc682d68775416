"""An exchange with a pool that speaks HTTP/1.1.

The request is serialised once, into one buffer, and sent from there; while it fits the listener's `retry_buffer` it is
kept until the answer begins, so that another endpoint can be tried. Longer bodies stream through without being kept.
"""

import base64
import os

from libc.stdint cimport UINT64_MAX, uint64_t
from libc.string cimport memset
from lb.core.buffer cimport (
    tg_buffer, tg_buffer_append, tg_buffer_free, tg_buffer_head, tg_buffer_size,
)
from lb.core.head cimport (
    H_CONNECTION, H_EXPECT, H_HOST, H_TE, H_UPGRADE, Field, Scan, has_token, mark_hop_by_hop, plainly_chunked,
)
from lb.core.head_text cimport append_chunk_size, append_fields, append_text, append_trailers
from lb.core.methods cimport method_text
from lb.core.segment cimport TG_S_CONNECT_ERRORS, TG_S_RESPONSE_ERRORS, tg_add
from lb.core.stream cimport IO_ERROR, iovec
from lb.proxy.client_certificate cimport append_client_certificate
from lb.proxy.cors cimport drop_cors
from lb.proxy.exchange cimport X_ANSWERING, X_DONE, X_NEW, X_PICKED, X_WAITING, Exchange
from lb.proxy.fields cimport replace_host
from lb.proxy.forwarded cimport tg_hop
from lb.proxy.retry cimport RETRY_5XX, RETRY_CONNECT, RETRY_RESET, is_good, is_retryable
from lb.proxy.session cimport learn_session
from lb.proxy.tries cimport Hedge, TryingExchange
from lb.upstream.failure cimport FAIL_CONNECT, FAIL_PROTOCOL, FAIL_RESET
from lb.upstream.http1 cimport Http1Pool, Http1Upstream

cdef enum:
    HIGH_WATER = 64 * 1024            # bytes waiting on one side before the other is no longer read
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
        elif scan.status >= 200 and exchange.hedge_answer(self, is_good(scan.status), scan.status):
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
        if self.pool.costs is not None and scan.has_length:
            self.kibibytes = <float>(<double>scan.content_length / 1024)
        self.kept = True
        self.chunked = scan.chunked
        self.idempotent = self.method in (M_GET, M_HEAD, M_PUT, M_DELETE, M_OPTIONS, M_TRACE) or self.route.idempotent
        if self.build_head(scan) < 0:
            self.fail(503, b"no-memory", "out of memory")
            return
        # A request that is here whole goes out with its body in one write, from request_body.
        if scan.websocket:
            self.request_complete = True      # the head is all of it; what follows is for `switch`
        if not scan.complete:
            self.start_try(False)

    cdef int build_head(self, Scan *scan) noexcept:
        cdef size_t n
        cdef const char *method = method_text(scan, self.method, &n)
        cdef uint64_t skip = <uint64_t>1 << H_EXPECT
        cdef tg_hop hop
        cdef bytes name
        tg_buffer_append(&self.request, method, n)
        tg_buffer_append(&self.request, b" ", 1)
        tg_buffer_append(&self.request, scan.target, scan.target_length)
        append_text(&self.request, b" HTTP/1.1\r\n")
        mark_hop_by_hop(scan)
        if append_client_certificate(&self.request, self.client, scan) < 0:
            return -1
        self.upgrading = upgrade_wanted(scan) and self.listener.may_upgrade(scan)
        if scan.first[H_HOST] < 0 and self.route.new_host is None:
            # HTTP/1.0 may come without; HTTP/1.1 may not go without.
            name = self.pool.name.encode()
            append_text(&self.request, b"Host: ")
            tg_buffer_append(&self.request, <const char *>name, <size_t>len(name))
            append_text(&self.request, b"\r\n")
        hop.text = &self.request
        if self.listener.hop.collect(scan, self.ids, self.client.ip, self.client.ip_length, self.client.scheme(),
                                     scan.version, &hop) < 0:
            return -1
        if self.route.new_host is not None and replace_host(scan, self.route.new_host) < 0:
            return -1                         # after X-Forwarded-Host, which says what the client asked for
        if append_fields(&self.request, scan, skip) < 0:
            return -1
        if self.chunked:
            append_text(&self.request, b"Transfer-Encoding: chunked\r\n")
        if self.upgrading:
            return self.append_upgrade(scan)
        if scan.first[H_TE] >= 0 and has_token(&scan.fields[scan.first[H_TE]], b"trailers"):
            append_text(&self.request, b"TE: trailers\r\nConnection: TE\r\n")
        return tg_buffer_append(&self.request, b"\r\n", 2)

    cdef int append_upgrade(self, Scan *scan) noexcept:
        """The end of a head that asks for an upgrade, and may be asked to by a stream (RFC 8441 section 5)."""
        cdef Field *field
        cdef bytes key
        if scan.websocket:
            key = b"Sec-WebSocket-Key: " + base64.b64encode(os.urandom(16)) + b"\r\n"
            tg_buffer_append(&self.request, <const char *>key, <size_t>len(key))
            return append_text(&self.request, b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
        field = &scan.fields[scan.first[H_UPGRADE]]
        append_text(&self.request, b"Upgrade: ")
        tg_buffer_append(&self.request, field.value, field.value_length)
        return append_text(&self.request, b"\r\nConnection: Upgrade\r\n\r\n")

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
        cdef Http1Upstream upstream = self.upstream
        if not self.upgraded:
            Exchange.take_body(self, spans, count, size, last)
            return
        if upstream is None or self.request_complete:
            return
        self.bytes_in += size
        if count and upstream.push_parts(spans, count) == IO_ERROR:
            upstream.broken(FAIL_RESET)
            return
        self.touch()
        self.request_complete = last
        self.wants_body = upstream.pending() < HIGH_WATER
        if last and not upstream.pending():
            upstream.shutdown_write()

    cdef void request_body(self, const iovec *spans, int count, size_t size, bint last) noexcept:
        cdef int i
        if self.state >= X_ANSWERING and self.upstream is None:
            return
        if self.upstream is not None and not self.upstream.connecting:
            if tg_buffer_size(&self.request) + size > self.listener.retry_buffer:
                self.kept = False
        if self.kept:
            for i in range(count):
                if spans[i].iov_len == 0:
                    continue                      # as a chunk it would be the last
                if self.chunked:
                    append_chunk_size(&self.request, spans[i].iov_len)
                if tg_buffer_append(&self.request, spans[i].iov_base, spans[i].iov_len) < 0:
                    self.fail(503, b"no-memory", "out of memory")
                    return
                if self.chunked:
                    append_text(&self.request, b"\r\n")
            if last and self.chunked and self.append_end(&self.request) < 0:
                self.fail(503, b"no-memory", "out of memory")
                return
        else:
            self.spill(spans, count, last)
            if self.state == X_DONE:
                return
        if last:
            self.request_complete = True
        if self.upstream is None:
            if self.state == X_NEW:
                self.start_try(False)
        elif not self.upstream.connecting:
            self.send_request()
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

    cdef void spill(self, const iovec *spans, int count, bint last) noexcept:
        """Body bytes that are not kept: straight to the endpoint, behind what is left of `request`."""
        cdef int i, failed = 0
        cdef Http1Upstream upstream = self.upstream
        self.send_request()
        if self.state == X_DONE or self.upstream is not upstream:
            return
        tg_buffer_free(&self.request)
        self.sent = 0
        for i in range(count):
            if spans[i].iov_len == 0:
                continue
            if self.chunked:
                failed |= append_chunk_size(&upstream.out, spans[i].iov_len)
            if failed or upstream.push_parts(&spans[i], 1) == IO_ERROR:
                upstream.broken(FAIL_RESET)
                return
            if self.chunked:
                failed |= append_text(&upstream.out, b"\r\n")
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
        self.sent = 0
        if (<Http1Pool>self.pool.channels[self.endpoint]).take(self, self.fresh):
            return
        self.try_failed(FAIL_CONNECT)
        if not self.may_retry(FAIL_CONNECT, False):
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
        if part.iov_len:
            part.iov_base = self.request.data + self.request.start + self.sent
            self.sent += part.iov_len
            if upstream.push_parts(&part, 1) == IO_ERROR:
                upstream.broken(FAIL_RESET)
                return
        if self.request_complete and self.state == X_PICKED:
            self.move(X_WAITING)
            self.arm_wait()
            if self.route.hedge is not None:
                self.watch()

    cdef void on_drained(self, Http1Upstream upstream) noexcept:
        if self.upgraded:
            if self.request_complete:
                upstream.shutdown_write()
            elif not self.wants_body:
                self.wants_body = True
                self.client.resume_request()
            return
        if not self.request_complete and not self.wants_body and self.state < X_ANSWERING:
            self.wants_body = True
            self.client.poller.arm(self, self.expires)
            self.client.resume_request()

    # The answer.

    cdef void on_answer(self, Http1Upstream upstream, Scan *scan) noexcept:
        cdef int status
        cdef tg_buffer extra
        if scan.head:
            status = scan.status
            if status < 200:
                if status == 101 and self.upgrading:
                    self.switch(upstream, scan)
                elif status == 101:
                    upstream.broken(FAIL_PROTOCOL)   # no upgrade was asked for
                elif status != 100 and not self.http10:
                    mark_hop_by_hop(scan)
                    self.client.respond(scan, NULL, False)
                return                               # 100: we sent it ourselves
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
            self.status = status
            self.first_byte_at = self.client.poller.now
            self.move(X_ANSWERING)
            if not self.request_complete:
                self.client.answered_early()
                self.wants_body = False
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
            if self.request_complete and upstream.parser.keep_alive():
                (<Http1Pool>self.pool.channels[self.last_endpoint]).give(upstream)
            else:
                upstream.pool.drop(upstream)
            self.end()
            return
        if self.client.backlog() > HIGH_WATER:
            upstream.pause()
        self.arm_wait()

    # Behind an upgrade: bytes both ways, until one side has no more.

    cdef void switch(self, Http1Upstream upstream, Scan *scan) noexcept:
        self.status = 101
        if self.pool.sessions is not None:
            learn_session(self, 101, scan.fields, scan.field_count)
        self.first_byte_at = self.client.poller.now
        self.move(X_ANSWERING)
        self.upgraded = True
        self.request_complete = False
        self.wants_body = True
        self.kept = False
        upstream.raw = True
        mark_hop_by_hop(scan)
        self.client.respond_upgrade(scan)
        self.touch()

    cdef void touch(self) noexcept:
        cdef uint64_t timeout = self.listener.upgrade_idle_timeout
        self.client.poller.arm(self, self.client.poller.now + timeout if timeout else UINT64_MAX)

    cdef void on_raw(self, Http1Upstream upstream, const char *data, size_t n) noexcept:
        cdef iovec part
        part.iov_base = <void *>data
        part.iov_len = n
        self.bytes_out += n
        self.touch()
        self.client.respond_body(&part, 1)
        if self.state != X_DONE and self.client.backlog() > HIGH_WATER:
            upstream.pause()

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
        cdef bint answered = upstream.answered
        self.upstream = None
        if self.state == X_ANSWERING:
            self.fail(502, b"upstream-reset", "")
            return
        self.try_failed(kind)
        if self.hedge_takes_over():
            return
        if self.may_retry(kind, answered):
            self.fresh = True
            self.next_try()
            return
        if kind == FAIL_CONNECT:
            self.fail(502, b"connect", "could not connect to the endpoint")
        elif kind == FAIL_PROTOCOL:
            self.fail(502, b"upstream-protocol", "the endpoint's answer is not valid HTTP")
        else:
            self.fail(502, b"upstream-reset", "the endpoint closed the connection without a complete answer")

    cdef bint may_retry(self, int kind, bint answered) noexcept:
        """Safe when nothing was sent; or when nothing came back, all can be sent again, and repeating does no harm."""
        if self.tries_left <= 0 or not self.kept:
            return False
        if kind != FAIL_CONNECT and not (kind == FAIL_RESET and not answered and self.idempotent):
            return False
        return self.retry_granted(RETRY_CONNECT if kind == FAIL_CONNECT else RETRY_RESET, -1)

    cdef bint repeatable(self) noexcept:
        return self.kept and self.request_complete and self.idempotent and not self.upgrading

    cdef Hedge new_hedge(self):
        return Http1Hedge.__new__(Http1Hedge)

    cdef bint launch_hedge(self, Hedge hedge) noexcept:
        return (<Http1Pool>self.pool.channels[hedge.endpoint]).take(hedge, False)

    cdef void send_hedge(self, Hedge hedge) noexcept:
        cdef iovec part
        part.iov_base = self.request.data + self.request.start
        part.iov_len = tg_buffer_size(&self.request)
        hedge.upstream.parser.headless = self.head_method
        if hedge.upstream.push_parts(&part, 1) == IO_ERROR:
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


cdef bint upgrade_wanted(Scan *scan) noexcept:
    """Whether the request asks for another protocol (RFC 9110 section 7.8); one with a body does not get it."""
    if scan.websocket:
        return True
    return (scan.version == 11 and scan.first[H_UPGRADE] >= 0 and scan.first[H_CONNECTION] >= 0
            and not scan.chunked and scan.content_length == 0
            and has_token(&scan.fields[scan.first[H_CONNECTION]], b"upgrade"))
