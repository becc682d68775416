"""A TCP session: bytes both ways between a client and an endpoint, with half-close and backpressure.

Small reads take one recv and one send through the worker's buffer; a read that fills the buffer switches that
direction to splice(2) until it runs dry. A slow receiver stops the reading from the other side: at most one buffer, or
one pipe, waits.
"""

from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset
from posix.unistd cimport close
from lb.failure cimport (
    FAIL_BROKEN_OFF, FAIL_CONNECT, FAIL_IDLE, FAIL_MARKED, FAIL_NONE, FAIL_NO_ENDPOINT, FAIL_NO_SOCKET,
    FAIL_PROXY_HEADER, FAIL_QUEUE_FULL, FAIL_QUEUE_LATE, FAIL_QUEUE_SHED, FAIL_QUEUE_TIMEOUT, FAIL_TLS,
    VERDICT_GATEWAY, VERDICT_GOOD, failure_of,
)
from lb.net.poller cimport NEVER, Poller, monotonic_ns
from lb.net.reading cimport drained
from lb.shared.counters cimport count_duration
from lb.shared.segment cimport tg_add
from lb.shared.segment_words cimport (
    ENDPOINT_RETRIES, LISTENER_RECEIVED_BYTES, LISTENER_REJECTED, LISTENER_RETRIES,
    LISTENER_SENT_BYTES, LISTENER_SESSION_DURATION, LISTENER_TLS_HANDSHAKES_FAILED,
)
from lb.net.source cimport SourceAddress
from lb.net.source_key cimport hash_source
from lb.net.splice cimport Pipe
from lb.net.stream cimport (
    EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP, IO_AGAIN, IO_ERROR, Address, Stream, iovec,
)
from lb.net.tls.session cimport TLS_ERROR, handshake_turn
from lb.net.tls.version cimport tls_version
from lb.endpoints.choice cimport Choice
from lb.proxy.accept.proxy_header_writer cimport write_proxy_header
from lb.proxy.accept.listener cimport Listener
from lb.proxy.accept.first_bytes cimport FirstBytes
from lb.proxy.routing.split cimport pool_for
from lb.telemetry.accesslog cimport (
    A_CLIENT, A_ENDPOINT, A_HOST, A_LISTENER, A_METHOD, A_POOL, A_REASON, set_object, set_text, tg_access, wall_ns,
)
from lb.upstream.attempt cimport (
    A_CONNECTING, A_OVER, A_SENDING, SESSION_ENDED, Attempt, release, step, take_slot, tg_outcome,
)
from lb.upstream.connect_failure cimport failed_connect
from lb.upstream.pool cimport KEY_NONE, Pool
from lb.upstream.queue cimport NORMAL, Q_FULL, Q_HOPELESS, Q_NO_START, Q_NOBODY, Waiter, stand_in_line
from lb.upstream.tally cimport count_failure
from lb.upstream.excluded cimport acquire_past, forget_excluded


cdef enum:
    SMALL = 64 * 1024                 # of the worker's buffer: what one recv takes
    SPLICE_SIZE = 512 * 1024
    TURNS = 16                        # reads before others get theirs
    TURN_BYTES = 2 * 1024 * 1024      # and bytes
    # After which an endpoint's connection gets its keepalive: five system calls that a short session has no use for.
    # No probe is due within the first second (TCP_KEEPIDLE counts whole ones).
    KEEPALIVE_NS = 1_000_000_000
    DELIVERY_STEP = 20 * 1000 * 1000  # ns between looks at what a receiver has acknowledged


cdef uint64_t DELIVERY_SILENCE = 30 * 1000 * 1000 * 1000   # ns in which it acknowledges nothing


