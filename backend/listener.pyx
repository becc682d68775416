"""A listening socket: see listener.pxd. What a connection speaks shows in its first bytes."""

import logging

from libc.errno cimport EAGAIN, EBADF, ECONNABORTED, EINTR, EINVAL, ENOTSOCK, errno
from libc.stdint cimport uint32_t
from libc.string cimport strerror
from backend.http.connection cimport HttpConnection
from lb.http.http1 cimport new_request_parser
from lb.net.stream cimport IO_ERROR

cdef extern from "<sys/socket.h>" nogil:
    ctypedef uint32_t socklen_t
    enum:
        SOL_SOCKET
        SO_KEEPALIVE
        SOCK_NONBLOCK
        SOCK_CLOEXEC
    int setsockopt(int fd, int level, int option, const void *value, socklen_t size)

cdef extern from *:
    """
    #include <sys/socket.h>
    extern int accept4(int fd, struct sockaddr *address, socklen_t *length, int flags);
    """
    int accept4(int fd, void *address, void *length, int flags) nogil

cdef extern from "<netinet/in.h>" nogil:
    enum:
        IPPROTO_TCP

cdef extern from "<netinet/tcp.h>" nogil:
    enum:
        TCP_NODELAY
        TCP_USER_TIMEOUT

log = logging.getLogger("tidegate.backend")

cdef enum:
    ACCEPTS = 64                      # at once
    BACK_OFF_NS = 100_000_000
    USER_TIMEOUT_MS = 60_000          # without an acknowledgement: the peer has vanished


cdef class Listener(Source):

    def __init__(self, Front front not None, int fd, bint tcp) -> None:
        """Accepts on `fd`, a non-blocking listening socket that is the listener's from now on. Raises OSError."""
        self.front = front
        self.tcp = tcp
        front.poller.add(self, fd, True)

    cdef void on_ready(self, uint32_t events) noexcept:
        self.accept()

    cdef void accept(self) noexcept:
        cdef int fd, _turn
        for _turn in range(ACCEPTS):
            fd = accept4(self.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)
            if fd >= 0:
                self.accepted(fd)
                continue
            if errno == EAGAIN or errno in (EBADF, EINVAL, ENOTSOCK):
                return
            if errno == EINTR or errno == ECONNABORTED:       # the client has left already
                continue
            log.warning("cannot accept a connection: %s", strerror(errno).decode())
            self.poller.watch(self, False)        # without descriptors or memory it would be ready all the time
            self.poller.arm(self, self.poller.now + BACK_OFF_NS)
            return

    cdef void on_timer(self) noexcept:
        if self.fd >= 0:
            self.poller.watch(self, True)

    cdef void accepted(self, int fd) noexcept:
        cdef HttpConnection connection = HttpConnection.__new__(HttpConnection)
        cdef int one = 1, patience = USER_TIMEOUT_MS
        if self.tcp:
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one))
            setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one))
            setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &patience, sizeof(patience))
        connection.poller = self.poller
        connection.front = self.front
        connection.parser = new_request_parser()
        if connection.register(fd) == IO_ERROR:
            return
        connection.unread = True                  # most clients have sent something by now
        self.front.connections.add(connection)
        if self.front.leaving:
            connection.leave()
        self.poller.mark(connection)

    def close(self) -> None:
        """Accepts no more."""
        if self.fd >= 0:
            self.poller.remove(self)
