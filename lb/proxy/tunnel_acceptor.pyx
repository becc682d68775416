"""Who takes up TCP sessions: see tunnel_acceptor.pxd."""

from libc.string cimport memcpy
from posix.unistd cimport close
from lb.core.poller cimport Poller, monotonic_ns
from lb.core.source_key cimport hash_source
from lb.core.splice cimport Pipe
from lb.core.stream cimport IO_ERROR
from lb.proxy.listener cimport Listener
from lb.proxy.preface cimport Greeting
from lb.proxy.tunnel cimport Side, Tunnel
from lb.upstream.pool cimport KEY_NONE, Pool

cdef enum:
    SPARE_PIPES = 32                  # kept open in a worker: making one takes two system calls


cdef class TunnelAcceptor(Acceptor):
    """Makes sessions."""

    def __init__(self, Poller poller):
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
        cdef Greeting greeting = <Greeting>listener.greeting
        tunnel.home = self
        tunnel.listener = listener
        tunnel.greeting = greeting
        if greeting is not None and greeting.pool is not None:
            tunnel.pool = greeting.pool           # by the ClientHello
        else:
            tunnel.pool = <Pool>listener.table
        tunnel.client = side
        tunnel.index = -1
        tunnel.last = -1
        tunnel.tries_left = tunnel.pool.retries
        tunnel.reason = ""
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
        if listener.tls is not None:
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
