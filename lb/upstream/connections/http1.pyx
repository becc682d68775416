"""HTTP/1.1 to an endpoint: see http1.pxd for the contract."""

from libc.stdint cimport uint32_t, uint64_t
from lb.failure cimport FAIL_CONNECT, FAIL_NONE, FAIL_PROTOCOL, FAIL_REFUSED, FAIL_RESET
from lb.net.buffer cimport (
    tg_buffer_append, tg_buffer_consume, tg_buffer_free, tg_buffer_head, tg_buffer_size,
)
from lb.http.head cimport MAX_FIELDS, Scan, worker_scan
from lb.http.http1 cimport new_response_parser
from lb.net.poller cimport READ_TURNS, Poller
from lb.net.stack cimport Stack
from lb.net.reading cimport drained
from lb.net.splice cimport PASS_FROM, PASS_LOST, PASS_MUCH, PASS_NOT, PASS_REST
from lb.net.states cimport states_of, tg_move, tg_state, tg_states
from lb.net.stream cimport (
    EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP, IO_AGAIN, IO_ERROR, Address, Stream, iovec,
)
from lb.upstream.connect_failure cimport failed_connect

cdef enum:
    # Heads, and pieces of bodies of up to MAX_SPANS chunks each, before the others get their turn.
    TURN_STEPS = 64
    INTERIMS_MOST = 100               # interim answers to one request (RFC 9110 section 15.2)


# Which state may follow which.
cdef tg_states TABLE
TABLE.machine = b"HTTP/1.1 connection of an endpoint"
tg_state(&TABLE, b"connecting", 1 << UPSTREAM_BUSY | 1 << UPSTREAM_CLOSED)
tg_state(&TABLE, b"busy", 1 << UPSTREAM_IDLE | 1 << UPSTREAM_RAW | 1 << UPSTREAM_CLOSED)
tg_state(&TABLE, b"idle", 1 << UPSTREAM_BUSY | 1 << UPSTREAM_CLOSED)
tg_state(&TABLE, b"raw", 1 << UPSTREAM_CLOSED)
tg_state(&TABLE, b"closed", 0)
STATES = states_of(&TABLE)


cdef class Http1Call(Attempt):

    cdef void on_connecting(self, Http1Upstream upstream) noexcept:
        pass

    cdef void on_connected(self, Http1Upstream upstream) noexcept:
        pass

    cdef void on_answer(self, Http1Upstream upstream, Scan *scan) noexcept:
        pass

    cdef Py_ssize_t pass_answer(self, Http1Upstream upstream, size_t size) noexcept:
        return PASS_NOT

    cdef void on_raw(self, Http1Upstream upstream, const char *data, size_t n) noexcept:
        pass

    cdef void on_raw_end(self, Http1Upstream upstream) noexcept:
        pass

    cdef void on_batch_end(self, Http1Upstream upstream) noexcept:
        pass

    cdef void on_drained(self, Http1Upstream upstream) noexcept:
        pass

    cdef void on_broken(self, Http1Upstream upstream, int kind) noexcept:
        pass