cdef class Side(Stream):

    cdef void on_ready(self, uint32_t events) noexcept:
        cdef Tunnel tunnel = self.tunnel
        cdef int rc
        if tunnel is None:
            return
        if events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR):
            self.hangup = True
        if self.connecting:
            if self.tls is None and events & EPOLLOUT and not events & (EPOLLERR | EPOLLHUP):
                self.connecting = False           # an error would show (tcp_poll of the kernel): nobody needs to ask
                rc = 0
            else:
                rc = self.finish_connect()
            if rc == IO_ERROR:
                tunnel.connect_failed(FAIL_CONNECT)
            elif rc == 0:
                tunnel.connected()
                if not tunnel.over and (self.tls is not None
                                        or events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)):
                    tunnel.relay(self)
            return
        if self.tls is not None and self.tls.handshaking:
            self.take_handshake()
            return
        if self.tls is not None and events & EPOLLOUT and self.pending() and not self.flush_tls():
            return
        if tunnel.endpoint is None or tunnel.endpoint.connecting:
            if events & (EPOLLHUP | EPOLLERR):
                tunnel.finish(True)               # the client left before there was anyone to talk to
            return
        if self.other is not None and self.other.truncated and events & (EPOLLHUP | EPOLLERR):
            tunnel.finish(False)              # nobody is left who could take the rest
            return
        # Edge-triggered epoll tells of room with every event: only who waits for it is served.
        if events & EPOLLOUT and self.other is not None and self.other.blocked:
            tunnel.relay(self.other)
            if tunnel.over:
                return
        if events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR):
            tunnel.relay(self)

    cdef void on_flush(self) noexcept:
        cdef Tunnel tunnel = self.tunnel      # what ends the session drops `self.tunnel`, perhaps the last reference
        if tunnel is None or tunnel.over:
            return
        if self.tls is not None and self.tls.handshaking and not self.connecting:
            self.take_handshake()
        elif self.other is not None:
            tunnel.relay(self)

    cdef void take_handshake(self) noexcept:
        """A step of the client's TLS handshake; the session begins behind the last one."""
        cdef Tunnel tunnel = self.tunnel
        cdef int rc
        if not handshake_turn(self.poller.now):
            self.poller.defer(self)
            return
        rc = self.tls.handshake()
        if rc == 0:
            self.poller.disarm(self)          # the time was for the handshake: a queue has its own
            tunnel.connect()
        elif rc == TLS_ERROR:
            tunnel.failure = FAIL_TLS
            tunnel.finish(False)

    cdef bint flush_tls(self) noexcept:
        """Sends on what was encrypted already, which nobody else may be waiting for. False: the session is over."""
        cdef Tunnel tunnel = self.tunnel
        cdef int left = self.push()
        if left == IO_ERROR:
            tunnel.finish(False)
            return False
        if left == 0 and self.ended and self.other is not None and self.other.ended and not self.other.pending():
            if not (self.truncated or self.other.truncated):
                tunnel.finish(True)
                return False
        return True

    cdef void on_timer(self) noexcept:
        cdef Tunnel tunnel = self.tunnel
        if tunnel is None:
            return
        if self.connecting:
            tunnel.connect_failed(FAIL_CONNECT)
        elif tunnel.delivering_since and self.other.truncated:
            tunnel.deliver(self)
        elif self is tunnel.endpoint:
            (<Address>tunnel.attempt.pool.channels[tunnel.attempt.endpoint]).keep_alive(self.fd)
        elif self.tls is not None and self.tls.handshaking:
            tg_add(&tunnel.listener.series[LISTENER_TLS_HANDSHAKES_FAILED], 1)
            tunnel.failure = FAIL_TLS
            tunnel.finish(False)
        else:
            # A plain close behind bytes that a receiver did not take would say that those before them were all.
            tunnel.failure = FAIL_IDLE
            tunnel.finish(not (tunnel.client.blocked or tunnel.endpoint.blocked))


