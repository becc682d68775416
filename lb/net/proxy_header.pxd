"""The header of the PROXY protocol, versions 1 and 2: bytes to a struct and back, no I/O.

Source: "The PROXY protocol", versions 1 and 2 (proxy-protocol.txt of HAProxy); section numbers below are its own.
"""

from libc.stdint cimport uint16_t
from lb.net.buffer cimport tg_buffer


cdef enum:
    PROXY_MORE = 0                    # what is there is right, and not all
    PROXY_NONE = -1                   # these bytes do not begin a header
    PROXY_BAD = -2                    # they begin one, and break its rules
    PROXY_LONG = -3                   # longer than PROXY_MAX
    PROXY_CHECKSUM = -4               # its own checksum says that it was damaged

cdef enum:
    PROXY_LINE_MAX = 107              # 2.1: the longest header of version 1, with its CRLF
    PROXY_MAX = 16384                 # of version 2: room for a client's certificates in the TLVs; 2.2 allows 65551


# The two ends of the client's connection, as the sender of the header had it.
ctypedef struct tg_ends:
    int family                        # AF_INET, AF_INET6; 0 = not told (a Unix socket, or unknown)
    unsigned char source[16]          # network order; IPv4 uses the first four
    unsigned char target[16]
    uint16_t source_port
    uint16_t target_port


# The extra fields that are understood (2.2.1 to 2.2.6), pointing into the header; length 0 = not there. `all` is the
# block of all fields: of a header that is written, those of other types are taken from there as they are.
ctypedef struct tg_tlvs:
    const unsigned char *all
    const unsigned char *alpn
    const unsigned char *authority    # the name that the client asked for (SNI)
    const unsigned char *unique_id
    const unsigned char *ssl
    size_t alpn_length
    size_t authority_length
    size_t unique_id_length
    size_t ssl_length
    size_t all_length


ctypedef struct tg_proxy:
    int version
    bint local                        # 2.2, LOCAL: the sender's own connection, not relayed for anybody
    tg_ends ends
    tg_tlvs tlvs


# The size of the header that `data` begins with, or one of PROXY_… above.
cdef Py_ssize_t proxy_parse(const unsigned char *data, size_t n, tg_proxy *out) noexcept nogil
# Appends a header of `version` 1 or 2, of a connection or of `datagrams`; version 1 has no room for these, for `tlvs`
# and `checksum`. 0, or -1 (no memory, too long).
cdef int proxy_write(tg_buffer *out, int version, const tg_ends *ends, const tg_tlvs *tlvs, bint checksum,
                     bint datagrams) noexcept nogil
