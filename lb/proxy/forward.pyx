"""An exchange with a pool that speaks HTTP/1.1.

The request is serialised once, into one buffer, and sent from there; while it fits the listener's `retry_buffer` it is
kept until the answer begins, so that another endpoint can be tried. Longer bodies stream through without being kept.
"""

from cpython.object cimport PyTypeObject
from libc.stdint cimport uint64_t
from libc.string cimport memset
from lb.core.buffer cimport tg_buffer, tg_buffer_append, tg_buffer_free, tg_buffer_head, tg_buffer_size
from lb.core.chunks cimport GATHERED, append_chunk
from lb.core.head cimport Scan, mark_hop_by_hop, plainly_chunked
from lb.core.head_text cimport append_chunk_size, append_text, append_trailers
from lb.core.reuse cimport tg_reuse
from lb.core.segment cimport TG_S_CONNECT_ERRORS, TG_S_RESPONSE_ERRORS, tg_add
from lb.core.stream cimport IO_ERROR, iovec
from lb.proxy.bulk cimport pass_request, pass_response
from lb.proxy.cors cimport drop_cors
from lb.proxy.exchange cimport X_ANSWERING, X_DONE, X_NEW, X_PICKED, X_WAITING, Exchange
from lb.proxy.forward_head cimport build_head
from lb.proxy.own_connection cimport asks_for_proof, brings_proof, give_own, keep_to_own, take_own
from lb.proxy.retry cimport RETRY_5XX, RETRY_CONNECT, RETRY_RESET, is_good, is_retryable
from lb.proxy.session cimport learn_session
from lb.proxy.tries cimport Hedge, TryingExchange
from lb.proxy.upgrade cimport give_raw, is_granted, raw_drained, switch_protocols, take_raw
from lb.upstream.failure cimport FAIL_CONNECT, FAIL_PROTOCOL, FAIL_REFUSED, FAIL_RESET
from lb.upstream.http1 cimport Http1Pool, Http1Upstream

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
        if not self.request_complete and self.client.put_off():
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

    # Behind an upgrade (lb.proxy.upgrade).

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
