"""The hash of where a client is, for policies that send like requests to one endpoint."""

from libc.stdint cimport uint64_t


cdef struct tg_prefixes:
    int v4                            # bits of an IPv4 address that count, 1 to 32
    int v6                            # of an IPv6 address, 1 to 128


# Of the network of the address `text`; of the text where all bits count, or where it is no address (a Unix socket's).
cdef uint64_t hash_source(const char *text, size_t n, const tg_prefixes *prefixes) noexcept nogil