cdef class Tunnel(Waiter):
    """A session; kept alive by its listener's set of connections until it is over."""

    def __dealloc__(self):
        free(self.excluded)

    cdef void connect(self) noexcept:
        """Choose an endpoint and connect; wait for one when none has room."""
        cdef uint64_t now = monotonic_ns()
        cdef int found
        if self.pool.newer is not None:
            self.follow()
        found = self.take_endpoint_now(now)
        if found < 0:
            found = stand_in_line(self.pool.queue, self, found, NORMAL, NEVER, self.last >= 0, now)
        if found >= 0:
            self.open(found)

    cdef int take_endpoint_now(self, uint64_t now) noexcept:
        return acquire_past(self.pool, self.pool.new_choice(now, self.key), self.last, &self.excluded)

    cdef int take_endpoint(self, uint64_t now, uint64_t blocked) noexcept:
        cdef Choice choice = self.pool.new_choice(now, self.key)
        choice.turn = True
        choice.block(blocked)
        return acquire_past(self.pool, choice, self.last, &self.excluded)

    cdef void queued(self, uint64_t until) noexcept:
        self.home.poller.arm(self, until)

    cdef void admitted(self, int endpoint) noexcept:
        self.home.poller.disarm(self)
        self.open(endpoint)

    cdef void turned_away(self, int why) noexcept:
        if why in (Q_NOBODY, Q_NO_START):
            self.refuse(FAIL_NO_ENDPOINT)
        elif why == Q_FULL:
            self.refuse(FAIL_QUEUE_FULL)
        else:
            self.refuse(FAIL_QUEUE_LATE if why == Q_HOPELESS else FAIL_QUEUE_SHED)

    cdef void settle(self) noexcept:
        self.last = -1
        forget_excluded(self.excluded)

    cdef void move_to(self, object pool) noexcept:
        if (<Pool>pool).protocol == self.pool.protocol:
            self.pool = pool
            self.settle()                     # they are indexes of the old one

    cdef void follow(self) noexcept:
        """A reload has changed the pool since the session came."""
        cdef Pool pool = self.pool, newest = pool.newer
        cdef int failed = self.last
        self.move_to(newest)
        if failed >= 0 and self.pool is newest:
            self.last = newest.index_at(<str>pool.endpoints.addresses[failed])

    cdef void on_timer(self) noexcept:
        if self.queue is not None:
            self.queue.leave(self, True)
            self.refuse(FAIL_QUEUE_TIMEOUT)

    cdef void refuse(self, int kind) noexcept:
        tg_add(&self.listener.series[LISTENER_REJECTED], 1)
        self.failure = kind
        self.finish(False)

    cdef void open(self, int index) noexcept:
        """Connect to an endpoint; to the next one when that fails at once."""
        cdef Side side
        cdef Address address
        self.attempt.owner = self
        take_slot(self.attempt, self.pool, index, 0, monotonic_ns())
        self.last = index
        if self.attempts:
            tg_add(&self.pool.series[index][ENDPOINT_RETRIES], 1)
        self.attempts += 1
        side = Side.__new__(Side)
        side.tunnel = self
        side.poller = self.home.poller
        side.other = self.client
        self.client.other = side
        self.endpoint = side
        try:
            address = address_for(self, index)
        except MemoryError:
            self.connect_failed(FAIL_NO_SOCKET)
            return
        if side.start_connect(address, not keepalive_waits(address)) == IO_ERROR:
            self.connect_failed(failed_connect(address.text, side.error, side.poller.now))
            return
        if side.connecting:
            step(self.attempt, A_CONNECTING)
            side.poller.arm(side, side.poller.now + self.pool.connect_timeout)
        else:
            self.connected()

    cdef bint give_up_attempt(self, int kind) noexcept:
        """The connect failed. True: there may be an attempt at another endpoint (nothing was sent: always safe)."""
        count_failure(self.pool.series[self.attempt.endpoint], kind)
        if kind != FAIL_NO_SOCKET:
            self.observe_connect(False)
        self.let_go(False)
        if self.retries_left <= 0:
            self.failure = kind
            self.finish(False)
            return False
        self.retries_left -= 1
        tg_add(&self.listener.series[LISTENER_RETRIES], 1)
        return True

    cdef void connect_failed(self, int kind) noexcept:
        cdef Side side = self.endpoint
        side.tunnel = None
        side.other = None
        side.poller.remove(side)
        self.client.other = None              # what the client sends stays unread until there is somebody
        self.endpoint = None
        if self.give_up_attempt(kind):
            self.connect()

    cdef void observe_connect(self, bint ok) noexcept:
        """All that a policy learns from a session: how long it lasts is not the endpoint's doing."""
        cdef Attempt attempt = self.attempt
        cdef uint64_t now = monotonic_ns()
        self.pool.judge(attempt.endpoint, VERDICT_GOOD if ok else VERDICT_GATEWAY, attempt.picked_at, now)
        self.pool.observe(attempt.endpoint, now, max(now - attempt.picked_at, <uint64_t>1), ok, 0,
                          self.pool.endpoints.one)

    cdef void connected(self) noexcept:
        if keepalive_waits(<Address>self.attempt.pool.channels[self.attempt.endpoint]):
            self.endpoint.poller.arm(self.endpoint, self.endpoint.poller.now + KEEPALIVE_NS)
        else:
            self.endpoint.poller.disarm(self.endpoint)
        step(self.attempt, A_SENDING)
        self.observe_connect(True)
        if self.pool.send_proxy:
            if write_proxy_header(&self.endpoint.out, self.pool, self.client, self.first_bytes) < 0:
                self.failure = FAIL_PROXY_HEADER
                self.finish(False)
                return
            if self.endpoint.push() == IO_ERROR:
                self.finish(False)
                return
        self.touch()
        self.relay(self.client)                   # what the client has sent meanwhile

    cdef void touch(self) noexcept:
        cdef uint64_t silence = self.listener.idle_timeout
        if self.listener.half_close_timeout and (self.client.ended or self.endpoint.ended):
            silence = self.listener.half_close_timeout
        if silence:
            self.client.poller.arm(self.client, self.client.poller.now + silence)

    cdef int pass_on(self, Side source) noexcept:
        """What was read and not taken yet goes first: 0 all gone, 1 the receiver is full, IO_ERROR."""
        cdef Side target = source.other
        cdef Py_ssize_t n
        cdef int left
        if target.pending():
            left = target.push()
            if left:
                return left
        while source.pipe is not None and source.pipe.held:
            n = source.pipe.drain(target.fd)
            if n == IO_AGAIN:
                return 1
            if n <= 0:
                return IO_ERROR
        return 0

    cdef void relay(self, Side source) noexcept:
        """Move bytes from `source` to the other side until one of them has enough."""
        cdef Side target = source.other
        cdef Py_ssize_t n, moved = 0
        cdef iovec part
        cdef int left, _turn
        if source.deferred:
            return                                # the others have their turn
        if target.truncated:
            self.discard(source)
            return
        for _turn in range(TURNS):
            left = self.pass_on(source)
            if left == IO_ERROR:
                self.finish(False)
                return
            source.blocked = left > 0
            if left:
                break
            if source.truncated:
                self.deliver(target)
                return
            if source.ended:
                if target.tls is not None or not target.ended or target.pending():
                    target.shutdown_write()       # else the close says it
                if target.ended and not target.pending():
                    self.finish(True)
                else:
                    self.touch()
                return
            if source.bulk:
                n = source.pipe.fill(source.fd, SPLICE_SIZE)
            else:
                n = source.receive(source.poller.scratch, SMALL)
            if n == IO_ERROR and source.tls is not None and source.tls.eof:
                source.ended = source.truncated = True
                continue                          # what came before is delivered
            if n == IO_ERROR:
                self.finish(False)
                return
            if n == IO_AGAIN:
                if source.bulk:
                    self.leave_bulk(source)
                elif not drained(source):
                    source.poller.defer(source)
                break
            if n == 0:
                if source.bulk:
                    self.leave_bulk(source)
                source.ended = True
                continue                          # half-close: passed on once all before it is
            source.bytes_read += <uint64_t>n
            moved += n
            if not source.bulk:
                part.iov_base = source.poller.scratch
                part.iov_len = <size_t>n
                left = target.push_parts(&part, 1)
                if left == IO_ERROR:
                    self.finish(False)
                    return
                source.blocked = left > 0
                if n == SMALL:
                    # The kernel can move what it need not encrypt.
                    if source.tls is None and target.tls is None:
                        source.pipe = self.home.take_pipe()
                    source.bulk = source.pipe is not None
                elif not source.hangup and drained(source):
                    break                         # the edge will tell
            if moved >= TURN_BYTES:
                source.poller.defer(source)
                break
        else:
            source.poller.defer(source)           # more, after the others had their turn
        self.touch()

    cdef void deliver(self, Side target) noexcept:
        """The other side's TLS ended without close_notify, and the kernel has all that came before for `target`. The
        reset that tells of the end would throw away what is still in that queue: it waits until the queue is empty, as
        long as something of it is taken."""
        cdef size_t left = target.unacknowledged()
        cdef uint64_t now = monotonic_ns()
        if self.delivering_since == 0 or left != self.undelivered:
            self.undelivered = left
            self.delivering_since = now
        if left == 0 or now - self.delivering_since >= DELIVERY_SILENCE:
            self.finish(False)
        else:
            target.poller.arm(target, now + DELIVERY_STEP)

    cdef void discard(self, Side source) noexcept:
        """Reads what nobody is left to take, so that `source` goes on to take what is delivered to it."""
        cdef Py_ssize_t n = 0
        cdef int _turn
        for _turn in range(TURNS):
            n = source.receive(source.poller.scratch, SMALL)
            if n <= 0:
                break
        if n > 0:
            source.poller.defer(source)
        elif n == IO_ERROR:
            self.finish(False)
        elif n == IO_AGAIN and not drained(source):
            source.poller.defer(source)

    cdef void leave_bulk(self, Side source) noexcept:
        """The pipe is empty, or its session over: idle sessions hold none."""
        source.bulk = False
        self.home.give_pipe(source.pipe)
        source.pipe = None

    cdef void let_go(self, bint ok) noexcept:
        cdef tg_outcome outcome
        if self.attempt.state == A_OVER:
            return
        memset(&outcome, 0, sizeof(outcome))
        outcome.how = SESSION_ENDED
        outcome.ok = ok
        if self.endpoint is not None:
            outcome.bytes_in = self.endpoint.bytes_read
            outcome.bytes_out = self.client.bytes_read
        release(self.attempt, &outcome, self.client.poller.now)
        self.attempt.owner = None

    cdef void finish(self, bint ok) noexcept:
        """Close both sides; give everything back."""
        if self.over:
            return
        self.over = True
        if not ok:
            if not self.failure:
                self.failure = FAIL_BROKEN_OFF
            # The other side can tell that something is missing, if anything can be yet: by a reset, as a plain close
            # is how a complete stream ends, and with TLS by an end that is not announced.
            if self.attempt.state != A_OVER and self.endpoint is not None and not self.endpoint.connecting:
                self.client.reset_on_close()
                self.endpoint.reset_on_close()
            else:
                self.client.cut_short()
        if self.queue is not None:
            self.queue.leave(self, False)
        self.let_go(ok)
        record_session(self)
        if self.endpoint is not None:
            self.leave_bulk(self.endpoint)
            self.endpoint.tunnel = None
            self.endpoint.other = None
            self.endpoint.poller.remove(self.endpoint)
        self.leave_bulk(self.client)
        self.client.tunnel = None
        self.client.other = None
        self.client.poller.remove(self.client)
        self.home.busy -= 1
        (<set>self.listener.connections).discard(self)
        self.listener.closed_one(self.ip, <size_t>self.ip_length)

    cdef void endpoint_marked(self, object attempt) noexcept:
        if self.endpoint is not None and self.endpoint.connecting:
            self.connect_failed(FAIL_CONNECT)     # nothing was sent: another will do
            return
        self.failure = FAIL_MARKED
        self.finish(False)

    # From Python.

    def close_if_idle(self):
        """A session is never idle for the purposes of a drain: it ends when its parties are done."""

    def finishing(self):
        """A session that is not over is counted as busy."""
        return False

    def close(self):
        self.finish(False)


