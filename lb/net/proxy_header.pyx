"""The header of the PROXY protocol: see proxy_header.pxd."""

from libc.stdint cimport uint16_t, uint32_t
from libc.stdio cimport snprintf
from libc.string cimport memchr, memcmp, memcpy, memset
from lb.net.buffer cimport tg_buffer, tg_buffer_append, tg_buffer_head, tg_buffer_size
from lb.net.ip cimport AF_INET, AF_INET6, IP_TEXT

cdef extern from "<sys/socket.h>" nogil:
    ctypedef uint32_t socklen_t

cdef extern from "<arpa/inet.h>" nogil:
    const char *inet_ntop(int family, const void *address, char *text, socklen_t size)
    int inet_pton(int family, const char *text, void *into)

cdef extern from "crc32c.h" nogil:
    uint32_t tg_crc32c(uint32_t crc, const unsigned char *data, size_t n)

cdef const char *SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"

cdef enum:
    SIGNATURE_SIZE = 12
    FIXED_SIZE = 16                   # the part of version 2 that is always there
    PLACE = 3                         # a TLV's type and length
    # 2.2, the byte of family and transport
    INET = 1
    INET6 = 2
    UNIX = 3
    STREAM = 1
    DGRAM = 2
    # 2.2.1 to 2.2.6
    T_ALPN = 0x01
    T_AUTHORITY = 0x02
    T_CRC32C = 0x03
    T_NOOP = 0x04
    T_UNIQUE_ID = 0x05
    T_SSL = 0x20
    UNIQUE_ID_MAX = 128


cdef inline size_t big16(const unsigned char *p) noexcept nogil:
    return (<size_t>p[0] << 8) | <size_t>p[1]


cdef inline void put16(unsigned char *p, size_t value) noexcept nogil:
    p[0] = <unsigned char>(value >> 8)
    p[1] = <unsigned char>(value & 255)


cdef Py_ssize_t proxy_parse(const unsigned char *data, size_t n, tg_proxy *out) noexcept nogil:
    memset(out, 0, sizeof(tg_proxy))
    if n == 0:
        return PROXY_MORE
    if data[0] == 80:
        return parse_line(<const char *>data, n, out)
    return parse_binary(data, n, out)


# Version 1.


cdef Py_ssize_t parse_line(const char *data, size_t n, tg_proxy *out) noexcept nogil:
    """2.1: `PROXY TCP4 source target port port` and CRLF, one space between two words, at most 107 bytes."""
    cdef const char *newline
    cdef const char *text
    cdef size_t left
    cdef int family
    cdef tg_ends ends
    if memcmp(data, b"PROXY ", n if n < 6 else 6) != 0:
        return PROXY_NONE
    newline = <const char *>memchr(data, 10, n if n < PROXY_LINE_MAX else PROXY_LINE_MAX)
    if newline == NULL:
        return PROXY_MORE if n < PROXY_LINE_MAX else PROXY_BAD
    if (newline - 1)[0] != 13:          # there are at least the six bytes above before it
        return PROXY_BAD
    out.version = 1
    text = data + 6
    left = <size_t>(newline - 1 - text)
    if left >= 7 and memcmp(text, b"UNKNOWN", 7) == 0 and (left == 7 or text[7] == 32):
        return newline - data + 1     # the rest of the line is to be ignored
    if left < 5:
        return PROXY_BAD
    if memcmp(text, b"TCP4 ", 5) == 0:
        family = AF_INET
    elif memcmp(text, b"TCP6 ", 5) == 0:
        family = AF_INET6
    else:
        return PROXY_BAD
    text += 5
    left -= 5
    memset(&ends, 0, sizeof(ends))
    if take_address(&text, &left, family, ends.source) < 0 or take_address(&text, &left, family, ends.target) < 0:
        return PROXY_BAD
    if take_port(&text, &left, &ends.source_port, False) < 0 or take_port(&text, &left, &ends.target_port, True) < 0:
        return PROXY_BAD
    ends.family = family
    out.ends = ends
    return newline - data + 1


cdef int take_word(const char **text, size_t *left, char *word, size_t room, bint last) noexcept nogil:
    """The next word with a NUL behind it, taken with the space that ends it (the last word has none): its length, or
    -1."""
    cdef size_t i = 0
    while i < left[0] and text[0][i] != 32:
        if text[0][i] == 0:
            return -1
        i += 1
    if i == 0 or i >= room or (i == left[0]) != last:
        return -1
    memcpy(word, text[0], i)
    word[i] = 0
    if not last:
        text[0] = text[0] + i + 1
        left[0] = left[0] - i - 1
    return <int>i


cdef int take_address(const char **text, size_t *left, int family, unsigned char *into) noexcept nogil:
    cdef char word[IP_TEXT]
    if take_word(text, left, word, IP_TEXT, False) < 0:
        return -1
    return 0 if inet_pton(family, word, into) == 1 else -1


