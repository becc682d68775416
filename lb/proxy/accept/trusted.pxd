"""The proxies whose word about the client is taken: networks, and the search for the client in X-Forwarded-For."""

cimport cython
from lb.http.head cimport Scan


cdef struct tg_network:
    unsigned char address[16]         # IPv4 as ::ffff:a.b.c.d
    int bits


@cython.final
cdef class TrustedProxies:
    cdef tg_network *networks
    cdef readonly int count           # 0 = nobody is trusted

    # Whether an address, as text, is in one of the networks. "" is a Unix socket: its peer runs on this machine and was
    # let in by the socket's mode, so it is trusted as soon as anybody is.
    cdef bint contains(self, const char *text, size_t n) noexcept nogil
    # The client behind trusted proxies: the right-most address of X-Forwarded-For that is not theirs. Its canonical
    # text goes to `into` (46 bytes, no NUL): its length, or 0 when the field says nothing that can be used.
    cdef size_t client_of(self, const Scan *scan, char *into) noexcept nogil
    cdef bint holds(self, const unsigned char *address) noexcept nogil