cdef enum:
    SPARE_PIPES = 32                  # kept open in a worker: making one takes two system calls


cdef class TunnelAcceptor(Acceptor):
    """Makes sessions."""

    def __init__(self, Poller poller not None):
        self.poller = poller
        self.pipes = []

    cdef Pipe take_pipe(self):
        """An empty pipe, or None when the process is out of descriptors."""
        cdef Pipe pipe
        if self.pipes:
            return <Pipe>self.pipes.pop()
        pipe = Pipe.__new__(Pipe)
        return pipe if pipe.open() else None

    cdef void give_pipe(self, Pipe pipe) noexcept:
        if pipe is not None and pipe.held == 0 and len(self.pipes) < SPARE_PIPES:
            self.pipes.append(pipe)               # else it closes with its last reference

    cdef void accepted(self, Listener listener, int fd, const char *ip, int ip_length, int port, bint unix) noexcept:
        cdef Tunnel tunnel = Tunnel.__new__(Tunnel)
        cdef Side side = Side.__new__(Side)
        cdef FirstBytes first_bytes = <FirstBytes>listener.first_bytes
        tunnel.home = self
        tunnel.listener = listener
        tunnel.first_bytes = first_bytes
        if first_bytes is not None and first_bytes.pool is not None:
            tunnel.pool = first_bytes.pool  # by the ClientHello
        else:
            tunnel.pool = pool_for(listener.table, ip, <size_t>ip_length)
        tunnel.client = side
        tunnel.attempt = Attempt.__new__(Attempt)
        tunnel.last = -1
        tunnel.retries_left = tunnel.pool.retries
        tunnel.failure = FAIL_NONE
        tunnel.started = monotonic_ns()
        memcpy(tunnel.ip, ip, <size_t>ip_length)
        tunnel.ip_length = ip_length
        tunnel.port = port
        side.tunnel = tunnel
        side.poller = self.poller
        self.busy += 1
        (<set>listener.connections).add(tunnel)
        if tunnel.pool.key_kind != KEY_NONE:
            tunnel.key = hash_source(ip, <size_t>ip_length, &tunnel.pool.prefixes)
        if listener.tls is not None and (first_bytes is None or first_bytes.pool is None or first_bytes.terminate):
            try:
                side.tls = listener.new_tls()
            except MemoryError:
                close(fd)
                tunnel.finish(False)
                return
        if side.register(fd) == IO_ERROR:
            tunnel.finish(False)
            return
        if side.tls is None:
            tunnel.connect()
        else:
            # The endpoint hears of a client when the handshake is over, and its certificate was good.
            self.poller.arm(side, side.tls.deadline)

    def in_flight(self):
        return self.busy


