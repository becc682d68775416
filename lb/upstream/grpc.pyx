"""gRPC upstream, the channel: see grpc.pxd for the contract."""

import logging

from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport uint64_t
from libc.string cimport strerror
from lb.core.link cimport link_after, link_append, link_empty, link_init, link_remove, link_splice
from lb.core.poller cimport Poller
from lb.core.stream cimport Address, Stream

log = logging.getLogger("tidegate.upstream")

cdef enum:
    # Calls during a pause fail at once and go to another endpoint; the pause only has to keep connects rare. Its upper
    # end bounds how long an endpoint that is back stays unused.
    PAUSE_FIRST = 20_000_000
    PAUSE_DOUBLINGS = 6               # 1.28 s
    SECOND = 1_000_000_000


cdef class GrpcChannel(Dispatcher):
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
        link_init(&self.queue)

    def __repr__(self):
        return f"<GrpcChannel {self.address.text} active={self.active} waiting={self.waiting}>"

    def stats(self) -> dict:
        """Numbers for status pages and tests; `state` is idle, connecting, up, paused or closed."""
        if self.closed:
            state = "closed"
        elif self.current is not None:
            state = "up" if self.current.up else "connecting"
        else:
            state = "paused" if self.failures and self.poller.now < self.retry_at else "idle"
        return {
            "state": state,
            "active": self.active,
            "waiting": self.waiting,
            "draining": len(self.draining),
            "started": self.started,
            "connects": self.connects,
            "connect_failures": self.connect_failures,
        }

    def close(self):
        """Ends all connections: calls with a stream fail as FAIL_RESET, waiting ones as FAIL_CONNECT. Safe twice."""
        cdef GrpcConnection connection
        self.closed = True
        for connection in [*self.draining, self.current]:
            if connection is not None:
                connection.shut_down(FAIL_RESET)
        self.fail_waiting()

    cdef void start(self, GrpcCall call, const char *path, size_t n, uint64_t deadline) noexcept:
        if call.dispatcher is not None:
            log.error("%r: a call was started while it runs", self)
            return
        Py_INCREF(call)
        call.dispatcher = self
        self.started += 1
        self.waiting += 1
        call.queued = True
        link_append(&self.queue, &call.link)
        if call.prepare(path, n) < 0:
            deadline = 0                      # no memory for the path: over at the next flush
        self.poller.arm(call, deadline)
        self.poller.mark(self)

    cdef void cancel(self, GrpcCall call) noexcept:
        if call.dispatcher is not self:
            return
        self.take_away(call)
        call.dispatcher = None
        self.poller.disarm(call)
        Py_DECREF(call)

    cdef void take_away(self, GrpcCall call) noexcept:
        """Off its stream, out of the queue, or out of those that are over and were not told."""
        cdef GrpcConnection connection = <GrpcConnection>call.connection
        if connection is not None:
            connection.abort(call)
            return
        link_remove(&call.link)
        if call.queued:
            call.queued = False
            self.waiting -= 1

    cdef void expired(self, GrpcCall call) noexcept:
        self.take_away(call)
        call.fail = FAIL_TIMEOUT
        call.conclude()

    cdef GrpcCall take(self):
        cdef GrpcCall call
        if link_empty(&self.queue):
            return None
        call = <GrpcCall>self.queue.next.owner
        self.take_away(call)
        return call

    cdef void put_back(self, GrpcCall call) noexcept:
        call.queued = True
        self.waiting += 1
        link_after(&self.queue, &call.link)

    cdef void opened(self, Stream connection) noexcept:
        log.debug("%s: connected", self.address.text)

    cdef void served(self) noexcept:
        self.failures = 0

    cdef void retired(self, Stream connection) noexcept:
        if connection is self.current:
            self.current = None
            self.draining.append(connection)
            self.after(<GrpcConnection>connection)

    cdef void lost(self, Stream connection, bint was_up) noexcept:
        if connection is self.current:
            self.current = None
            if not was_up:
                self.connect_failures += 1
            self.after(<GrpcConnection>connection)
        elif connection in self.draining:
            self.draining.remove(connection)

    cdef void after(self, GrpcConnection connection) noexcept:
        """`connection` takes no more calls. When it served none of those that wait, neither would the next: pause."""
        if not self.waiting or self.closed:
            return
        if not connection.served:
            if not self.failures:
                reason = strerror(connection.error).decode() if connection.error else "no HTTP/2 connection was granted"
                log.warning("%s: cannot connect: %s", self.address.text, reason)
            self.retry_at = self.poller.now + (<uint64_t>PAUSE_FIRST << min(self.failures, PAUSE_DOUBLINGS))
            self.failures += 1
        self.poller.mark(self)

    cdef void on_flush(self) noexcept:
        cdef GrpcConnection connection
        if link_empty(&self.queue):
            return
        if self.current is None:
            if self.closed or (self.failures and self.poller.now < self.retry_at):
                self.fail_waiting()
                return
            self.connect()
        connection = self.current             # it may leave the channel meanwhile
        if connection is not None:
            connection.flush()

    cdef void connect(self) noexcept:
        cdef GrpcConnection connection
        try:
            connection = GrpcConnection(self)
        except MemoryError:
            self.fail_waiting()
            return
        self.connects += 1
        self.current = connection
        if connection.open() < 0:
            self.lost(connection, False)

    cdef void fail_waiting(self) noexcept:
        """Those that wait now; whom they start from their callbacks waits for the next flush."""
        cdef tg_link failing
        cdef GrpcCall call
        link_init(&failing)
        link_splice(&failing, &self.queue)
        while not link_empty(&failing):
            call = <GrpcCall>failing.next.owner
            self.take_away(call)
            call.fail = FAIL_CONNECT
            call.conclude()
