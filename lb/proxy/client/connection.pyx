"""An HTTP/1.1 connection with a client: requests come in, are handed to an exchange one after another, answers go out.

What is read is parsed in place; only a head that comes in parts, or a pipelined request that has to wait, is copied.
How they are received is in lb.proxy.client.connection_input, how answers go out in http1_answer, how it all ends in
connection_end.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memchr, memcmp
from lb.net.buffer cimport tg_buffer_append, tg_buffer_consume, tg_buffer_free, tg_buffer_head, tg_buffer_size
from lb.http.head cimport H_TRANSFER_ENCODING, SCAN_TOO_MANY_FIELDS, Scan, plainly_chunked, worker_scan
from lb.http.http2.frames cimport PREFACE, PREFACE_SIZE
from lb.shared.segment cimport TG_S_REJECTED, TG_S_TLS_FAILED, tg_add
from lb.net.stream cimport EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP, IO_ERROR, iovec
from lb.net.tls.context cimport ALPN_H2, ALPN_HTTP1, ALPN_NONE
from lb.proxy.exchange.admission cimport Intake
from lb.proxy.routing.headers.aliases cimport hide_trailers
from lb.proxy.client.connection_input cimport OUT_LIMIT, ReceivingConnection
from lb.proxy.exchange.exchange cimport Exchange
from lb.proxy.client.http2_connection cimport take_over
from lb.proxy.routing.normalize cimport NORMAL_HIDE_ALIASES, NORMAL_REFUSE_ALIASES
from lb.proxy.client.body_rate cimport pace_advance, pace_start
from lb.proxy.client.request_target cimport head_size, request_target
from lb.proxy.routing.route cimport RouteTable

cdef enum:
    M_HEAD = 2                        # llhttp's numbers of methods
    M_CONNECT = 5
    TURN_STEPS = 64                   # before the others get their turn: pieces of bodies, up to MAX_SPANS chunks each
    HEAD_STEPS = 4                    # of a head, which may be a whole request with its answer
    CHUNK = 16                        # bytes around a chunk's content that are not held against it
    CHUNK_EXCESS = 32 * 1024          # of further ones in a request: extensions, and the trailer section


cdef class HttpConnection(ReceivingConnection):

    # Reading.

    cdef void on_ready(self, uint32_t events) noexcept:
        cdef Exchange exchange
        cdef size_t waiting = self.pending()
        if events & EPOLLOUT and waiting:
            if self.push() == IO_ERROR:
                self.close_now()
                return
            if self.pending() < waiting:
                self.send_deadline = 0
            if self.pending() == 0:
                self.poller.mark(self)            # on_flush goes on from here
                exchange = self.exchange          # it may end meanwhile, which drops ours
                if exchange is not None:
                    exchange.client_drained()
                    if self.fd < 0:
                        return
        if events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR):
            self.hangup = True
            if self.given_up() or (self.exchange is not None and events & (EPOLLHUP | EPOLLERR)):
                self.close_now()
                return
        if events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR):
            self.unread = True
            self.read_loop()
        self.go_on()

    cdef bint given_up(self) noexcept:
        """Nobody waits for the answer any more."""
        return self.hangup and self.exchange is not None and self.exchange.request_complete and not self.raw

    cdef void go_on(self) noexcept:
        """What came is dealt with. The end may have come with the request, and no event will tell of it again."""
        if self.fd >= 0 and self.given_up():
            self.close_now()
        if self.fd >= 0:
            self.set_timer()

    cdef void ended(self, bint error) noexcept:
        """The client's end of file, or a reset."""
        cdef Exchange exchange = self.exchange
        if error and self.tls is not None and self.tls.plain_http:
            self.tls = None
            worker_scan().head = False            # what it holds is another's
            self.refuse(400, b"this port speaks TLS: use https")
        elif self.raw and exchange is not None and not error:
            exchange.take_body(NULL, 0, 0, True)  # half-closed: the other way may go on
        elif error or self.exchange is not None or not self.pending():
            self.close_now()
        else:
            self.closing = True                   # an answer is still going out

    cdef void process(self, const char *data, size_t n) noexcept:
        """Parse what came, behind what was kept, for as long as there is someone to take it."""
        cdef Scan *scan = worker_scan()
        cdef Exchange exchange
        cdef Py_ssize_t taken
        cdef bint kept = False, partial
        cdef int steps = 0
        if tg_buffer_size(&self.inbox):
            # A head is parsed from its start again when more of it has come: line by line, not byte by byte.
            partial = self.head_started and self.exchange is None and n and memchr(data, 10, n) == NULL
            if n and tg_buffer_append(&self.inbox, data, n) < 0:
                self.close_now()
                return
            if partial and tg_buffer_size(&self.inbox) <= self.listener.max_header_bytes:
                return
            data = tg_buffer_head(&self.inbox)
            n = tg_buffer_size(&self.inbox)
            kept = True
        if self.fresh and n and self.is_http2(data, n):
            return
        if self.raw:
            self.pass_raw(data, n)
            if kept:
                tg_buffer_free(&self.inbox)
            return
        while n and self.fd >= 0 and not self.closing:
            if self.exchange is not None and (self.exchange.request_complete or not self.exchange.wants_body):
                break
            if self.exchange is None and self.pending() >= OUT_LIMIT and not self.skipping:
                break                             # on_flush goes on when the client has taken its answers
            if steps >= TURN_STEPS:
                self.poller.defer(self)           # on_flush goes on
                break
            steps += 1
            scan.max_fields = self.listener.max_headers
            taken = self.parser.execute(scan, data, n)
            if taken < 0:
                exchange = self.exchange
                if exchange is not None and scan.error == SCAN_TOO_MANY_FIELDS:
                    exchange.fail(431, b"too-many-fields", "too many trailer fields")
                elif exchange is not None:
                    exchange.fail(400, b"bad-body", self.parser.why.decode("latin-1"))
                elif self.skipping:
                    self.close_now()              # it has its answer
                elif scan.error == SCAN_TOO_MANY_FIELDS:
                    self.refuse(431, b"too many header fields")
                else:
                    self.refuse(400, self.parser.why)
                break
            if taken == 0 and not scan.head and self.exchange is None:
                if n > self.listener.max_header_bytes:
                    self.refuse_head(data)
                elif not self.head_started:
                    self.head_started = True
                    self.head_deadline = self.poller.now + self.listener.header_timeout
                break
            if scan.head and head_size(scan) > self.listener.max_header_bytes:
                self.refuse_head(data)
                break
            data += taken
            n -= <size_t>taken
            if scan.head:
                steps += HEAD_STEPS - 1
                self.head_started = False
                self.begin(scan)
            exchange = self.exchange
            if exchange is not None and not scan.head and self.in_excess(scan, <size_t>taken):
                exchange.fail(400, b"bad-body", "too much around the chunks of the body")
                break
            if exchange is not None and not exchange.request_complete and (scan.span_count or scan.complete):
                self.body_deadline = pace_advance(&self.pace, self.poller.now, scan.body_bytes,
                                                  self.listener.body_quota, self.listener.body_timeout)
                if scan.trailer_count:
                    if self.listener.normalize & (NORMAL_HIDE_ALIASES | NORMAL_REFUSE_ALIASES):
                        hide_trailers(scan, (<RouteTable>self.listener.table).guarded)
                    exchange.take_trailers(scan)
                exchange.take_body(scan.spans, scan.span_count, scan.body_bytes, scan.complete)
            elif self.skipping and not scan.head:
                if scan.body_bytes > self.skip_left or self.in_excess(scan, <size_t>taken):
                    self.close_now()
                    return
                self.skip_left -= scan.body_bytes
                self.body_deadline = pace_advance(&self.pace, self.poller.now, scan.body_bytes,
                                                  self.listener.body_quota, self.listener.body_timeout)
            if scan.complete and self.fd >= 0:
                self.skipping = False
                self.parser.reset()
        if self.fd < 0:
            return
        if self.closing and n:
            self.last_request = False             # more came than it said
            n = 0
        if kept:
            if n == 0:
                tg_buffer_free(&self.inbox)
            else:
                tg_buffer_consume(&self.inbox, tg_buffer_size(&self.inbox) - n)
        elif n:
            self.keep_bytes(data, n)

    cdef bint in_excess(self, const Scan *scan, size_t taken) noexcept:
        """Whether chunk extensions go on and on: they are thrown away, and no limit of a body counts them
        (CVE-2023-39326, CVE-2024-22019). A long body may have more of them than a short one."""
        cdef size_t allowed = 2 * scan.body_bytes + CHUNK * <size_t>scan.span_count
        cdef size_t excess = self.chunk_excess + (taken - scan.body_bytes)
        self.chunk_excess = <uint32_t>(excess - allowed) if excess > allowed else 0
        return self.chunk_excess > CHUNK_EXCESS

    cdef void pass_raw(self, const char *data, size_t n) noexcept:
        cdef Exchange exchange = self.exchange
        cdef iovec span
        span.iov_base = <void *>data
        span.iov_len = n
        if n and exchange is not None:
            exchange.take_body(&span, 1, n, False)

    cdef bint is_http2(self, const char *data, size_t n) noexcept:
        """Whether these first bytes are HTTP/2's preface, as far as they go (RFC 9113 section 3.3). Then this
        connection is another's, or waits for the rest of it; else it is HTTP/1.1's for good. What the client has agreed
        on by ALPN holds (RFC 7301 section 3.2)."""
        cdef size_t known = min(n, <size_t>PREFACE_SIZE)
        cdef int agreed = ALPN_NONE if self.tls is None else self.tls.alpn()
        if agreed == ALPN_H2:
            self.fresh = False
            take_over(self, <Intake>self.intake, data, n)     # whatever comes: the session refuses what is not HTTP/2
            return True
        if agreed == ALPN_HTTP1 or not self.listener.http2.enabled or memcmp(data, PREFACE, known) != 0:
            self.fresh = False
            return False
        if known == PREFACE_SIZE:
            self.fresh = False
            take_over(self, <Intake>self.intake, data, n)
            return True
        if data != tg_buffer_head(&self.inbox):
            self.keep_bytes(data, n)
        if not self.head_started:
            self.head_started = True
            self.head_deadline = self.poller.now + self.listener.header_timeout
        return True

    cdef void keep_bytes(self, const char *data, size_t n) noexcept:
        if tg_buffer_append(&self.inbox, data, n) < 0:
            self.close_now()

    # A request.

    cdef void begin(self, Scan *scan) noexcept:
        cdef const char *host
        cdef size_t host_length
        cdef Exchange exchange
        self.http10 = scan.version == 10
        self.head_request = scan.method == M_HEAD
        self.last_request = not self.parser.keep_alive()
        self.keep = not self.last_request and not self.intake.draining and not self.listener.draining
        if self.parser.http.http_major != 1:
            self.refuse(505, b"only HTTP/1.0 and HTTP/1.1 are spoken here")
            return
        if scan.host_count > 1 or (scan.host_count == 0 and not self.http10):
            self.refuse(400, b"exactly one Host field is needed")
            return
        if self.http10 and scan.first[H_TRANSFER_ENCODING] >= 0:
            self.refuse(400, b"HTTP/1.0 knows no Transfer-Encoding")
            return
        if not plainly_chunked(scan):
            # Passing on what another coding hides as if it were the content would change it (RFC 9112 section 6.1).
            self.refuse(501, b"no transfer coding but chunked is understood")
            return
        if scan.method == M_CONNECT:
            self.refuse(501, b"CONNECT is not served")
            return
        if not request_target(scan, &host, &host_length):
            self.refuse(400, b"the request target is not a path, or its host not a host")
            return
        exchange = (<Intake>self.intake).admit(self, scan, host, host_length)
        if exchange is None:
            return
        self.exchange = exchange
        if not scan.complete:
            self.chunk_excess = 0
            self.begin_pace()
        (<Intake>self.intake).start(exchange, scan)

    cdef void refuse(self, int status, const char *reason) noexcept:
        """A request that cannot be trusted: answered, and the connection closed, since its end is unknown."""
        self.keep = False
        tg_add(&self.listener.series[TG_S_REJECTED], 1)
        self.decline(status, reason.decode("latin-1"))

    cdef void refuse_head(self, const char *head) noexcept:
        """A head of more than `max_header_bytes` bytes."""
        if memchr(head, 10, self.listener.max_header_bytes) == NULL:
            self.refuse(414, b"the request line is too long")
        else:
            self.refuse(431, b"the header fields are too large")

    cdef void skip_body(self, uint64_t most) noexcept:
        """Nobody takes the rest; a close that was not announced could be taken for a lost request."""
        self.skipping = self.parser.reading_body
        self.skip_left = most
        self.begin_pace()

    cdef void resume_request(self) noexcept:
        self.begin_pace()                         # the time in which we wanted none of it does not count
        self.poller.mark(self)

    cdef void begin_pace(self) noexcept:
        pace_start(&self.pace, self.poller.now)
        self.body_deadline = pace_advance(&self.pace, self.poller.now, 0, self.listener.body_quota,
                                          self.listener.body_timeout)

    # The end of a batch: send, then go on with what waits.

    cdef void on_flush(self) noexcept:
        cdef int left = 0
        cdef size_t waiting = self.pending()
        cdef Exchange exchange = self.exchange
        if self.fd < 0:
            return
        if waiting:
            # A reset would throw away what the kernel still holds back.
            left = self.push_last() if self.closing and not self.cut and self.over() else self.push()
            if left == IO_ERROR:
                self.close_now()
                return
            if self.pending() < waiting:
                self.send_deadline = 0
        if not left and exchange is not None:
            exchange.client_drained()             # no event will tell of what went out at once
            if self.fd < 0:
                return
        if self.closing:
            if self.lingering:
                if self.unread and not self.deferred:
                    self.read_loop()
            elif not left:
                self.finish()
        elif self.takes_input():
            if not self.deferred and tg_buffer_size(&self.inbox) and (
                    self.exchange is not None or not self.head_started):
                self.process(NULL, 0)
            if self.fd >= 0 and self.unread and not self.deferred:
                self.read_loop()
        if self.last_look and self.fd >= 0:
            self.last_look = False
            if self.skipping:
                self.closing = True
                self.poller.mark(self)
            elif self.exchange is None and not self.head_started and not self.closing and not self.pending():
                self.close_now()
        self.go_on()

    # Timeouts.

    cdef bint watch(self) noexcept:
        if not self.lingering and not self.raw and self.exchange is not None and self.exchange.request_complete \
                and not self.pending():
            self.poller.arm(self, self.poller.now)    # most answers are there before on_timer looks after the client
            return False
        if self.poller.observe(self) == 0:
            return True
        self.close_now()
        return False

    cdef void set_timer(self) noexcept:
        if self.unwatched and not self.watch():
            return
        if self.lingering:
            return
        if self.tls is not None and self.tls.handshaking:
            self.poller.arm(self, self.tls.deadline)
            return
        if self.pending():
            if self.send_deadline == 0:
                self.send_deadline = self.poller.now + self.listener.send_timeout
            self.poller.arm(self, self.send_deadline)
            return
        self.send_deadline = 0
        if self.exchange is not None:
            if self.raw or self.exchange.request_complete or not self.exchange.wants_body:
                self.poller.disarm(self)
            else:
                self.poller.arm(self, min(self.poller.now + self.listener.body_timeout, self.body_deadline))
        elif self.skipping:
            self.poller.arm(self, min(self.poller.now + self.listener.body_timeout, self.body_deadline))
        elif self.head_started:
            self.poller.arm(self, self.head_deadline)
        else:
            self.poller.arm(self, self.poller.now + self.listener.idle_timeout)

    cdef void on_timer(self) noexcept:
        cdef Exchange exchange = self.exchange
        if self.unwatched:
            if self.poller.observe(self) < 0:
                self.close_now()
            return
        if self.tls is not None and self.tls.handshaking:
            tg_add(&self.listener.series[TG_S_TLS_FAILED], 1)
        if self.lingering or self.pending() or (self.exchange is None and not self.head_started):
            self.close_now()
        elif self.exchange is None:
            self.head_started = False
            tg_buffer_free(&self.inbox)
            worker_scan().head = False            # what it holds is another's
            self.refuse(408, b"the request did not come in time")
        else:
            exchange.fail(408, b"slow-body", "the request's body did not come in time")