cdef class Http1Upstream(Stream):

    def __dealloc__(self):
        tg_buffer_free(&self.inbox)

    cdef void move(self, int state) noexcept:
        tg_move(&TABLE, &self.state, state)

    cdef void serve(self, Http1Call call) noexcept:
        self.move(UPSTREAM_BUSY)
        self.call = call
        self.asked = 0
        self.interims = 0
        self.poller.disarm(self)

    cdef void rest(self) noexcept:
        self.move(UPSTREAM_IDLE)
        self.call = None
        self.used = True
        self.paused = False

    cdef void become_raw(self) noexcept:
        self.move(UPSTREAM_RAW)

    cdef void on_ready(self, uint32_t events) noexcept:
        cdef Http1Call call = self.call       # it may let go of this connection, which drops ours
        cdef int rc
        if self.connecting:
            rc = self.finish_connect()
            if rc == IO_ERROR:
                self.broken(FAIL_CONNECT)
            if rc:
                return
            self.poller.disarm(self)
            self.move(UPSTREAM_BUSY)
            call.on_connected(self)
            if self.fd < 0:
                return
        elif events & EPOLLOUT and self.pending() and not self.deaf:
            if self.push() == IO_ERROR:
                self.write_failed()
            elif self.pending() == 0 and call is not None:
                call.on_drained(self)
                if self.fd < 0:
                    return
        if events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR):
            self.hangup = True            # its edge does not come again: read up to the end
        if events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR):
            if self.paused:
                self.unread = True
            else:
                self.read_loop()

    cdef void on_flush(self) noexcept:
        cdef Http1Call call = self.call
        if self.fd < 0:
            return
        if call is not None and not self.connecting and not self.deaf:
            call.on_batch_end(self)
        if self.pending() and not self.connecting and not self.deaf:
            if self.push() == IO_ERROR:
                self.write_failed()
            elif self.pending() == 0 and call is not None:
                call.on_drained(self)     # the edge that comes for this room finds nothing left to send
                if self.fd < 0:
                    return
        if self.unread and not self.paused and not self.deferred:
            self.unread = False
            self.read_loop()

    cdef void read_loop(self) noexcept:
        cdef Py_ssize_t n
        cdef size_t room = self.poller.scratch_size
        cdef int turn = 0
        if self.deferred:
            self.unread = True                    # the others have their turn
            return
        if tg_buffer_size(&self.inbox) and self.call is not None and self.consume(NULL, 0) < 0:
            return
        while self.fd >= 0 and not self.paused:
            if turn == READ_TURNS:
                self.unread = True
                self.poller.defer(self)
                return
            turn += 1
            n = self.pass_on() if self.bulk else PASS_NOT
            if n > 0 or n == PASS_LOST:
                continue
            if n == PASS_NOT:
                n = self.receive(self.poller.scratch, room)
                self.bulk = n >= PASS_MUCH
            if n == IO_AGAIN:
                if not drained(self):
                    self.unread = True
                    self.poller.defer(self)
                return
            if n == IO_ERROR:
                self.broken(self.how_lost(False))
                return
            if n == 0:
                self.ended()
                return
            if self.call is None:
                # Bytes that nobody asked for: an answer out of turn (RFC 9112 section 9.2), not to be given to anyone.
                self.pool.drop(self)
                return
            if self.consume(self.poller.scratch, <size_t>n) < 0:
                return
            if <size_t>n < room and not self.hangup and drained(self):
                return      # drained; the edge will tell when there is more, or the end
        if self.paused:
            self.unread = True

    cdef Py_ssize_t pass_on(self) noexcept:
        """A part of a long body, if nobody here has to see it: see `pass_answer`."""
        cdef Http1Call call = self.call
        cdef Py_ssize_t n
        if call is None or self.tls is not None or not self.parser.has_length() or (
                self.parser.http.content_length < PASS_FROM):
            return PASS_NOT
        n = call.pass_answer(self, <size_t>self.parser.http.content_length - PASS_REST)
        if n > 0:
            self.parser.http.content_length -= <uint64_t>n
            self.bulk = n >= PASS_MUCH
        return n

    cdef int consume(self, const char *data, size_t n) noexcept:
        """0, or -1 when the connection is gone or idle again, or has had its turn."""
        cdef Scan *scan = worker_scan()
        cdef Py_ssize_t taken
        cdef bint stored = False, complete
        cdef int steps = 0
        cdef Http1Call call
        if tg_buffer_size(&self.inbox):
            if n and tg_buffer_append(&self.inbox, data, n) < 0:
                self.broken(FAIL_PROTOCOL)
                return -1
            data = tg_buffer_head(&self.inbox)
            n = tg_buffer_size(&self.inbox)
            stored = True
        while n:
            call = self.call
            if call is None:
                self.pool.drop(self)      # bytes behind the end of the answer
                return -1
            if self.state == UPSTREAM_RAW:
                call.on_raw(self, data, n)
                if self.fd < 0:
                    return -1
                break
            if steps == TURN_STEPS:
                if not stored and tg_buffer_append(&self.inbox, data, n) < 0:
                    self.broken(FAIL_PROTOCOL)
                elif stored:
                    tg_buffer_consume(&self.inbox, tg_buffer_size(&self.inbox) - n)
                if self.fd >= 0:
                    self.unread = True
                    self.poller.defer(self)       # on_flush goes on
                return -1
            steps += 1
            scan.max_fields = MAX_FIELDS - 1      # the scan is shared with the clients, whose listeners set theirs
            taken = self.parser.execute(scan, data, n)
            if taken < 0:
                self.broken(FAIL_PROTOCOL)
                return -1
            if taken == 0 and not scan.head:
                if n > <size_t>self.pool.max_head or (not stored and tg_buffer_append(&self.inbox, data, n) < 0):
                    self.broken(FAIL_PROTOCOL)
                    return -1
                if stored:                        # an interim answer came before it
                    tg_buffer_consume(&self.inbox, tg_buffer_size(&self.inbox) - n)
                return 0
            data += taken
            n -= <size_t>taken
            complete = scan.complete
            if scan.head and scan.status < 200:
                self.interims += 1
                if self.interims > INTERIMS_MOST:
                    self.broken(FAIL_PROTOCOL)
                    return -1
            call.on_answer(self, scan)
            if self.fd < 0:
                return -1
            if complete and self.state != UPSTREAM_RAW:
                self.parser.reset()
        if stored:
            tg_buffer_free(&self.inbox)
        return 0

    cdef void ended(self) noexcept:
        """The endpoint closed its side."""
        cdef Scan *scan = worker_scan()
        cdef Http1Call call = self.call
        if call is None:
            self.pool.drop(self)
            return
        if self.state == UPSTREAM_RAW:
            call.on_raw_end(self)
            return
        if self.parser.finish(scan) < 0 or not scan.complete:
            self.broken(self.how_lost(True))
            return
        call.on_answer(self, scan)        # an answer that its close delimits
        if self.fd >= 0:
            self.pool.drop(self)

    cdef int ask(self, const iovec *part) noexcept:
        cdef int rc = self.push_parts(part, 1)
        if rc != IO_ERROR:
            self.asked += part.iov_len
        return rc

    cdef int how_lost(self, bint ended) noexcept:
        """An endpoint that closes an idle connection just as a request is sent does not read that any more. Its FIN
        acknowledges what it had got until then; behind a reset nobody knows."""
        cdef size_t waiting = self.pending()
        if self.asked <= waiting or (ended and self.unacknowledged() >= self.asked - waiting):
            return FAIL_REFUSED
        return FAIL_RESET

    cdef void broken(self, int kind) noexcept:
        cdef Http1Call call = self.call
        self.pool.drop(self)
        if call is not None:
            call.on_broken(self, kind)

    cdef void write_failed(self) noexcept:
        self.deaf = True
        self.asked -= min(self.asked, tg_buffer_size(&self.out))
        tg_buffer_free(&self.out)
        self.unread = True
        self.poller.defer(self)           # on_flush reads

    cdef void on_timer(self) noexcept:
        if self.connecting:
            self.broken(FAIL_CONNECT)
        elif self.call is None:
            self.pool.drop(self)

    cdef void pause(self) noexcept:
        self.paused = True

    cdef void resume(self) noexcept:
        if not self.paused:
            return
        self.paused = False
        if self.unread and self.fd >= 0:
            self.poller.defer(self)       # on_flush reads