cdef int take_port(const char **text, size_t *left, uint16_t *into, bint last) noexcept nogil:
    """A decimal number up to 65535 without leading zeros."""
    cdef char word[6]
    cdef int n, i
    cdef unsigned int value = 0
    n = take_word(text, left, word, 6, last)
    if n < 0 or (n > 1 and word[0] == 48):
        return -1
    for i in range(n):
        if word[i] < 48 or word[i] > 57:
            return -1
        value = value * 10 + <unsigned int>(word[i] - 48)
    if value > 65535:
        return -1
    into[0] = <uint16_t>value
    return 0


# Version 2.


cdef Py_ssize_t parse_binary(const unsigned char *data, size_t n, tg_proxy *out) noexcept nogil:
    cdef size_t size, at = FIXED_SIZE
    cdef int family, transport
    if memcmp(data, SIGNATURE, n if n < SIGNATURE_SIZE else SIGNATURE_SIZE) != 0:
        return PROXY_NONE
    if n < FIXED_SIZE:
        return PROXY_MORE
    if data[12] >> 4 != 2 or (data[12] & 15) > 1:
        return PROXY_BAD
    family = data[13] >> 4
    transport = data[13] & 15
    out.local = (data[12] & 15) == 0
    # 2.2: receivers must drop connections with other values than the seven that are defined; LOCAL has none of them.
    if not out.local and (family > UNIX or transport > DGRAM or (family == 0) != (transport == 0)):
        return PROXY_BAD
    size = FIXED_SIZE + big16(data + 14)
    if size > PROXY_MAX:
        return PROXY_LONG
    if n < size:
        return PROXY_MORE
    out.version = 2
    if out.local or family == 0:
        return <Py_ssize_t>size       # 2.2: the block is to be discarded, the real ends of the connection count
    at += 12 if family == INET else 36 if family == INET6 else 216
    if at > size:
        return PROXY_BAD
    if transport == STREAM and family != UNIX:
        out.ends.family = AF_INET if family == INET else AF_INET6
        take_addresses(data, family == INET, &out.ends)
    return parse_tlvs(data, at, size, &out.tlvs)


cdef void take_addresses(const unsigned char *data, bint v4, tg_ends *ends) noexcept nogil:
    """2.2, `union proxy_addr`: source, target, and then the two ports."""
    cdef size_t width = 4 if v4 else 16
    cdef const unsigned char *at = data + FIXED_SIZE
    memcpy(ends.source, at, width)
    memcpy(ends.target, at + width, width)
    ends.source_port = <uint16_t>big16(at + 2 * width)
    ends.target_port = <uint16_t>big16(at + 2 * width + 2)


cdef Py_ssize_t parse_tlvs(const unsigned char *data, size_t at, size_t size, tg_tlvs *tlvs) noexcept nogil:
    """What follows the addresses; the last of several of one type counts. What is not known is skipped (2.2)."""
    cdef size_t length, checksum_at = 0
    cdef const unsigned char *value
    cdef int kind
    tlvs.all = data + at
    tlvs.all_length = size - at
    while at < size:
        if size - at < PLACE:
            return PROXY_BAD
        kind = data[at]
        length = big16(data + at + 1)
        if size - at - PLACE < length:
            return PROXY_BAD
        value = data + at + PLACE
        if kind == T_ALPN:
            tlvs.alpn = value
            tlvs.alpn_length = length
        elif kind == T_AUTHORITY:
            tlvs.authority = value
            tlvs.authority_length = length
        elif kind == T_SSL:
            tlvs.ssl = value
            tlvs.ssl_length = length
        elif kind == T_UNIQUE_ID:
            if length > UNIQUE_ID_MAX:
                return PROXY_BAD
            tlvs.unique_id = value
            tlvs.unique_id_length = length
        elif kind == T_CRC32C:
            if length != 4 or checksum_at:
                return PROXY_BAD
            checksum_at = at + PLACE
        at += PLACE + length
    if checksum_at and not sum_holds(data, size, checksum_at):
        return PROXY_CHECKSUM
    return <Py_ssize_t>size


cdef bint sum_holds(const unsigned char *data, size_t size, size_t at) noexcept nogil:
    """2.2.3: the checksum over the whole header with zeros in the place of the checksum itself."""
    cdef unsigned char zeros[4]
    cdef uint32_t crc, told
    memset(zeros, 0, 4)
    crc = tg_crc32c(0xFFFFFFFFu, data, at)
    crc = tg_crc32c(crc, zeros, 4)
    crc = ~tg_crc32c(crc, data + at + 4, size - at - 4)
    told = (<uint32_t>big16(data + at) << 16) | <uint32_t>big16(data + at + 2)
    return crc == told


# Writing.


