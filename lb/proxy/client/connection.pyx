"""An HTTP/1.1 connection with a client: requests come in, are handed to an exchange one after another, answers go out.

    on_ready, read_loop   bytes are received, where somebody takes them, and where they have to be
    process               the parser makes heads and pieces of bodies of them (lb.http.http1)
    begin                 a head becomes an exchange, or is refused
    respond…              the exchange's answer becomes bytes (lb.proxy.client.http1_answer)
    on_flush              the end of a batch: bytes are sent, then waiting input is taken up
    over, finish          the end: the last answer reaches the client before the close
    set_timer             one deadline, by the state

What is received is parsed in space; only a head that comes in parts, or a pipelined request that has to wait, is
copied. Answers are sent once at the end of the poller's batch, bulk bodies straight from where they were received.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memchr, memcmp
from lb.failure cimport (
    FAIL_BAD_BODY, FAIL_BAD_REQUEST, FAIL_HEAD_TOO_LARGE, FAIL_HTTP_VERSION, FAIL_NOT_IMPLEMENTED, FAIL_SLOW_BODY,
    FAIL_SLOW_HEAD, FAIL_TOO_MANY_FIELDS, FAIL_URI_TOO_LONG, failure_of,
)
from lb.net.buffer cimport (
    tg_buffer, tg_buffer_append, tg_buffer_consume, tg_buffer_free, tg_buffer_head, tg_buffer_size,
)
from lb.http.chunks cimport GATHERED
from lb.http.head cimport H_TRANSFER_ENCODING, SCAN_TOO_MANY_FIELDS, Scan, plainly_chunked, worker_scan
from lb.http.head_text cimport append_trailers
from lb.http.http2.frames cimport PREFACE, PREFACE_SIZE
from lb.net.poller cimport READ_TURNS
from lb.net.reading cimport drained
from lb.shared.segment cimport tg_add
from lb.shared.segment_words cimport LISTENER_REJECTED, LISTENER_TLS_HANDSHAKES_FAILED
from lb.net.splice cimport PASS_FROM, PASS_LOST, PASS_MUCH, PASS_NOT, PASS_REST, pass_through
from lb.net.states cimport states_of, tg_move, tg_state, tg_states
from lb.net.stream cimport (
    EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP, IO_AGAIN, IO_ERROR, Stream, iovec,
)
from lb.net.tls.session cimport handshake_turn
from lb.net.tls.context cimport ALPN_H2, ALPN_HTTP1, ALPN_NONE
from lb.proxy.routing.headers.aliases cimport hide_trailers
from lb.proxy.client.rejection cimport dress_rejection
from lb.proxy.client.client cimport Client
from lb.proxy.exchange.rejected cimport count_rejected, log_rejected
from lb.proxy.exchange.exchange cimport Exchange
from lb.proxy.exchange.http1_attempt cimport drop_own
from lb.proxy.client.http1_answer cimport (
    answer_body, answer_continue, answer_last_chunk, answer_head, answer_interim, answer_own_head, answer_piece_begin,
    answer_piece_end, answer_upgrade,
)
from lb.proxy.client.http2_connection cimport take_over
from lb.proxy.routing.normalize cimport NORMAL_HIDE_ALIASES, NORMAL_REFUSE_ALIASES
from lb.proxy.client.body_rate cimport body_rate_advance, body_rate_start
from lb.proxy.exchange.refusal cimport SPEAKS_HTTP, Refusal, refusal
from lb.proxy.client.request_target cimport head_size, request_target
from lb.proxy.routing.route cimport RouteTable

cdef extern from "<sys/socket.h>" nogil:
    enum:
        MSG_DONTWAIT
        MSG_MORE
        MSG_NOSIGNAL
    ssize_t send(int fd, const void *data, size_t size, int flags)

cdef enum:
    M_HEAD = 2                        # llhttp's numbers of methods
    M_CONNECT = 5
    TURN_STEPS = 64                   # before the others get their turn: pieces of bodies, up to MAX_SPANS chunks each
    HEAD_STEPS = 4                    # of a head, which may be a whole request with its answer
    CHUNK = 16                        # bytes around a chunk's content that are not held against it
    CHUNK_EXCESS = 32 * 1024          # of further ones in a request: extensions, and the trailer section
    INBOX_LIMIT = 256 * 1024          # bytes read ahead of the exchange in progress
    STRAIGHT = 16 * 1024              # of a body still to come: from here on a copy costs more than a read of its own
    OUT_LIMIT = 64 * 1024             # bytes of answers that wait for the client, before its next request is taken up
    INTERIM_LIMIT = 64 * 1024         # the same, above which no interim answer is added
    # As long as nginx by default (lingering_time): whoever uploads may send all of it before it looks at the answer.
    LINGER_NS = 30_000_000_000
    LINGER_SILENCE_NS = 2_000_000_000

# Which state may follow which. H1_IDLE follows itself where a request is rejected and the connection goes on.
cdef tg_states TABLE
TABLE.machine = b"HTTP/1.1 connection"
tg_state(&TABLE, b"new", 1 << H1_SNIFF | 1 << H1_IDLE | 1 << H1_LAST | 1 << H1_CLOSED)
tg_state(&TABLE, b"sniff", 1 << H1_NEW | 1 << H1_HEAD | 1 << H1_LAST | 1 << H1_CLOSED)
tg_state(&TABLE, b"idle", 1 << H1_IDLE | 1 << H1_HEAD | 1 << H1_EXCHANGE | 1 << H1_LAST | 1 << H1_CLOSED)
tg_state(&TABLE, b"head", 1 << H1_IDLE | 1 << H1_EXCHANGE | 1 << H1_LAST | 1 << H1_CLOSED)
tg_state(&TABLE, b"exchange", 1 << H1_IDLE | 1 << H1_SKIP | 1 << H1_RAW | 1 << H1_LAST | 1 << H1_CLOSED)
tg_state(&TABLE, b"skip", 1 << H1_IDLE | 1 << H1_LAST | 1 << H1_CLOSED)
tg_state(&TABLE, b"raw", 1 << H1_LAST | 1 << H1_CLOSED)
tg_state(&TABLE, b"last", 1 << H1_LINGER | 1 << H1_CLOSED)
tg_state(&TABLE, b"linger", 1 << H1_CLOSED)
tg_state(&TABLE, b"closed", 0)
STATES = states_of(&TABLE)


cdef inline size_t unsent(HttpConnection connection) noexcept:
    """As `Stream.pending`, which is too much of a call for what is asked so often."""
    if connection.tls is None:
        return tg_buffer_size(&connection.out)
    return tg_buffer_size(&connection.out) + tg_buffer_size(&connection.tls.held)


cdef class HttpConnection(Client):

    def __dealloc__(self):
        tg_buffer_free(&self.reader.inbox)
        tg_buffer_free(&self.answer.trailers)

    cdef void move(self, int state) noexcept:
        tg_move(&TABLE, &self.state, state)

    # Reading.

    cdef void on_ready(self, uint32_t events) noexcept:
        cdef Exchange exchange
        cdef size_t waiting = unsent(self)
        if events & EPOLLOUT and waiting:
            if self.push() == IO_ERROR:
                self.close_now()
                return
            if unsent(self) < waiting:
                self.send_deadline = 0
            if unsent(self) == 0:
                self.poller.mark(self)            # on_flush goes on from here
                exchange = self.exchange          # it may end meanwhile, which drops ours
                if exchange is not None:
                    exchange.client_drained()
                    if self.fd < 0:
                        return
        if events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR):
            self.reader.hangup = True
            if self.given_up() or (self.exchange is not None and events & (EPOLLHUP | EPOLLERR)):
                self.close_now()
                return
        if events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR):
            self.reader.unread = True
            self.read_loop()
        self.go_on()

    cdef bint given_up(self) noexcept:
        """Nobody waits for the answer any more."""
        return self.reader.hangup and self.state == H1_EXCHANGE and self.exchange.request_complete

    cdef void go_on(self) noexcept:
        """What came is dealt with. The end may have come with the request, and no event will tell of it again."""
        if self.fd >= 0 and self.given_up():
            self.close_now()
        if self.fd >= 0:
            self.set_timer()

    cdef bint takes_input(self) noexcept:
        """Whether there is someone to take what has come."""
        if self.exchange is None:
            return self.state == H1_SKIP or unsent(self) < OUT_LIMIT
        return self.exchange.wants_body and not self.exchange.request_complete

    cdef bint accepts_input(self) noexcept:
        """Whether more may come."""
        if self.state >= H1_LAST:
            return self.state == H1_LINGER
        if self.exchange is None and (
                tg_buffer_size(&self.reader.inbox) >= INBOX_LIMIT + self.listener.max_header_bytes):
            return False
        return self.takes_input()

    cdef void read_loop(self) noexcept:
        cdef Py_ssize_t n
        cdef size_t room = self.poller.scratch_size
        cdef char *into = self.poller.scratch
        cdef int turn = 0
        if self.deferred:
            return                                # the others have their turn
        if self.tls is not None and self.tls.handshaking and not handshake_turn(self.poller.now):
            self.poller.defer(self)               # on_flush goes on
            return
        while self.fd >= 0 and self.reader.unread and self.accepts_input() and not self.deferred:
            if turn == READ_TURNS:
                self.poller.defer(self)           # on_flush goes on
                return
            turn += 1
            n = self.pass_on() if self.reader.bulk else PASS_NOT
            if n > 0 or n == PASS_LOST:
                continue
            if n == PASS_NOT:
                into = self.space(&room)
                n = self.receive(into, room)
                self.reader.bulk = n >= PASS_MUCH
            if n == IO_AGAIN:
                self.reader.unread = not drained(self)
                if self.reader.unread:
                    self.poller.defer(self)
                elif self.tls is not None:
                    self.watch_record()
                return
            if n == IO_ERROR or n == 0:
                self.reader.unread = False
                self.ended(n == IO_ERROR)
                return
            if <size_t>n < room and not self.reader.hangup and drained(self):
                self.reader.unread = False        # drained; the edge will tell
            if self.state == H1_LINGER:
                self.read_away()
                continue
            self.process(into, <size_t>n)

    cdef Py_ssize_t pass_on(self) noexcept:
        """A part of a long body, if nobody here has to see it: see `Exchange.pass_body`."""
        cdef Exchange exchange = self.exchange
        cdef Py_ssize_t n
        if exchange is None or self.tls is not None or tg_buffer_size(&self.reader.inbox) or (
                not self.parser.has_length() or self.parser.http.content_length < PASS_FROM):
            return PASS_NOT
        n = exchange.pass_body(<size_t>self.parser.http.content_length - PASS_REST)
        if n > 0:
            self.parser.http.content_length -= <uint64_t>n
            self.reader.bulk = n >= PASS_MUCH
            self.keep_body_rate(<uint64_t>n)
        return n

    cdef char *space(self, size_t *room) noexcept:
        """Where to receive: a long body of known length comes straight to where its exchange gathers it."""
        cdef Exchange exchange = self.exchange
        cdef char *space = NULL
        cdef size_t left
        room[0] = self.poller.scratch_size
        if exchange is not None and self.parser.has_length() and tg_buffer_size(&self.reader.inbox) == 0:
            left = <size_t>min(self.parser.http.content_length, <uint64_t>self.poller.scratch_size)
            if left >= STRAIGHT:
                space = exchange.body_space(left)
                if space != NULL:
                    room[0] = left                # what follows the body is another request
                    return space
        return self.poller.scratch

    cdef void watch_record(self) noexcept:
        """A client could trickle a TLS record as it could a head, and nothing of it would show here before its end: a
        record that has begun counts as a head that has."""
        if self.state > H1_HEAD or self.tls.handshaking or tg_buffer_size(&self.reader.inbox):
            return
        if self.state == H1_NEW or self.state == H1_IDLE:
            if self.tls.partial():
                self.await_head(H1_SNIFF if self.state == H1_NEW else H1_HEAD)
        elif not self.tls.partial():
            self.move(H1_NEW if self.state == H1_SNIFF else H1_IDLE)

    cdef void ended(self, bint error) noexcept:
        """The client's end of file, or a reset."""
        cdef Exchange exchange = self.exchange
        if error and self.tls is not None and self.tls.plain_http:
            self.tls = None
            worker_scan().head = False            # what it holds is another's
            self.refuse(FAIL_BAD_REQUEST, b"this port speaks TLS: use https")
        elif self.state == H1_RAW and not error:
            exchange.take_body(NULL, 0, 0, True)  # half-closed: the other way may go on
        elif error or self.exchange is not None or not unsent(self):
            self.close_now()
        elif self.state < H1_LAST:
            self.move(H1_LAST)                    # an answer is still going out

    cdef void process(self, const char *data, size_t n) noexcept:
        """Parse what came, behind what was kept, for as long as there is someone to take it."""
        cdef Scan *scan = worker_scan()
        cdef Exchange exchange
        cdef Py_ssize_t taken
        cdef bint kept = False, partial
        cdef int steps = 0
        if tg_buffer_size(&self.reader.inbox):
            # A head is parsed from its start again when more of it has come: line by line, not byte by byte.
            partial = (self.state == H1_HEAD or self.state == H1_SNIFF) and n and memchr(data, 10, n) == NULL
            if n and tg_buffer_append(&self.reader.inbox, data, n) < 0:
                self.close_now()
                return
            if partial and tg_buffer_size(&self.reader.inbox) <= self.listener.max_header_bytes:
                return
            data = tg_buffer_head(&self.reader.inbox)
            n = tg_buffer_size(&self.reader.inbox)
            kept = True
        if self.state <= H1_SNIFF and n and self.is_http2(data, n):
            return
        if self.state == H1_RAW:
            self.pass_raw(data, n)
            if kept:
                tg_buffer_free(&self.reader.inbox)
            return
        while n and self.state < H1_LAST:
            if self.exchange is not None and (self.exchange.request_complete or not self.exchange.wants_body):
                break
            if self.exchange is None and unsent(self) >= OUT_LIMIT and self.state != H1_SKIP:
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
                    exchange.fail(FAIL_TOO_MANY_FIELDS, "too many trailer fields")
                elif exchange is not None:
                    exchange.fail(FAIL_BAD_BODY, self.parser.why.decode("latin-1"))
                elif self.state == H1_SKIP:
                    self.close_now()              # it has its answer
                elif scan.error == SCAN_TOO_MANY_FIELDS:
                    self.refuse(FAIL_HEAD_TOO_LARGE, b"too many header fields")
                else:
                    self.refuse(FAIL_BAD_REQUEST, self.parser.why)
                break
            if taken == 0 and not scan.head and self.exchange is None:
                if n > self.listener.max_header_bytes:
                    self.refuse_head(data)
                elif self.state == H1_IDLE:
                    self.await_head(H1_HEAD)
                break
            if scan.head and head_size(scan) > self.listener.max_header_bytes:
                self.refuse_head(data)
                break
            data += taken
            n -= <size_t>taken
            if scan.head:
                steps += HEAD_STEPS - 1
                self.begin(scan)
            exchange = self.exchange
            if exchange is not None and not scan.head and self.in_excess(scan, <size_t>taken):
                exchange.fail(FAIL_BAD_BODY, "too much around the chunks of the body")
                break
            if exchange is not None and not exchange.request_complete and (scan.span_count or scan.complete):
                self.keep_body_rate(scan.body_bytes)
                if scan.trailer_count:
                    if self.listener.normalize & (NORMAL_HIDE_ALIASES | NORMAL_REFUSE_ALIASES):
                        hide_trailers(scan, (<RouteTable>self.listener.table).guarded)
                    exchange.take_trailers(scan)
                exchange.take_body(scan.spans, scan.span_count, scan.body_bytes, scan.complete)
            elif self.state == H1_SKIP and not scan.head:
                if scan.body_bytes > self.reader.skip_left or self.in_excess(scan, <size_t>taken):
                    self.close_now()
                    return
                self.reader.skip_left -= scan.body_bytes
                self.keep_body_rate(scan.body_bytes)
            if scan.complete and self.fd >= 0:
                if self.state == H1_SKIP:
                    self.move(H1_IDLE)
                self.parser.reset()
        if self.fd < 0:
            return
        if self.state == H1_LAST and n:
            self.closer.last_request = False      # more came than it said
            n = 0
        if kept:
            if n == 0:
                tg_buffer_free(&self.reader.inbox)
            else:
                tg_buffer_consume(&self.reader.inbox, tg_buffer_size(&self.reader.inbox) - n)
        elif n:
            self.keep_bytes(data, n)

    cdef bint in_excess(self, const Scan *scan, size_t taken) noexcept:
        """Whether chunk extensions go on and on: they are thrown away, and no limit of a body counts them
        (CVE-2023-39326, CVE-2024-22019). A long body may have more of them than a short one."""
        cdef size_t allowed = 2 * scan.body_bytes + CHUNK * <size_t>scan.span_count
        cdef size_t excess = self.reader.excess + (taken - scan.body_bytes)
        self.reader.excess = <uint32_t>(excess - allowed) if excess > allowed else 0
        return self.reader.excess > CHUNK_EXCESS

    cdef void pass_raw(self, const char *data, size_t n) noexcept:
        cdef Exchange exchange = self.exchange
        cdef iovec span
        span.iov_base = <void *>data
        span.iov_len = n
        if n:
            exchange.take_body(&span, 1, n, False)

    cdef bint is_http2(self, const char *data, size_t n) noexcept:
        """Whether these first bytes are HTTP/2's preface, as far as they go (RFC 9113 section 3.3). Then this
        connection is another's, or waits for the rest of it; else it is HTTP/1.1's for good. What the client has agreed
        on by ALPN holds (RFC 7301 section 3.2)."""
        cdef size_t known = min(n, <size_t>PREFACE_SIZE)
        cdef int agreed = ALPN_NONE if self.tls is None else self.tls.alpn()
        if agreed == ALPN_H2 or (agreed != ALPN_HTTP1 and known == PREFACE_SIZE and self.listener.http2.enabled
                                 and memcmp(data, PREFACE, PREFACE_SIZE) == 0):
            take_over(self, self.admission, data, n)  # whatever comes: the session refuses what is not HTTP/2
            if self.fd < 0:
                self.move(H1_CLOSED)
            else:
                self.close_now()                  # the poller has no room for it
            return True
        if agreed == ALPN_HTTP1 or not self.listener.http2.enabled or memcmp(data, PREFACE, known) != 0:
            self.move(H1_IDLE if self.state == H1_NEW else H1_HEAD)
            return False
        if data != tg_buffer_head(&self.reader.inbox):
            self.keep_bytes(data, n)
        if self.state == H1_NEW:
            self.await_head(H1_SNIFF)
        return True

    cdef void keep_bytes(self, const char *data, size_t n) noexcept:
        if tg_buffer_append(&self.reader.inbox, data, n) < 0:
            self.close_now()

    # A request.

    cdef void await_head(self, int state) noexcept:
        """The rest of what has begun to come has to follow in time."""
        self.move(state)
        self.reader.head_deadline = self.poller.now + self.listener.header_timeout

    cdef void begin(self, Scan *scan) noexcept:
        cdef const char *host
        cdef size_t host_length
        cdef Exchange exchange
        self.answer.http10 = scan.version == 10
        self.answer.head_request = scan.method == M_HEAD
        self.closer.last_request = not self.parser.keep_alive()
        self.answer.keep = not self.closer.last_request and not self.admission.draining and not self.listener.draining
        if self.parser.http.http_major != 1:
            self.refuse(FAIL_HTTP_VERSION, b"only HTTP/1.0 and HTTP/1.1 are spoken here")
            return
        if scan.host_count > 1 or (scan.host_count == 0 and not self.answer.http10):
            self.refuse(FAIL_BAD_REQUEST, b"exactly one Host field is needed")
            return
        if self.answer.http10 and scan.first[H_TRANSFER_ENCODING] >= 0:
            self.refuse(FAIL_BAD_REQUEST, b"HTTP/1.0 knows no Transfer-Encoding")
            return
        if not plainly_chunked(scan):
            # Passing on what another coding hides as if it were the content would change it (RFC 9112 section 6.1).
            self.refuse(FAIL_NOT_IMPLEMENTED, b"no transfer coding but chunked is understood")
            return
        if scan.method == M_CONNECT:
            self.refuse(FAIL_NOT_IMPLEMENTED, b"CONNECT is not served")
            return
        if not request_target(scan, &host, &host_length):
            self.refuse(FAIL_BAD_REQUEST, b"the request target is not a path, or its host not a host")
            return
        exchange = self.admission.admit(self, scan, host, host_length, NULL, 0)
        if exchange is None:
            return
        self.exchange = exchange
        self.move(H1_EXCHANGE)
        if not scan.complete:
            self.reader.excess = 0
            self.begin_body_rate()
        self.admission.start(exchange, scan)

    cdef void refuse(self, int kind, const char *message) noexcept:
        """A request that cannot be trusted: answered, and the connection closed, since its end is unknown."""
        self.answer.keep = False
        tg_add(&self.listener.series[LISTENER_REJECTED], 1)
        self.reject(kind, message.decode("latin-1"))

    cdef void refuse_head(self, const char *head) noexcept:
        """A head of more than `max_header_bytes` bytes."""
        if memchr(head, 10, self.listener.max_header_bytes) == NULL:
            self.refuse(FAIL_URI_TOO_LONG, b"the request line is too long")
        else:
            self.refuse(FAIL_HEAD_TOO_LARGE, b"the header fields are too large")

    cdef void reject(self, int kind, str message, const tg_buffer *fields=NULL) noexcept:
        cdef int status = failure_of(kind).status
        cdef Refusal answer = refusal(status, failure_of(kind).grpc_status, message, SPEAKS_HTTP, fields, 0)
        cdef Scan *scan = worker_scan()
        if not scan.complete:
            self.answer.keep = False              # the rest of its body would be read as a request
        if scan.head:
            log_rejected(self, scan, scan.version, kind, False)
        else:
            log_rejected(self, NULL, 0, kind, False)
        count_rejected(self.listener.series, kind)
        dress_rejection(self, answer, status, message)
        self.respond_whole(answer.status, &answer.head, &answer.part, 1)

    cdef void resume_request(self) noexcept:
        self.begin_body_rate()        # the time in which we wanted none of it does not count
        self.poller.mark(self)

    cdef void begin_body_rate(self) noexcept:
        body_rate_start(&self.reader.body_rate, self.poller.now)
        self.keep_body_rate(0)

    cdef void keep_body_rate(self, uint64_t bytes) noexcept:
        """So many bytes of the body came."""
        self.reader.body_deadline = body_rate_advance(
            &self.reader.body_rate, self.poller.now, bytes, self.listener.body_quota, self.listener.body_timeout)

    # The answer (lb.proxy.client.client).

    cdef void send_continue(self) noexcept:
        answer_continue(&self.out)
        self.poller.mark(self)

    cdef void answered_early(self) noexcept:
        self.answer.keep = False

    cdef bint may_follow(self) noexcept:
        return self.answer.keep and self.fd >= 0

    cdef void check_drain(self) noexcept:
        """The connection ends with the answer where its worker or its listener ends, perhaps since the request came."""
        if self.admission.draining or self.listener.draining:
            self.answer.keep = False

    cdef void respond(self, Scan *scan, const tg_buffer *extra, bint last) noexcept:
        if scan.status >= 200:
            self.check_drain()
            answer_head(&self.answer, &self.out, scan, extra, last, self.poller.now)
        elif unsent(self) > INTERIM_LIMIT:
            return                                # they are said without end, or the client does not read
        else:
            answer_interim(&self.out, scan)
        self.poller.mark(self)

    cdef void respond_whole(self, int status, const tg_buffer *head, const iovec *parts, int count) noexcept:
        cdef size_t size = 0
        cdef int i
        for i in range(count):
            size += parts[i].iov_len
        if self.respond_own_head(status, head, size):
            self.respond_body(parts, count)
        if self.fd >= 0:
            self.respond_end()

    cdef bint respond_own_head(self, int status, const tg_buffer *head, size_t size) noexcept:
        cdef Exchange exchange = self.exchange
        if self.fd < 0:
            return False
        if exchange is not None and not exchange.request_complete:
            self.answer.keep = False              # the rest of its body would be read as a request
        self.check_drain()
        answer_own_head(&self.answer, &self.out, status, head, size, self.poller.now)
        self.poller.mark(self)
        return not self.answer.head_request

    cdef void respond_body(self, const iovec *parts, int count) noexcept:
        cdef size_t size = 0, waiting
        cdef int i, failed
        if self.fd < 0:
            return
        for i in range(count):
            size += parts[i].iov_len
        if size == 0:
            return
        if size < GATHERED:
            failed = answer_body(&self.answer, &self.out, parts, count, size)
        else:
            failed = answer_piece_begin(&self.answer, &self.out, size)
            waiting = unsent(self) + size
            failed |= self.push_parts(parts, count) == IO_ERROR
            if unsent(self) < waiting:
                self.send_deadline = 0
            failed |= answer_piece_end(&self.answer, &self.out)
        if failed:
            self.close_now()
            return
        self.poller.mark(self)

    cdef Py_ssize_t respond_through(self, Stream source, size_t size) noexcept:
        cdef Py_ssize_t n
        if self.fd < 0 or self.answer.chunking or self.tls is not None or unsent(self):
            return PASS_NOT
        n = pass_through(source, self, size)
        if n == PASS_LOST:
            self.close_now()                      # which tells the exchange
        elif n > 0:
            self.send_deadline = 0
            self.poller.mark(self)
        return n

    cdef void respond_upgrade(self, Scan *scan) noexcept:
        answer_upgrade(&self.answer, &self.out, scan)
        self.move(H1_RAW)
        self.poller.mark(self)                    # which also takes up what came early

    cdef void respond_trailers(self, Scan *scan) noexcept:
        if self.answer.chunking and append_trailers(&self.answer.trailers, scan) < 0:
            self.close_now()

    cdef void respond_end(self) noexcept:
        cdef Exchange exchange = self.exchange
        self.admission.busy -= exchange is not None
        self.exchange = None
        self.answer.head_request = False
        if self.fd < 0:
            return
        if self.answer.chunking:
            answer_last_chunk(&self.answer, &self.out)
        self.check_drain()
        if not self.answer.keep:
            self.move(H1_LAST)
        elif exchange is None or exchange.request_complete or not self.parser.reading_body:
            self.move(H1_IDLE)
        else:
            # Nobody takes the rest of the body; a close that was not announced could be taken for a lost request.
            self.move(H1_SKIP)
            self.reader.skip_left = exchange.route.max_body - min(exchange.bytes_in, exchange.route.max_body)
            self.begin_body_rate()
        self.poller.mark(self)                    # which also takes up the next request

    cdef void abort(self) noexcept:
        self.admission.busy -= self.exchange is not None
        self.exchange = None
        if self.fd < 0:
            return
        # What has come of the answer goes out before the end that shows it to be cut (`finish`).
        self.answer.keep = False
        self.closer.cut = True
        self.move(H1_LAST)
        self.cut_short()
        self.poller.mark(self)

    # The end of a batch: send, then go on with what waits.

    cdef void on_flush(self) noexcept:
        cdef int left = 0
        cdef size_t waiting = unsent(self)
        cdef Exchange exchange = self.exchange
        if self.fd < 0:
            return
        if waiting:
            # A reset would throw away what the kernel still holds back.
            left = self.push_last() if self.state >= H1_LAST and not self.closer.cut and self.over() else self.push()
            if left == IO_ERROR:
                self.close_now()
                return
            if not left or unsent(self) < waiting:
                self.send_deadline = 0
        if not left and exchange is not None:
            exchange.client_drained()             # no event will tell of what went out at once
            if self.fd < 0:
                return
        if self.state >= H1_LAST:
            if self.state == H1_LINGER:
                if self.reader.unread and not self.deferred:
                    self.read_loop()
            elif not left:
                self.finish()
        elif self.takes_input():
            if not self.deferred and tg_buffer_size(&self.reader.inbox) and (
                    self.state != H1_HEAD and self.state != H1_SNIFF):
                self.process(NULL, 0)
            if self.fd >= 0 and self.reader.unread and not self.deferred:
                self.read_loop()
        if self.closer.last_look and self.fd >= 0:
            self.closer.last_look = False
            if self.state == H1_SKIP:
                self.move(H1_LAST)
                self.poller.mark(self)
            elif (self.state == H1_IDLE or self.state == H1_NEW) and not unsent(self):
                self.close_now()
        self.go_on()

    # The end.

    cdef bint over(self) noexcept:
        """Whether the connection may be closed as soon as the last answer is with the kernel.

        A client that said `close` sends no more (RFC 9112 section 9.6). Some do, and unread bytes would make the
        close a reset, which takes the answer with it."""
        cdef Py_ssize_t n
        if self.reader.unread or self.reader.hangup:
            return not self.reader.unread
        if not self.closer.last_request or self.parser.reading_body or tg_buffer_size(&self.reader.inbox):
            return False
        if not self.closer.looked:
            n = self.receive(self.poller.scratch, self.poller.scratch_size)
            if n > 0:
                self.closer.last_request = False
                return False
            self.closer.looked = True
        return True

    cdef int push_last(self) noexcept:
        """As `push`, where the connection is `over`: the kernel waits with the last bytes for the close, and sends one
        segment with the FIN instead of two."""
        cdef ssize_t n
        cdef int left
        if self.tls is None:
            n = send(self.fd, tg_buffer_head(&self.out), tg_buffer_size(&self.out),
                     MSG_MORE | MSG_NOSIGNAL | MSG_DONTWAIT)
            if n > 0:
                tg_buffer_consume(&self.out, <size_t>n)
        left = self.push()                        # what is left, and what was wrong
        self.closer.looked = left == 0
        return left

    cdef void finish(self) noexcept:
        """The last answer is with the kernel. Closing with unread bytes, or before some come, would reset the
        connection and take the answer with it: shut our side, read theirs away."""
        if self.closer.cut and self.answer.until_close:
            self.reset_on_close()                 # its end is the connection's, so that must be no good one
            self.close_now()
            return
        if self.over():
            self.close_now()
            return
        self.move(H1_LINGER)
        self.reader.unread = True
        tg_buffer_free(&self.reader.inbox)
        self.shutdown_write()
        self.closer.linger_end = self.poller.now + LINGER_NS
        self.read_away()
        self.read_loop()

    cdef void read_away(self) noexcept:
        """More has come meanwhile, and is forgotten."""
        self.poller.arm(self, min(self.closer.linger_end, self.poller.now + LINGER_SILENCE_NS))

    cdef void close_now(self) noexcept:
        """The connection is over, and an exchange that is under way loses its client."""
        cdef Exchange exchange = self.exchange
        if self.fd < 0:
            return
        self.move(H1_CLOSED)
        self.exchange = None
        drop_own(self)
        self.poller.remove(self)
        (<set>self.listener.connections).discard(self)
        self.listener.closed_one(self.ip, self.ip_length)
        if exchange is not None:
            self.admission.busy -= 1
            exchange.client_gone()

    # Timeouts.

    cdef bint watch(self) noexcept:
        if self.state == H1_EXCHANGE and self.exchange.request_complete and not unsent(self):
            self.poller.arm(self, self.poller.now)    # most answers are there before on_timer looks after the client
            return False
        if self.poller.observe(self) == 0:
            return True
        self.close_now()
        return False

    cdef void set_timer(self) noexcept:
        if self.unwatched and not self.watch():
            return
        if self.state == H1_LINGER:
            return
        if self.tls is not None and self.tls.handshaking:
            self.poller.arm(self, self.tls.deadline)
            return
        if unsent(self):
            if self.send_deadline == 0:
                self.send_deadline = self.poller.now + self.listener.send_timeout
            self.poller.arm(self, self.send_deadline)
            return
        self.send_deadline = 0
        if self.state == H1_RAW or self.state == H1_EXCHANGE and (
                self.exchange.request_complete or not self.exchange.wants_body):
            self.poller.disarm(self)
        elif self.state == H1_EXCHANGE or self.state == H1_SKIP:
            self.poller.arm(self, min(self.poller.now + self.listener.body_timeout, self.reader.body_deadline))
        elif self.state == H1_HEAD or self.state == H1_SNIFF:
            self.poller.arm(self, self.reader.head_deadline)
        else:
            self.poller.arm(self, self.poller.now + self.listener.idle_timeout)

    cdef void on_timer(self) noexcept:
        cdef Exchange exchange = self.exchange
        if self.unwatched:
            if self.poller.observe(self) < 0:
                self.close_now()
            return
        if self.tls is not None and self.tls.handshaking:
            tg_add(&self.listener.series[LISTENER_TLS_HANDSHAKES_FAILED], 1)
        if unsent(self):
            self.close_now()
        elif exchange is not None:
            exchange.fail(FAIL_SLOW_BODY, "the request's body did not come in time")
        elif self.state == H1_HEAD or self.state == H1_SNIFF:
            tg_buffer_free(&self.reader.inbox)
            worker_scan().head = False            # what it holds is another's
            self.refuse(FAIL_SLOW_HEAD, b"the request did not come in time")
        else:
            self.close_now()

    # From Python.

    def close_if_idle(self):
        """Close unless an exchange or an answer is under way; a request that has come by now is still answered."""
        if self.exchange is None and not unsent(self) and self.fd >= 0:
            self.reader.unread = True
            self.closer.last_look = True
            self.poller.mark(self)

    def finishing(self):
        """Whether there is work left although no exchange is under way: an answer to send, or a last look."""
        return self.fd >= 0 and self.exchange is None and (unsent(self) > 0 or self.closer.last_look)

    def close(self):
        """Close at once; an exchange in progress is cancelled."""
        self.close_now()
