"""HTTP/2 upstream, the channel: see http2.pxd for the contract."""

import logging

from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport uint64_t
from libc.string cimport strerror
from lb.failure cimport FAIL_CONNECT, FAIL_NO_SOCKET, FAIL_RESET, FAIL_TIMEOUT
from lb.http.http2.frames cimport LOCAL_VERSION
from lb.http.http2.session cimport LOCAL_LEAST
from lb.net.buffer cimport tg_buffer_append
from lb.net.link cimport link_after, link_append, link_empty, link_init, link_remove, link_splice
from lb.net.poller cimport Poller
from lb.net.stream cimport Address, Stream
from lb.upstream.connect_failure cimport failed_connect
from lb.upstream.connections.deferred_release cimport DeferredRelease
from lb.upstream.connections.http2_connection cimport BACK_UP

log = logging.getLogger("tidegate.upstream")

cdef enum:
    # Calls during a pause fail at once and go to another endpoint; the pause only has to keep connects rare. Its upper
    # end bounds how long an endpoint that is back stays unused.
    PAUSE_FIRST = 20_000_000
    PAUSE_DOUBLINGS = 6               # 1.28 s
    RETIRED_IDLE = 250_000_000
    SECOND = 1_000_000_000


cdef class Http2Channel(Dispatcher):
    """Calls to `address`. Keeps its connections until `close`.

    `connect_timeout_ns` bounds the way from the first packet to the peer's SETTINGS; an answer's message may have
    `max_reply` bytes.
    """

    def __init__(self, Poller poller not None, Address address not None, uint64_t connect_timeout_ns, size_t max_reply):
        self.poller = poller
        self.address = address
        self.connect_timeout = connect_timeout_ns
        self.max_reply = max_reply
        self.authority = b"localhost" if address.text.startswith("unix:") else address.text.encode()
        # gRPC servers by default take a ping without data every 5 minutes and drop clients that ask more often.
        self.ping_after = <uint64_t>30 * SECOND
        self.ping_interval = <uint64_t>300 * SECOND
        self.ping_timeout = <uint64_t>10 * SECOND
        self.draining = []
        self.problem = ""
        link_init(&self.queue)

    def __repr__(self):
        return f"<Http2Channel {self.address.text} active={self.active} waiting={self.waiting}>"

    def stats(self) -> dict:
        """Numbers for status pages and tests; `state` is idle, connecting, up, paused or closed."""
        if self.closed:
            state = "closed"
        elif self.current is not None:
            state = "up" if self.current.state == BACK_UP else "connecting"
        else:
            state = "paused" if self.failures and self.poller.now < self.retry_at else "idle"
        return {
            "state": state,
            "active": self.active,
            "waiting": self.waiting,
            "draining": len(self.draining),
            "local": self.local,
            "started": self.started,
            "connects": self.connects,
            "connect_failures": self.connect_failures,
        }

    def local_transport(self) -> str:
        """Why large messages do not go through shared memory (docs/adr/local-transport.md); "" where they do."""
        cdef Http2Upstream connection = self.current
        if not self.address.text.startswith("unix:"):
            return "the endpoint is not on a Unix socket"
        if connection is None or connection.state != BACK_UP:
            return "there is no connection"
        if self.problem:
            return self.problem
        if connection.session.peer_local != LOCAL_VERSION:
            return "the endpoint does not offer it"
        return "" if connection.session.arena is not None else "the endpoint has not mapped the memory"

    def close(self):
        """Ends all connections: calls with a stream fail as FAIL_RESET, waiting ones as FAIL_CONNECT. Safe twice."""
        cdef Http2Upstream connection
        self.closed = True
        for connection in [*self.draining, self.current]:
            if connection is not None:
                connection.shut_down(FAIL_RESET)
        self.fail_waiting(FAIL_CONNECT)

    def retire(self):
        """Only exchanges of an old plan, some of which may wait in a queue, call from now on: a connection is closed as
        soon as nobody uses it, and made anew when somebody does."""
        self.retiring = True
        self.poller.arm(self, self.poller.now + RETIRED_IDLE)

    cdef void on_timer(self) noexcept:
        cdef Http2Upstream connection
        if self.active or self.waiting:
            self.poller.arm(self, self.poller.now + RETIRED_IDLE)
            return
        for connection in [*self.draining, self.current]:
            if connection is not None:
                connection.shut_down(0)

    cdef void start(self, Http2Call call, uint64_t deadline) noexcept:
        if call.dispatcher is not None:
            log.error("%r: a call was started while it runs", self)
            return
        Py_INCREF(call)
        call.dispatcher = self
        self.started += 1
        call.number = self.started
        self.waiting += 1
        if self.cutting is not None:
            self.cutting = None               # of a call that had no place
        call.queued = True
        link_append(&self.queue, &call.link)
        call.reset_call()
        self.poller.arm(call, deadline)
        self.poller.mark(self)
        if self.retiring:
            self.poller.arm(self, self.poller.now + RETIRED_IDLE)

    cdef void cancel(self, Http2Call call) noexcept:
        if call.dispatcher is not self:
            return
        self.take_away(call)
        call.dispatcher = None
        self.poller.disarm(call)
        Py_DECREF(call)

    cdef int write(self, Http2Call call, const void *data, size_t size) noexcept:
        cdef Http2Upstream connection = <Http2Upstream>call.connection
        if connection is None:
            return tg_buffer_append(&call.stream.queue, data, size)
        self.poller.mark(connection)
        return connection.session.write(&call.stream, data, size)

    cdef void finish(self, Http2Call call) noexcept:
        cdef Http2Upstream connection = <Http2Upstream>call.connection
        if connection is None:
            call.stream.finished = True
            return
        self.poller.mark(connection)
        connection.session.finish(&call.stream)

    cdef void consume(self, Http2Call call, size_t size) noexcept:
        cdef Http2Upstream connection = <Http2Upstream>call.connection
        if connection is not None and size:
            connection.session.consume(&call.stream, size)
            self.poller.mark(connection)

    cdef void take_away(self, Http2Call call) noexcept:
        """Off its stream, out of the queue, or out of those that are over and were not told."""
        cdef Http2Upstream connection = <Http2Upstream>call.connection
        if connection is not None:
            connection.abort(call)
            return
        link_remove(&call.link)
        if call.queued:
            call.queued = False
            self.waiting -= 1

    cdef void expired(self, Http2Call call) noexcept:
        self.take_away(call)
        call.fail = FAIL_TIMEOUT
        call.conclude()

    cdef int defer_release(self, DeferredRelease release) noexcept:
        cdef Http2Upstream connection = <Http2Upstream>self.cutting
        self.cutting = None
        return -1 if connection is None else connection.defer_release(release)

    cdef Http2Call take(self):
        cdef Http2Call call
        if link_empty(&self.queue):
            return None
        call = <Http2Call>self.queue.next.owner
        self.take_away(call)
        return call

    cdef void put_back(self, Http2Call call) noexcept:
        cdef tg_link *place = &self.queue
        while place.next != &self.queue and (<Http2Call>place.next.owner).number < call.number:
            place = place.next                # several are refused at once, and keep their order
        call.queued = True
        self.waiting += 1
        link_after(place, &call.link)

    cdef void opened(self, Stream connection) noexcept:
        log.debug("%s: connected", self.address.text)

    cdef void served(self) noexcept:
        self.failures = 0

    cdef void is_local(self) noexcept:
        if not (self.told and self.local):
            self.told = self.local = True
            log.info("%s: messages of %d KiB and more go through shared memory", self.address.text, LOCAL_LEAST // 1024)

    cdef void not_local(self, const char *problem) noexcept:
        self.problem = problem.decode("utf-8", "replace")
        if not self.told or self.local:
            self.told, self.local = True, False
            log.warning("%s: messages go through the socket, not through shared memory: %s", self.address.text,
                        self.problem)

    cdef void retired(self, Stream connection) noexcept:
        if connection is self.current:
            self.current = None
            self.draining.append(connection)
            self.after(<Http2Upstream>connection)

    cdef void lost(self, Stream connection, bint was_up) noexcept:
        if connection is self.current:
            self.current = None
            if not was_up:
                self.connect_failures += 1
            self.after(<Http2Upstream>connection)
        elif connection in self.draining:
            self.draining.remove(connection)

    cdef void after(self, Http2Upstream connection) noexcept:
        """`connection` takes no more calls. When it served none of those that wait, neither would the next: pause."""
        if not self.waiting or self.closed:
            return
        if not connection.served:
            self.why = failed_connect(self.address.text, connection.error, self.poller.now)
            if not self.failures and self.why == FAIL_CONNECT:
                reason = strerror(connection.error).decode() if connection.error else "no HTTP/2 connection was granted"
                log.warning("%s: cannot connect: %s", self.address.text, reason)
            self.retry_at = self.poller.now + (<uint64_t>PAUSE_FIRST << min(self.failures, PAUSE_DOUBLINGS))
            self.failures += 1
        self.poller.mark(self)

    cdef void on_flush(self) noexcept:
        cdef Http2Upstream connection
        if link_empty(&self.queue):
            return
        if self.current is None:
            if self.closed or (self.failures and self.poller.now < self.retry_at):
                self.fail_waiting(FAIL_CONNECT if self.closed else self.why)
                return
            self.connect()
        connection = self.current             # it may leave the channel meanwhile
        if connection is not None:
            connection.flush()

    cdef void connect(self) noexcept:
        cdef Http2Upstream connection
        try:
            connection = Http2Upstream(self)
        except MemoryError:
            self.fail_waiting(FAIL_NO_SOCKET)
            return
        self.connects += 1
        self.problem = ""
        self.current = connection
        if connection.open() < 0:
            self.lost(connection, False)

    cdef void fail_waiting(self, int kind) noexcept:
        """Those that wait now; whom they start from their callbacks waits for the next flush."""
        cdef tg_link failing
        cdef Http2Call call
        link_init(&failing)
        link_splice(&failing, &self.queue)
        while not link_empty(&failing):
            call = <Http2Call>failing.next.owner
            self.take_away(call)
            call.fail = kind
            call.conclude()
