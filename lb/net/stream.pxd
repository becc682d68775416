"""Byte streams over sockets (TCP and Unix), plain or through TLS, with an output queue. Knows nothing of protocols."""

from libc.stdint cimport uint32_t, uint64_t
from lb.net.address cimport Address
from lb.net.buffer cimport tg_buffer
from lb.net.iovec cimport iovec
from lb.net.poller cimport Source
from lb.net.tls.session cimport Tls


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


cdef class Stream(Source):
    cdef tg_buffer out                # bytes accepted for sending that the kernel (or TLS) has not taken yet
    cdef Tls tls                      # None: plain. An accepted stream gets it before `register`.
    cdef bint connecting
    cdef bint shut                    # our side is shut down
    cdef int error                    # errno of the last failure
    # Descriptors on a Unix socket (unix(7), SCM_RIGHTS). 0 = none.
    cdef bint takes_descriptor        # what a peer passes is taken; the kernel closes what it passes otherwise
    cdef int passed                   # by the peer: the first one that was not taken over yet, ours to close
    cdef int passing                  # goes with the next bytes that are written; its owner's to close

    # >0 bytes read, 0 the peer shut down its side, IO_AGAIN, IO_ERROR.
    cdef Py_ssize_t receive(self, char *into, size_t size) noexcept
    # As `receive`, into parts one after another (readv(2), at most 1024). Not with TLS.
    cdef Py_ssize_t receive_parts(self, iovec *parts, int count) noexcept
    # Starts a non-blocking connect and registers with the poller: 0 (connected or under way: see `connecting`) or
    # IO_ERROR. Call `finish_connect` from on_ready while `connecting`. An address with TLS is connected when the
    # handshake is over and the endpoint has proved to be who it should. `lasting`: its keepalive is set at once; else
    # `address.keep_alive` sets it, when the connection has lasted.
    cdef int start_connect(self, Address address, bint lasting) noexcept
    # 0 when connected, IO_AGAIN (TLS: call again at the next event), or IO_ERROR.
    cdef int finish_connect(self) noexcept
    # Appends to `out`; the caller marks the stream dirty. 0 or -1 (no memory).
    cdef int queue(self, const void *data, size_t size) noexcept
    # Sends `out`: 0 all gone, 1 something is left, IO_ERROR.
    cdef int push(self) noexcept
    # Sends `out` and then the parts, without copying what the kernel takes at once; the rest is copied
    # to `out`. 0 all gone, 1 something is left in `out`, IO_ERROR.
    cdef int push_parts(self, const iovec *parts, int count) noexcept
    # Shuts down our side for writing (TLS: close_notify, then a FIN, after what was sent). Some of it may have to wait:
    # `pending` says so, and `push` goes on.
    cdef void shutdown_write(self) noexcept
    # Bytes that the kernel has not taken; with TLS some of them are encrypted already.
    cdef size_t pending(self) noexcept
    # Bytes that the kernel has taken and the peer's not acknowledged, also when the connection is over; 0 where that is
    # not known (Unix sockets).
    cdef size_t unacknowledged(self) noexcept
    # Whether nothing is there to be read, the peer's end included. It asks the kernel.
    cdef bint silent(self) noexcept
    # The close will be a reset: the peer can tell that something is missing.
    cdef void reset_on_close(self) noexcept
    # The close will be without TLS's goodbye: the peer can tell that something is missing.
    cdef void cut_short(self) noexcept
    # The protocol agreed on by ALPN: ALPN_… of lb.net.tls.context.
    cdef int alpn(self) noexcept
    # Takes a connected, non-blocking descriptor (an accepted one): 0 or IO_ERROR (then it is closed).
    cdef int register(self, int fd) noexcept
    # Whether it is a Unix socket without TLS.
    cdef bint is_unix(self) noexcept
    cdef int push_some(self, const iovec *parts, int count) noexcept
    cdef int push_one(self, const char *data, size_t size) noexcept
    cdef int push_tls(self, const iovec *parts, int count) noexcept
    cdef void tls_failed(self) noexcept
    cdef int keep_rest(self, const iovec *vector, int first, int used) noexcept
