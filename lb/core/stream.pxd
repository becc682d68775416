"""Byte streams over sockets (TCP and Unix), with an output queue. Knows nothing of protocols."""

from libc.stdint cimport uint32_t, uint64_t
from lb.core.buffer cimport tg_buffer
from lb.core.poller cimport Source


cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void *iov_base
        size_t iov_len

cdef extern from "<sys/epoll.h>" nogil:
    enum:
        EPOLLIN
        EPOLLOUT
        EPOLLRDHUP
        EPOLLERR
        EPOLLHUP


cdef enum:
    IO_AGAIN = -1                     # nothing now; on_ready tells when
    IO_ERROR = -2                     # the connection is gone; Stream.error holds errno


cdef class Address:
    """A resolved socket address: "127.0.0.1:80", "[::1]:80" or "unix:/path" ("unix:@name" is abstract)."""
    cdef readonly str text
    cdef readonly int family
    cdef char storage[128]            # struct sockaddr_*
    cdef uint32_t length


cdef class Stream(Source):
    cdef tg_buffer out                # bytes accepted for sending that the kernel has not taken yet
    cdef bint connecting
    cdef bint shut                    # our side is shut down
    cdef int error                    # errno of the last failure

    # >0 bytes read, 0 the peer shut down its side, IO_AGAIN, IO_ERROR.
    cdef Py_ssize_t receive(self, char *into, size_t size) noexcept
    # Starts a non-blocking connect and registers with the poller: 0 (connected or under way: see `connecting`) or
    # IO_ERROR. The first EPOLLOUT ends it: call `finish_connect` from on_ready while `connecting`.
    cdef int start_connect(self, Address address) noexcept
    # 0 when connected, IO_AGAIN, or IO_ERROR.
    cdef int finish_connect(self) noexcept
    # Appends to `out`; the caller marks the stream dirty. 0 or -1 (no memory).
    cdef int queue(self, const void *data, size_t size) noexcept
    # Sends `out`: 0 all gone, 1 something is left, IO_ERROR.
    cdef int push(self) noexcept
    # Sends `out` and then the parts, without copying what the kernel takes at once; the rest is copied
    # to `out`. 0 all gone, 1 something is left in `out`, IO_ERROR.
    cdef int push_parts(self, const iovec *parts, int count) noexcept
    # Shuts down our side for writing (a FIN after what was sent).
    cdef void shutdown_write(self) noexcept
    cdef size_t pending(self) noexcept
    # The close will be a reset: the peer can tell that something is missing.
    cdef void reset_on_close(self) noexcept
    # Takes a connected, non-blocking descriptor (an accepted one): 0 or IO_ERROR (then it is closed).
    cdef int register(self, int fd) noexcept
    cdef int push_some(self, const iovec *parts, int count) noexcept
    cdef int push_one(self, const char *data, size_t size) noexcept
    cdef int keep_rest(self, const iovec *vector, int first, int used) noexcept
