"""IP addresses as bytes, and sets of networks.

An IPv4 address that is mapped into IPv6 (::ffff:a.b.c.d, RFC 4291 section 2.5.5.2) is the IPv4 address everywhere here:
a client must not become another one by coming through a dual-stack socket.
"""

from libc.stdint cimport uint32_t, uint64_t


cdef extern from "<sys/socket.h>" nogil:
    enum:
        AF_INET
        AF_INET6


cdef enum:
    IP_TEXT = 46                      # room for an address as text with its NUL (INET6_ADDRSTRLEN)


ctypedef struct tg_ip:
    int family                        # AF_INET, AF_INET6; 0 = no address (a Unix socket)
    unsigned char octets[16]          # network order; IPv4 uses the first four


ctypedef struct tg_range4:
    uint32_t first
    uint32_t last


ctypedef struct tg_range6:
    uint64_t first[2]                 # high and low half
    uint64_t last[2]


# `octets` are 4 or 16 bytes in network order, as `family` says.
cdef void ip_set(tg_ip *ip, int family, const void *octets) noexcept nogil
# 0, or -1 when `text` is no address; then it is the address of family 0.
cdef int ip_parse(tg_ip *ip, const char *text, size_t n) noexcept nogil
# The length of the text, which ends with a NUL; 0 for no address. `text` has room for IP_TEXT bytes.
cdef int ip_format(const tg_ip *ip, char *text) noexcept nogil


cdef class Networks:
    """An immutable set of networks: sorted ranges, two binary searches at most."""
    cdef tg_range4 *v4
    cdef tg_range6 *v6
    cdef Py_ssize_t count4
    cdef Py_ssize_t count6

    cdef int take(self, bytes four, bytes six) except -1
    # Whether the address (4 or 16 bytes in network order, as `family` says) is in one of the networks.
    cdef bint contains(self, int family, const unsigned char *octets) noexcept nogil
    cdef bint contains_ip(self, const tg_ip *ip) noexcept nogil
    cdef bint contains_text(self, const char *text, size_t n) noexcept nogil
    cdef bint has4(self, uint32_t value) noexcept nogil
    cdef bint has6(self, uint64_t high, uint64_t low) noexcept nogil
