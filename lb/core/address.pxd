"""Socket addresses from text, with what secures connections to them."""

from libc.stdint cimport uint32_t
from lb.core.tls_peer cimport Peer


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
