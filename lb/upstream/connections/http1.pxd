"""HTTP/1.1 to an endpoint: keep-alive connections, pooled per worker and endpoint."""

cimport cython
from libc.stdint cimport uint64_t
from lb.net.buffer cimport tg_buffer
from lb.http.head cimport Scan
from lb.http.http1 cimport Parser
from lb.net.poller cimport Poller
from lb.net.stack cimport Stack
from lb.net.stream cimport Address, Stream, iovec
from lb.upstream.attempt cimport Attempt


cdef class Http1Call(Attempt):
    """What a connection serves. Every method may close or give back the connection."""
    # A new connection is under way: on_connected or on_broken follows, unless it is dropped before.
    cdef void on_connecting(self, Http1Upstream upstream) noexcept
    # The connection is usable: send the request.
    cdef void on_connected(self, Http1Upstream upstream) noexcept
    # A scan of the answer: head, body spans, completion, any of them.
    cdef void on_answer(self, Http1Upstream upstream, Scan *scan) noexcept
    # Up to `size` bytes of the answer's body from the connection's socket to where they go, past this process: as
    # lb.net.splice's `pass_through` says; behind PASS_LOST the connection may be closed.
    cdef Py_ssize_t pass_answer(self, Http1Upstream upstream, size_t size) noexcept
    # Bytes behind an answer that made the connection another protocol's (`Http1Upstream.become_raw`); their end.
    cdef void on_raw(self, Http1Upstream upstream, const char *data, size_t n) noexcept
    cdef void on_raw_end(self, Http1Upstream upstream) noexcept
    # The connection was marked, and its batch ends: what waited for that goes out.
    cdef void on_batch_end(self, Http1Upstream upstream) noexcept
    # What was queued has gone out.
    cdef void on_drained(self, Http1Upstream upstream) noexcept
    # The connection is of no use any more (and closed). kind: enum failure.
    cdef void on_broken(self, Http1Upstream upstream, int kind) noexcept


# What a connection to an endpoint is doing. The table of steps is in http1.pyx.
cdef enum:
    UPSTREAM_CONNECTING = 0
    UPSTREAM_BUSY                     # serves a call
    UPSTREAM_IDLE                     # serves nobody: kept by its pool, or by the one client whose own it is
    UPSTREAM_RAW                      # what comes is not HTTP any more
    UPSTREAM_CLOSED


@cython.final
cdef class Http1Upstream(Stream):
    cdef Http1Pool pool
    cdef unsigned char state          # UPSTREAM_…, changed by `move`
    cdef Parser parser
    cdef Http1Call call               # None while idle
    cdef tg_buffer inbox              # an answer's head that has not come whole
    cdef bint used                    # it has served an exchange before
    cdef bint paused                  # the client is slow: not reading
    cdef bint unread                  # there may be bytes in the kernel that were not read because of `paused`
    cdef bint hangup                  # the endpoint closed, or shut down, its side
    cdef bint bulk                    # the last read was a large one
    cdef int interims                 # interim answers (1xx) to this exchange's request
    cdef size_t asked                 # bytes of this exchange's request that `ask` took
    cdef bint deaf                    # the endpoint takes no more; what it has said is still there to be read

    cdef void move(self, int state) noexcept
    # An idle connection serves this call from now on.
    cdef void serve(self, Http1Call call) noexcept
    # The call is over, and the connection is idle: somebody keeps it.
    cdef void rest(self) noexcept
    # The endpoint granted an upgrade.
    cdef void become_raw(self) noexcept
    cdef void read_loop(self) noexcept
    cdef Py_ssize_t pass_on(self) noexcept
    cdef int consume(self, const char *data, size_t n) noexcept
    cdef void ended(self) noexcept
    # Sends a part of a request of which no other way is known, as `push_parts` does.
    cdef int ask(self, const iovec *part) noexcept
    # FAIL_REFUSED where the endpoint had got nothing of the request when it closed, else FAIL_RESET. `ended`: by a FIN.
    cdef int how_lost(self, bint ended) noexcept
    cdef void broken(self, int kind) noexcept
    # Nothing more can be sent. The endpoint may have answered before it closed (RFC 9112 section 9.5).
    cdef void write_failed(self) noexcept
    cdef void pause(self) noexcept
    cdef void resume(self) noexcept


cdef class Http1Pool:
    """The connections of one worker to one endpoint, most recently used first."""
    cdef Poller poller
    cdef readonly Address address
    cdef Stack idle
    cdef uint64_t connect_timeout
    cdef uint64_t idle_timeout
    cdef Py_ssize_t max_idle
    cdef Py_ssize_t max_head
    cdef bint closed
    cdef readonly Py_ssize_t open

    # A connection for `call`: on_connected is called before this returns for an idle one, and on_connecting for a new
    # one. `fresh` never takes an idle one; `sure` none that the endpoint has closed, of which nobody has heard yet.
    # FAIL_NONE, or how the connect failed at once.
    cdef int take(self, Http1Call call, bint fresh, bint sure=*) noexcept
    # The exchange is over and the connection may serve another.
    cdef void give(self, Http1Upstream upstream) noexcept
    # The exchange is over and the connection may not be used again.
    cdef void drop(self, Http1Upstream upstream) noexcept
