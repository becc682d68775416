"""A TCP session: bytes both ways between a client and an endpoint."""

from libc.stdint cimport uint64_t
from lb.net.poller cimport Poller
from lb.net.splice cimport Pipe
from lb.net.stream cimport Stream
from lb.proxy.accept.listener cimport Acceptor, Listener
from lb.proxy.accept.first_bytes cimport FirstBytes
from lb.upstream.attempt cimport Attempt
from lb.upstream.pool cimport Pool
from lb.upstream.queue cimport Waiter
from lb.upstream.excluded cimport tg_excluded


cdef class Side(Stream):
    """One of the two sockets of a session."""
    cdef Tunnel tunnel
    cdef Side other
    cdef Pipe pipe                    # bulk read from here on its way to `other`; None unless `bulk`
    cdef bint bulk                    # big reads: through the pipe
    cdef bint hangup
    cdef bint blocked                 # what was read from here waits for room on the other side
    cdef bint ended                   # end of file was read
    cdef bint truncated               # its TLS ended without close_notify
    cdef uint64_t bytes_read

    cdef void take_handshake(self) noexcept
    cdef bint flush_tls(self) noexcept


cdef class Tunnel(Waiter):
    cdef TunnelAcceptor home
    cdef Listener listener
    cdef Pool pool
    cdef FirstBytes first_bytes       # what the client's first bytes said, or None
    cdef Side client
    cdef Side endpoint
    cdef Attempt attempt              # at the endpoint that it has, or had last
    cdef int last
    cdef tg_excluded *excluded
    cdef int retries_left
    cdef int attempts
    cdef int failure                  # why it ended, when it did not end well (lb.failure)
    cdef uint64_t key
    cdef uint64_t started
    cdef bint over
    cdef char ip[46]
    cdef int ip_length
    cdef int port
    cdef size_t undelivered           # bytes before a truncated end that the other side's kernel has not acknowledged
    cdef uint64_t delivering_since    # their number has not changed since, ns; 0: none are waited for
    cdef object __weakref__

    cdef void connect(self) noexcept
    cdef void follow(self) noexcept
    cdef void open(self, int index) noexcept
    cdef void refuse(self, int kind) noexcept
    cdef bint give_up_attempt(self, int kind) noexcept
    cdef void connect_failed(self, int kind) noexcept
    cdef void observe_connect(self, bint ok) noexcept
    cdef void connected(self) noexcept
    cdef void relay(self, Side source) noexcept
    cdef void deliver(self, Side target) noexcept
    cdef void discard(self, Side source) noexcept
    cdef void leave_bulk(self, Side source) noexcept
    cdef int pass_on(self, Side source) noexcept
    cdef void touch(self) noexcept
    cdef void finish(self, bint ok) noexcept
    cdef void let_go(self, bint ok) noexcept


# Who takes up the connections of listeners that carry TCP, and lends the sessions pipes for bulk.

cdef class TunnelAcceptor(Acceptor):
    cdef Poller poller
    cdef Py_ssize_t busy
    cdef list pipes                   # empty ones, for whoever has bulk next

    cdef Pipe take_pipe(self)
    cdef void give_pipe(self, Pipe pipe) noexcept


# The record of a TCP session that is over: its listener's series, and a line of the access log.

cdef void record_session(Tunnel tunnel) noexcept
