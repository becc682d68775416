"""One question to a server over a connection of its own, for callers in Python.

The master asks a thousand endpoints every two seconds how they are. A transport, a task that waits at each step and a
watched descriptor of the loop would each cost more than the kernel's part of such a question.
"""

import os

from libc.errno cimport EAGAIN, ECONNREFUSED, EINPROGRESS, EINTR, ENOTCONN, errno
from libc.stdint cimport uint32_t
from libc.string cimport memcmp
from posix.unistd cimport close
from lb.net.address cimport AF_UNIX, Address
from lb.net.poller cimport READ_TURNS, Poller

cdef extern from "<sys/socket.h>" nogil:
    enum:
        SOCK_STREAM
        SOCK_NONBLOCK
        SOCK_CLOEXEC
        SOL_SOCKET
        SO_ERROR
        MSG_NOSIGNAL
    struct sockaddr:
        pass
    ctypedef unsigned int socklen_t
    int socket(int domain, int kind, int protocol)
    int connect(int fd, const sockaddr *address, socklen_t length)
    int getsockopt(int fd, int level, int name, void *value, socklen_t *length)
    int getsockname(int fd, sockaddr *address, socklen_t *length)
    ssize_t send(int fd, const void *data, size_t size, int flags)
    ssize_t recv(int fd, void *into, size_t size, int flags)

cdef extern from "<sys/epoll.h>" nogil:
    enum:
        EPOLLIN
        EPOLLOUT
        EPOLLERR
        EPOLLHUP


cdef object failure(int code):
    return OSError(code, os.strerror(code))


cdef class Inquiry(Source):
    """Connects to `address`, sends `request`, and calls `receive(data)` with each piece that comes, b"" when the server
    has closed its side, until that returns True. Then, or when something failed, it closes the connection and calls
    `ended(error)` once: an OSError, what `receive` raised, or None. With an empty request it ends when it is connected.

    A server that closes without reading may have answered before: what cannot be sent is no failure. Raises OSError
    when there is no descriptor or memory for it, ValueError for what is no address of a socket.
    """

    def __init__(self, poller: Poller, address: str, request: bytes, receive: Callable[[bytes], bool],
                 ended: Callable[[BaseException | None], None]) -> None:
        if self.receive is not None:
            raise RuntimeError("an Inquiry is made once")
        self.request = request
        self.receive = receive
        self.ended = ended
        cdef Poller at = poller
        cdef Address to = Address(address)
        self.address = to
        cdef int fd = socket(to.family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
        cdef int refused = 0
        if fd < 0:
            raise failure(errno)
        if connect(fd, <const sockaddr *>to.storage, to.length) < 0 and errno != EINPROGRESS and errno != EINTR:
            # A Unix socket says EAGAIN when its queue is full.
            refused = ENOTCONN if errno == EAGAIN else errno
        if refused:
            # Told as any other failure: whoever made it waits for its end. The poller would call it ready.
            at.adopt(self, fd)
            at.loop.call_soon(self._refuse, refused)
            return
        try:
            at.add(self, fd, False)
        except OSError:
            close(fd)
            raise

    def _refuse(self, code: int) -> None:
        self.finish(failure(code))

    def cancel(self) -> None:
        """Closes the connection; nobody is told. Does nothing once it has ended."""
        self.ended = self.receive = None
        if self.fd >= 0:
            self.poller.remove(self)

    cdef void on_ready(self, uint32_t events) noexcept:
        self.proceed(events)

    cdef void on_flush(self) noexcept:
        self.proceed(EPOLLIN)

    cdef void proceed(self, uint32_t events) noexcept:
        """As far as it can go now."""
        if self.ended is None or self.fd < 0:
            return
        try:
            if not self.connected:
                if not events & <uint32_t>(EPOLLOUT | EPOLLERR | EPOLLHUP):
                    return
                self.check_connection(events)
                self.connected = True
                if not self.request:
                    self.finish(None)
                    return
            if self.sent < len(self.request):
                self.send_on()
            if events & ~<uint32_t>EPOLLOUT and self.read_on():
                self.finish(None)
        except BaseException as error:
            self.finish(error)

    cdef int check_connection(self, uint32_t events) except -1:
        """Raises OSError where there is none."""
        cdef int code = 0
        cdef socklen_t size = sizeof(code), own_size = sizeof(self.address.storage)
        cdef char own[128]
        if events & <uint32_t>(EPOLLERR | EPOLLHUP):
            if getsockopt(self.fd, SOL_SOCKET, SO_ERROR, &code, &size) < 0:
                raise failure(errno)
            if code:
                raise failure(code)
        if self.address.family == AF_UNIX:
            return 0
        if getsockname(self.fd, <sockaddr *>own, &own_size) < 0:
            raise failure(errno)
        # A connect to a free ephemeral port of one's own may meet itself (simultaneous open).
        if own_size == self.address.length and memcmp(own, self.address.storage, own_size) == 0:
            raise ConnectionRefusedError(ECONNREFUSED, "Connection refused (nothing listens there)")
        return 0

    cdef void send_on(self) noexcept:
        cdef ssize_t n
        cdef const char *data = self.request
        cdef Py_ssize_t size = len(self.request)
        while self.sent < size:
            n = send(self.fd, data + self.sent, <size_t>(size - self.sent), MSG_NOSIGNAL)
            if n > 0:
                self.sent += n
            elif n < 0 and errno == EINTR:
                continue
            elif n < 0 and errno == EAGAIN:
                return
            else:
                self.sent = size
                return

    cdef int read_on(self) except -1:
        """Whether enough has come."""
        cdef ssize_t n
        cdef int _turn
        for _turn in range(READ_TURNS):
            n = recv(self.fd, self.poller.scratch, self.poller.scratch_size, 0)
            if n < 0:
                if errno == EINTR:
                    continue
                if errno == EAGAIN:
                    return 0
                raise failure(errno)
            if self.receive(self.poller.scratch[:n]) or n == 0:
                return 1
            if self.fd < 0:
                return 0                      # cancelled meanwhile
        self.poller.defer(self)
        return 0

    cdef void finish(self, object error) noexcept:
        ended, self.ended, self.receive = self.ended, None, None
        if self.fd >= 0:
            self.poller.remove(self)
        if ended is not None:
            try:
                ended(error)
            except BaseException as failed:
                told = {"message": "the end of an inquiry was not handled", "exception": failed}
                self.poller.loop.call_exception_handler(told)
