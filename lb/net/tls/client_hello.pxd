"""What a TLS ClientHello asks for, read without taking part: bytes in, struct out, no I/O and no cryptography.

Sources: RFC 8446 (TLS 1.3) sections 4.1.2 and 5.1, RFC 6066 section 3 (server_name), RFC 7301 section 3.1 (ALPN),
RFC 8701 (GREASE: unknown values are skipped). With Encrypted Client Hello the name is that of the outer hello.
"""


cdef enum:
    HELLO_MORE = 0                    # what is there is right, and not all
    HELLO_NOT_TLS = -1                # no TLS record, or one that cannot begin a connection
    HELLO_BAD = -2                    # TLS, but no ClientHello that may be understood
    HELLO_LONG = -3                   # longer than the limits below

cdef enum:
    HELLO_MAX = 16384                 # of the message: those of browsers with post-quantum keys have about 2000 bytes
    HELLO_RAW = 32768                 # with the headers of its records; a peer may cut it into many


ctypedef struct tg_hello:
    char sni[256]                     # in lower case, without a dot at its end
    size_t sni_length                 # 0 = none was asked for
    const unsigned char *alpn         # the protocols as on the wire: length and name, one behind the other
    size_t alpn_length


# `data` is all that came since the connection began. Positive = the ClientHello is whole and in `out`, else one of
# HELLO_… above. `work` has room for HELLO_MAX bytes; out.alpn points into it.
cdef int hello_parse(const unsigned char *data, size_t n, unsigned char *work, tg_hello *out) noexcept nogil
# Whether the client offers the protocol `name`.
cdef bint hello_offers(const tg_hello *hello, const char *name, size_t n) noexcept nogil
