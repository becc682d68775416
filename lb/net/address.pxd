"""Socket addresses from text, with what secures connections to them."""

from libc.stdint cimport uint32_t
from lb.net.keepalive cimport tg_keepalive
from lb.net.tls.peer cimport Peer


cdef extern from "<sys/socket.h>" nogil:
    enum:
        AF_UNIX


cdef class Address:
    """A resolved socket address: "127.0.0.1:80", "[::1]:80" or "unix:/path" ("unix:@name" is abstract)."""
    cdef readonly str text
    cdef readonly Peer tls            # how connections to it are secured; None: they are not
    cdef readonly int family
    cdef char storage[128]            # struct sockaddr_*
    cdef uint32_t length
    cdef tg_keepalive keepalive
    cdef bint complained

    # Sets up a socket that is to be connected to it. What the kernel refuses is said once, and only costs time until a
    # deadline or a health check notices.
    cdef void keep_alive(self, int fd) noexcept