cdef Address address_for(Tunnel tunnel, int index):
    """The endpoint's address, with the client's own where its connections are to come from that. Raises MemoryError."""
    cdef Address address = <Address>tunnel.pool.channels[index]
    cdef SourceAddress found = None
    if isinstance(address, SourceAddress) and (<SourceAddress>address).client:
        found = (<SourceAddress>address).of(tunnel.ip, <size_t>tunnel.ip_length)
    return found if found is not None else address


cdef bint keepalive_waits(Address address) noexcept:
    """Whether the keepalive of a connection to it may wait. A user timeout may not: it counts from the first byte."""
    return address.keepalive.on and not address.keepalive.user_timeout_ms


cdef void record_session(Tunnel tunnel) noexcept:
    cdef uint64_t *words = tunnel.listener.series
    cdef uint64_t took = monotonic_ns() - tunnel.started
    count_duration(&words[LISTENER_SESSION_DURATION], took)
    tg_add(&words[LISTENER_RECEIVED_BYTES], tunnel.client.bytes_read)
    if tunnel.endpoint is not None:
        tg_add(&words[LISTENER_SENT_BYTES], tunnel.endpoint.bytes_read)
    if tunnel.listener.access.enabled:
        log_access(tunnel, took)


cdef void log_access(Tunnel tunnel, uint64_t took) noexcept:
    cdef tg_access *record = tunnel.listener.access.begin()
    if record == NULL:
        return
    record.wall_ns = wall_ns() - <int64_t>took
    record.total_ns = took
    record.wait_ns = min(tunnel.attempt.picked_at - tunnel.started, took) if tunnel.attempt.picked_at else took
    record.transfer_ns = took - record.wait_ns
    record.attempts = <uint16_t>tunnel.attempts
    record.port = <uint16_t>tunnel.port
    if tunnel.client.tls is not None:
        record.tls = <uint16_t>tls_version(tunnel.client.tls)
    record.bytes_in = tunnel.client.bytes_read
    if tunnel.endpoint is not None:
        record.bytes_out = tunnel.endpoint.bytes_read
    set_text(record, A_CLIENT, tunnel.ip, <size_t>tunnel.ip_length)
    if tunnel.listener.reads_hello:
        set_text(record, A_METHOD, b"TLS", 3)
    else:
        set_text(record, A_METHOD, b"TCP", 3)
    if tunnel.first_bytes is not None:
        set_text(record, A_HOST, tunnel.first_bytes.sni, tunnel.first_bytes.sni_length)
    set_object(record, A_LISTENER, tunnel.listener.name)
    set_object(record, A_POOL, tunnel.pool.name)
    if tunnel.last >= 0:
        set_object(record, A_ENDPOINT, tunnel.pool.endpoints.addresses[tunnel.last])
    if tunnel.failure:
        set_text(record, A_REASON, failure_of(tunnel.failure).reason, <size_t>failure_of(tunnel.failure).reason_length)
    tunnel.listener.access.commit()
