"""An exchange with a pool that speaks HTTP/1.1.

The request is serialised once, into one buffer, and sent from there; while it fits the listener's `retry_buffer` it is
kept until the answer begins, so that another endpoint can be tried. Longer bodies stream through without being kept.
"""

from libc.stdint cimport uint64_t
from libc.string cimport memset, strlen
from lb.core.buffer cimport tg_buffer, tg_buffer_append, tg_buffer_free, tg_buffer_size
from lb.core.http1 cimport (
    H_EXPECT, H_HOST, H_X_FORWARDED_FOR, H_X_FORWARDED_HOST, H_X_FORWARDED_PROTO, Field, Parser, Scan,
    append_chunk_size, append_fields, append_text, mark_hop_by_hop, method_name, plainly_chunked,
)
from lb.core.poller cimport monotonic_ns
from lb.core.segment cimport TG_S_CONNECT_ERRORS, TG_S_RESPONSE_ERRORS, tg_add
from lb.core.stream cimport IO_ERROR, iovec
from lb.proxy.exchange cimport X_ANSWERING, X_DONE, X_NEW, X_PICKED, X_WAITING, Exchange
from lb.proxy.listener cimport FORWARDED_APPEND, FORWARDED_OFF, FORWARDED_PRESERVE
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


cdef class ForwardExchange(Exchange):

    def __dealloc__(self):
        tg_buffer_free(&self.request)

    # The request, on its way in.

    cdef void begin(self, Scan *scan, Parser parser) noexcept:
        self.key = self.find_key(scan)
        self.kept = True
        self.chunked = parser.chunked()
        self.idempotent = self.method in (M_GET, M_HEAD, M_PUT, M_DELETE, M_OPTIONS, M_TRACE)
        if self.build_head(scan, parser) < 0:
            self.fail(503, b"no-memory", "out of memory")
            return
        # A request that is here whole goes out with its body in one write, from request_body.
        if not scan.complete:
            self.start_try(False)

    cdef int build_head(self, Scan *scan, Parser parser) noexcept:
        cdef const char *method = method_name(self.method)
        cdef uint64_t skip = <uint64_t>1 << H_EXPECT
        cdef bytes name
        tg_buffer_append(&self.request, method, strlen(method))
        tg_buffer_append(&self.request, b" ", 1)
        tg_buffer_append(&self.request, scan.target, scan.target_length)
        append_text(&self.request, b" HTTP/1.1\r\n")
        mark_hop_by_hop(scan)
        if scan.first[H_HOST] < 0:
            # HTTP/1.0 may come without; HTTP/1.1 may not go without.
            name = self.pool.name.encode()
            append_text(&self.request, b"Host: ")
            tg_buffer_append(&self.request, <const char *>name, <size_t>len(name))
            append_text(&self.request, b"\r\n")
        if self.listener.forwarded != FORWARDED_OFF:
            if self.listener.forwarded != FORWARDED_PRESERVE or scan.first[H_X_FORWARDED_FOR] < 0:
                skip |= <uint64_t>1 << H_X_FORWARDED_FOR
                skip |= <uint64_t>1 << H_X_FORWARDED_PROTO
                skip |= <uint64_t>1 << H_X_FORWARDED_HOST
                if self.append_forwarded(scan) < 0:
                    return -1
        if append_fields(&self.request, scan, skip) < 0:
            return -1
        if self.chunked:
            append_text(&self.request, b"Transfer-Encoding: chunked\r\n")
        return tg_buffer_append(&self.request, b"\r\n", 2)

    cdef int append_forwarded(self, Scan *scan) noexcept:
        """X-Forwarded-For, -Proto, -Host: what came in is kept in front (append) or dropped (replace)."""
        cdef int i
        cdef Field *field
        append_text(&self.request, b"X-Forwarded-For: ")
        if self.listener.forwarded == FORWARDED_APPEND:
            for i in range(scan.field_count):
                field = &scan.fields[i]
                if field.id == H_X_FORWARDED_FOR and field.value_length:
                    tg_buffer_append(&self.request, field.value, field.value_length)
                    append_text(&self.request, b", ")
        if self.client.ip_length:
            tg_buffer_append(&self.request, self.client.ip, self.client.ip_length)
        else:
            append_text(&self.request, b"unix")
        append_text(&self.request, b"\r\nX-Forwarded-Proto: http\r\n")
        if scan.first[H_HOST] >= 0:
            field = &scan.fields[scan.first[H_HOST]]
            append_text(&self.request, b"X-Forwarded-Host: ")
            tg_buffer_append(&self.request, field.value, field.value_length)
            return append_text(&self.request, b"\r\n")
        return 0

    cdef void request_body(self, Scan *scan) noexcept:
        cdef int i
        self.bytes_in += scan.body_bytes
        if self.bytes_in > self.route.max_body:
            self.fail(413, b"body-too-large", f"the request's body is over the limit of {self.route.max_body} bytes")
            return
        if self.state >= X_ANSWERING and self.upstream is None:
            return
        if self.upstream is not None and not self.upstream.connecting:
            if tg_buffer_size(&self.request) + scan.body_bytes > self.listener.retry_buffer:
                self.kept = False
        if self.kept:
            for i in range(scan.span_count):
                if self.chunked:
                    append_chunk_size(&self.request, scan.spans[i].iov_len)
                if tg_buffer_append(&self.request, scan.spans[i].iov_base, scan.spans[i].iov_len) < 0:
                    self.fail(503, b"no-memory", "out of memory")
                    return
                if self.chunked:
                    append_text(&self.request, b"\r\n")
            if scan.complete and self.chunked:
                append_text(&self.request, b"0\r\n\r\n")
        else:
            self.spill(scan)
            if self.state == X_DONE:
                return
        if scan.complete:
            self.request_complete = True
        if self.upstream is None:
            if self.state == X_NEW:
                self.start_try(False)
        elif not self.upstream.connecting:
            self.send_request()
        if self.state < X_DONE and not self.request_complete:
            if self.upstream is None or self.upstream.connecting:
                # Not connected: what was read stays, but no more than that.
                self.wants_body = tg_buffer_size(&self.request) < <size_t>self.listener.retry_buffer
            else:
                self.wants_body = self.upstream.pending() < HIGH_WATER
                if not self.wants_body:
                    self.arm_wait()               # nobody else watches an endpoint that takes no more of it

    cdef void spill(self, Scan *scan) noexcept:
        """Body bytes that are not kept: straight to the endpoint, behind what is left of `request`."""
        cdef int i, failed = 0
        cdef Http1Upstream upstream = self.upstream
        self.send_request()
        if self.state == X_DONE or self.upstream is not upstream:
            return
        tg_buffer_free(&self.request)
        self.sent = 0
        for i in range(scan.span_count):
            if self.chunked:
                failed |= append_chunk_size(&upstream.out, scan.spans[i].iov_len)
            if failed or upstream.push_parts(&scan.spans[i], 1) == IO_ERROR:
                upstream.broken(FAIL_RESET)
                return
            if self.chunked:
                failed |= append_text(&upstream.out, b"\r\n")
        if scan.complete and self.chunked:
            failed |= append_text(&upstream.out, b"0\r\n\r\n")
        if failed:
            upstream.broken(FAIL_RESET)
            return
        upstream.poller.mark(upstream)

    # The endpoint.

    cdef void start_try(self, bint fresh) noexcept:
        cdef Http1Pool channel
        while self.pick():
            channel = <Http1Pool>self.pool.channels[self.endpoint]
            self.sent = 0
            if channel.take(self, fresh):
                return
            self.try_failed(FAIL_CONNECT)
            if not self.may_retry(FAIL_CONNECT, False):
                self.fail(502, b"connect", "could not connect to the endpoint")
                return
            self.tries_left -= 1

    cdef void try_failed(self, int kind) noexcept:
        cdef uint64_t *words = self.pool.series[self.endpoint]
        tg_add(&words[TG_S_CONNECT_ERRORS if kind == FAIL_CONNECT else TG_S_RESPONSE_ERRORS], 1)
        self.status = 502
        self.let_go(False)

    cdef void on_connecting(self, Http1Upstream upstream) noexcept:
        self.upstream = upstream

    cdef void on_connected(self, Http1Upstream upstream) noexcept:
        self.upstream = upstream
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
            self.sent_at = self.picked_at
            self.move(X_WAITING)
            self.arm_wait()

    cdef void on_drained(self, Http1Upstream upstream) noexcept:
        if not self.request_complete and not self.wants_body and self.state < X_ANSWERING:
            self.wants_body = True
            self.client.poller.arm(self, self.expires)
            self.client.resume_request()

    # The answer.

    cdef void on_answer(self, Http1Upstream upstream, Scan *scan) noexcept:
        cdef int status
        cdef tg_buffer extra
        if scan.head:
            status = upstream.parser.http.status_code
            if status < 200:
                if status == 101:
                    upstream.broken(FAIL_PROTOCOL)   # no upgrade was asked for
                return                               # 100 and 103: we answered 100 ourselves
            if not plainly_chunked(scan):
                upstream.broken(FAIL_PROTOCOL)       # a coding that nobody asked for, and that we would not undo
                return
            self.status = status
            self.first_byte_at = monotonic_ns()
            self.move(X_ANSWERING)
            if not self.request_complete:
                self.client.close_after()            # the rest of the body has nowhere to go
                self.wants_body = False
            mark_hop_by_hop(scan)
            memset(&extra, 0, sizeof(extra))
            self.append_endpoint(&extra)
            self.client.respond(scan, upstream.parser, &extra)
            tg_buffer_free(&extra)
            if self.state == X_DONE:
                return
        if scan.span_count:
            self.bytes_out += scan.body_bytes
            self.client.respond_body(scan.spans, scan.span_count)
            if self.state == X_DONE:
                return
        if scan.complete:
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
        if self.may_retry(kind, answered):
            self.tries_left -= 1
            self.start_try(True)
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
        if kind == FAIL_CONNECT:
            return True
        return kind == FAIL_RESET and not answered and self.idempotent

    cdef void cancel_upstream(self) noexcept:
        cdef Http1Upstream upstream = self.upstream
        if upstream is not None:
            self.upstream = None
            upstream.pool.drop(upstream)