cdef int proxy_write(tg_buffer *out, int version, const tg_ends *ends, const tg_tlvs *tlvs, bint checksum,
                     bint datagrams) noexcept nogil:
    if version == 1:
        return write_line(out, ends)
    return write_binary(out, ends, tlvs, checksum, datagrams)


cdef int write_line(tg_buffer *out, const tg_ends *ends) noexcept nogil:
    cdef char line[PROXY_LINE_MAX + 1]
    cdef char source[IP_TEXT]
    cdef char target[IP_TEXT]
    cdef int n
    if ends.family == 0:
        return tg_buffer_append(out, b"PROXY UNKNOWN\r\n", 15)
    if inet_ntop(ends.family, ends.source, source, IP_TEXT) == NULL:
        return -1
    if inet_ntop(ends.family, ends.target, target, IP_TEXT) == NULL:
        return -1
    n = snprintf(line, sizeof(line), b"PROXY TCP%c %s %s %u %u\r\n", <int>(52 if ends.family == AF_INET else 54),
                 <char *>source, <char *>target, <unsigned int>ends.source_port, <unsigned int>ends.target_port)
    if n < 0 or n > PROXY_LINE_MAX:
        return -1
    return tg_buffer_append(out, line, <size_t>n)


cdef int write_binary(tg_buffer *out, const tg_ends *ends, const tg_tlvs *tlvs, bint checksum,
                      bint datagrams) noexcept nogil:
    cdef unsigned char head[FIXED_SIZE + 36]
    cdef unsigned char zeros[4]
    cdef unsigned char *base
    cdef size_t start = tg_buffer_size(out), size = FIXED_SIZE, width
    cdef uint32_t crc
    cdef bint v4 = ends.family == AF_INET
    memset(head, 0, sizeof(head))
    memcpy(head, SIGNATURE, SIGNATURE_SIZE)
    if ends.family == 0:
        # LOCAL: there is no address to tell. Whatever followed would have to be discarded (2.2).
        head[12] = 0x20
        return tg_buffer_append(out, head, FIXED_SIZE)
    head[12] = 0x21
    head[13] = <unsigned char>(((INET if v4 else INET6) << 4) | (DGRAM if datagrams else STREAM))
    width = 4 if v4 else 16
    memcpy(&head[size], ends.source, width)
    memcpy(&head[size + width], ends.target, width)
    put16(&head[size + 2 * width], ends.source_port)
    put16(&head[size + 2 * width + 2], ends.target_port)
    size += 2 * width + 4
    if tg_buffer_append(out, head, size) < 0:
        return -1
    if append_tlv(out, T_ALPN, tlvs.alpn, tlvs.alpn_length) < 0:
        return -1
    if append_tlv(out, T_AUTHORITY, tlvs.authority, tlvs.authority_length) < 0:
        return -1
    if append_tlv(out, T_UNIQUE_ID, tlvs.unique_id, tlvs.unique_id_length) < 0:
        return -1
    if append_tlv(out, T_SSL, tlvs.ssl, tlvs.ssl_length) < 0:
        return -1
    if append_others(out, tlvs, start) < 0:
        return -1
    if checksum:
        memset(zeros, 0, 4)
        if append_tlv(out, T_CRC32C, zeros, 4) < 0:
            return -1
    size = tg_buffer_size(out) - start
    if size > PROXY_MAX:
        return -1
    base = <unsigned char *>tg_buffer_head(out) + start
    put16(base + 14, size - FIXED_SIZE)
    if checksum:
        crc = ~tg_crc32c(0xFFFFFFFFu, base, size)
        put16(base + size - 4, crc >> 16)
        put16(base + size - 2, crc & 0xFFFF)
    return 0


cdef int append_others(tg_buffer *out, const tg_tlvs *tlvs, size_t start) noexcept nogil:
    """The fields of types that are not understood here: custom ones, those of clouds, those of later versions. The
    block has been parsed, so that its lengths hold. Padding is left out, as is the sum over another header, and what
    would make the header, which begins at `start`, longer than receivers take."""
    cdef size_t at = 0, length
    cdef int kind
    while at < tlvs.all_length:
        kind = tlvs.all[at]
        length = PLACE + big16(tlvs.all + at + 1)
        if kind not in (T_ALPN, T_AUTHORITY, T_CRC32C, T_NOOP, T_UNIQUE_ID, T_SSL) \
                and tg_buffer_size(out) - start + length + PLACE + 4 <= PROXY_MAX:
            if tg_buffer_append(out, tlvs.all + at, length) < 0:
                return -1
        at += length
    return 0


cdef int append_tlv(tg_buffer *out, int kind, const unsigned char *value, size_t n) noexcept nogil:
    cdef unsigned char place[PLACE]
    if n == 0:
        return 0
    if n > 65535:
        return -1
    place[0] = <unsigned char>kind
    put16(&place[1], n)
    if tg_buffer_append(out, place, PLACE) < 0:
        return -1
    return tg_buffer_append(out, value, n)
