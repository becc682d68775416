"""What a TLS ClientHello asks for: see client_hello.pxd.

The handshake message may be cut into records, and records into segments, anywhere (RFC 8446 section 5.1): what has come
is joined in `work` and read once it is whole.
"""

from libc.string cimport memcmp, memcpy, memset

cdef enum:
    RECORD_HEADER = 5
    RECORD_MAX = 16384                # RFC 8446 section 5.1: 2^14 bytes
    MESSAGE_HEADER = 4
    HANDSHAKE = 22
    CLIENT_HELLO = 1
    SERVER_NAME = 0
    HOST_NAME = 0
    ALPN = 16


# What is left of a vector.
cdef struct tg_span:
    const unsigned char *at
    size_t left


cdef inline size_t big16(const unsigned char *p) noexcept nogil:
    return (<size_t>p[0] << 8) | <size_t>p[1]


cdef int hello_parse(const unsigned char *data, size_t n, unsigned char *work, tg_hello *out) noexcept nogil:
    cdef size_t at = 0, have = 0, size, length, take
    memset(out, 0, sizeof(tg_hello))
    while True:
        if (n > at and data[at] != HANDSHAKE) or (n > at + 1 and data[at + 1] != 3):
            return HELLO_NOT_TLS if at == 0 else HELLO_BAD
        if n - at < RECORD_HEADER:
            break
        length = big16(data + at + 3)
        if length == 0 or length > RECORD_MAX:
            return HELLO_BAD          # section 5.1: no empty fragments of a handshake
        take = n - at - RECORD_HEADER
        if take > length:
            take = length
        if take > HELLO_MAX - have:
            take = HELLO_MAX - have   # enough: a longer message is refused below
        memcpy(work + have, data + at + RECORD_HEADER, take)
        have += take
        if have and work[0] != CLIENT_HELLO:
            return HELLO_BAD
        if have >= MESSAGE_HEADER:
            size = MESSAGE_HEADER + ((<size_t>work[1] << 16) | big16(work + 2))
            if size > HELLO_MAX:
                return HELLO_LONG
            if have >= size:
                return read_hello(work + MESSAGE_HEADER, size - MESSAGE_HEADER, out)
        if n - at - RECORD_HEADER < length:
            break
        at += RECORD_HEADER + length
    return HELLO_MORE if n < HELLO_RAW else HELLO_LONG


cdef inline bint skip(tg_span *span, size_t n) noexcept nogil:
    if span.left < n:
        return False
    span.at += n
    span.left -= n
    return True


cdef inline bint take_vector(tg_span *span, int width, tg_span *into) noexcept nogil:
    """A vector behind its length, which has 1 or 2 bytes."""
    cdef size_t n
    if span.left < <size_t>width:
        return False
    n = span.at[0] if width == 1 else big16(span.at)
    skip(span, <size_t>width)
    into.at = span.at
    into.left = n
    return skip(span, n)


cdef int read_hello(const unsigned char *body, size_t n, tg_hello *out) noexcept nogil:
    """RFC 8446 section 4.1.2; the same since TLS 1.0, where a hello may also end without extensions."""
    cdef tg_span rest, vector, extensions, content
    cdef bint named = False, offered = False
    cdef size_t kind
    rest.at = body
    rest.left = n
    if n < 2 or body[0] != 3 or not skip(&rest, 2 + 32):
        return HELLO_BAD
    if not take_vector(&rest, 1, &vector) or vector.left > 32:
        return HELLO_BAD              # legacy_session_id
    if not take_vector(&rest, 2, &vector) or vector.left < 2 or vector.left & 1:
        return HELLO_BAD              # cipher_suites
    if not take_vector(&rest, 1, &vector) or vector.left < 1:
        return HELLO_BAD              # legacy_compression_methods
    if rest.left == 0:
        return 1
    if not take_vector(&rest, 2, &extensions) or rest.left:
        return HELLO_BAD
    while extensions.left:
        if extensions.left < 2:
            return HELLO_BAD
        kind = big16(extensions.at)
        skip(&extensions, 2)
        if not take_vector(&extensions, 2, &content):
            return HELLO_BAD
        if kind == SERVER_NAME:
            if named or not read_names(&content, out):
                return HELLO_BAD      # section 4.2: at most one extension of a type
            named = True
        elif kind == ALPN:
            if offered or not read_protocols(&content, out):
                return HELLO_BAD
            offered = True
    return 1


cdef bint read_names(tg_span *content, tg_hello *out) noexcept nogil:
    """RFC 6066 section 3: a list of names, at most one of a type; host_name is the only type there is."""
    cdef tg_span names, name
    cdef int kind
    if not take_vector(content, 2, &names) or content.left or names.left == 0:
        return False
    while names.left:
        kind = names.at[0]
        skip(&names, 1)
        if not take_vector(&names, 2, &name):
            return False
        if kind == HOST_NAME and (out.sni_length or not read_name(&name, out)):
            return False
    return True


cdef bint read_name(tg_span *name, tg_hello *out) noexcept nogil:
    """Letters, digits, `-`, `_` and `.`, which is what a name in DNS has: anything else could only mean mischief."""
    cdef size_t i
    cdef unsigned char c
    if name.left and name.at[name.left - 1] == 46:
        name.left -= 1                # not allowed, and harmless
    if name.left == 0 or name.left > 255:
        return False
    for i in range(name.left):
        c = name.at[i]
        if 65 <= c <= 90:
            c += 32
        elif not (97 <= c <= 122 or 48 <= c <= 57 or c == 45 or c == 46 or c == 95):
            return False
        out.sni[i] = <char>c
    out.sni_length = name.left
    return True


cdef bint read_protocols(tg_span *content, tg_hello *out) noexcept nogil:
    """RFC 7301 section 3.1: names of 1 to 255 bytes."""
    cdef tg_span names, name
    if not take_vector(content, 2, &names) or content.left or names.left == 0:
        return False
    out.alpn = names.at
    out.alpn_length = names.left
    while names.left:
        if not take_vector(&names, 1, &name) or name.left == 0:
            return False
    return True


cdef bint hello_offers(const tg_hello *hello, const char *name, size_t n) noexcept nogil:
    cdef tg_span names, protocol
    names.at = hello.alpn
    names.left = hello.alpn_length
    while names.left and take_vector(&names, 1, &protocol):
        if protocol.left == n and memcmp(protocol.at, name, n) == 0:
            return True
    return False
