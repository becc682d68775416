"""Endpoints that are reached from a chosen address of this machine, or from the client's own."""

cimport cython
from libc.stdint cimport uint16_t
from lb.net.address cimport Address


cdef extern from "source.h" nogil:
    ctypedef struct tg_source:
        uint16_t first
        uint16_t last
        int transparent

    void tg_source_assign(tg_source *s, int family, const void *address) noexcept
    int tg_source_bind(const tg_source *s, int fd, int family) noexcept


@cython.final
cdef class SourceAddress(Address):
    """An address with what its sockets are bound to."""
    cdef tg_source source
    cdef bint client                  # each client's own: `of` has it

    # The same for a connection of the client `ip`; None where that is no address (a Unix socket's). Raises MemoryError.
    cdef SourceAddress of(self, const char *ip, size_t n)
    # Binds a socket that is to be connected. 0, or minus an errno.
    cdef int bind(self, int fd) noexcept