cdef class Http1Pool:
    """Connections to `address`. Timeouts in nanoseconds; `max_idle` connections are kept; an answer's head is at most
    `max_head` bytes."""

    def __init__(self, Poller poller, Address address, uint64_t connect_timeout, uint64_t idle_timeout,
                 Py_ssize_t max_idle, Py_ssize_t max_head=65536):
        self.poller = poller
        self.address = address
        self.idle = Stack()
        self.connect_timeout = connect_timeout
        self.idle_timeout = idle_timeout
        self.max_idle = max_idle
        self.max_head = max_head

    cdef int take(self, Http1Call call, bint fresh, bint sure=False) noexcept:
        cdef Http1Upstream upstream
        while not fresh and self.idle.count:
            upstream = <Http1Upstream>self.idle.pop()
            if sure and not upstream.silent():
                self.drop(upstream)
                continue
            upstream.serve(call)
            call.on_connected(upstream)
            return FAIL_NONE
        upstream = Http1Upstream.__new__(Http1Upstream)
        upstream.poller = self.poller
        upstream.pool = self
        upstream.parser = new_response_parser()
        upstream.call = call
        if upstream.start_connect(self.address, True) == IO_ERROR:
            upstream.call = None
            return failed_connect(self.address.text, upstream.error, self.poller.now)
        self.open += 1
        if upstream.connecting:
            self.poller.arm(upstream, self.poller.now + self.connect_timeout)
            call.on_connecting(upstream)
        else:
            upstream.move(UPSTREAM_BUSY)
            call.on_connected(upstream)
        return FAIL_NONE

    cdef void give(self, Http1Upstream upstream) noexcept:
        # Whatever the kernel still holds is an answer to nobody, or the end that no further event will tell of.
        if (self.closed or upstream.fd < 0 or upstream.pending() or upstream.hangup or upstream.unread or upstream.deaf
                or self.idle.count >= self.max_idle):
            self.drop(upstream)
            return
        upstream.rest()
        self.idle.push(upstream)
        if self.idle_timeout:
            self.poller.arm(upstream, self.poller.now + self.idle_timeout)

    cdef void drop(self, Http1Upstream upstream) noexcept:
        if upstream.fd < 0:
            return
        if upstream.state == UPSTREAM_IDLE:
            self.idle.remove(upstream)
        upstream.move(UPSTREAM_CLOSED)
        upstream.call = None
        upstream.paused = False
        self.poller.remove(upstream)
        self.open -= 1

    def close(self):
        """Drop the idle connections; those in use close when their exchange is over."""
        self.closed = True
        while self.idle.count:
            self.drop(<Http1Upstream>self.idle.pop())

    def stats(self):
        """Open and idle connections."""
        return {"open": self.open, "idle": self.idle.count}
