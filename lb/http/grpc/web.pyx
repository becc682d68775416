"""gRPC-Web to gRPC and back: see web.pxd for the contract."""

from libc.string cimport memset
from lb.net.buffer cimport (
    tg_buffer, tg_buffer_append, tg_buffer_head, tg_buffer_reserve, tg_buffer_size, tg_buffer_tail,
)
from lb.net.stream cimport iovec

cdef extern from "<strings.h>" nogil:
    int strncasecmp(const char *a, const char *b, size_t n)

cdef enum:
    FRAME_HEAD = 5                    # a flag byte and four bytes of length
    TRAILER_FLAG = 0x80
    PAD = 64                          # what '=' decodes to
    BAD = 65

cdef const char *WEB_TYPE = b"application/grpc-web"
cdef size_t WEB_TYPE_LENGTH = 20
cdef const char *ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
cdef unsigned char VALUES[256]


cdef void set_up() noexcept:
    cdef int i
    memset(VALUES, BAD, sizeof(VALUES))
    for i in range(64):
        VALUES[<unsigned char>ALPHABET[i]] = <unsigned char>i
    VALUES[61] = PAD


set_up()


cdef int web_kind(const char *type, size_t n, const char **format, size_t *format_length) noexcept nogil:
    cdef size_t at = WEB_TYPE_LENGTH, end
    cdef int kind = WEB_BINARY
    if n < at or strncasecmp(type, WEB_TYPE, at) != 0:
        return WEB_NONE
    if n >= at + 5 and strncasecmp(type + at, b"-text", 5) == 0:
        kind = WEB_TEXT
        at += 5
    end = at
    while end < n and type[end] != 59 and type[end] != 32:    # parameters are not passed on
        end += 1
    if end > at and type[at] != 43:                           # application/grpc-webby
        return WEB_NONE
    format[0] = type + at
    format_length[0] = end - at
    return kind


cdef int web_decode(tg_web_decoder *decoder, const char *data, size_t n, tg_buffer *out) noexcept nogil:
    cdef unsigned char *group = decoder.group
    cdef unsigned char value
    cdef char *to
    cdef size_t i
    # Each of n characters may end one group of three bytes only when it is a fourth one.
    if tg_buffer_reserve(out, (n + 3) // 4 * 3 + 3) < 0:
        return WEB_NO_MEMORY
    to = tg_buffer_tail(out)
    for i in range(n):
        value = VALUES[<unsigned char>data[i]]
        if value == BAD or (value == PAD and decoder.count < 2):
            return WEB_MALFORMED
        if value != PAD and decoder.count == 3 and group[2] == PAD:
            return WEB_MALFORMED                              # "xx=x"
        group[decoder.count] = value
        decoder.count += 1
        if decoder.count < 4:
            continue
        decoder.count = 0
        to[0] = <char>(group[0] << 2 | group[1] >> 4)
        if group[2] == PAD:
            if group[1] & 15:
                return WEB_MALFORMED                          # bits that nobody would read: not one text for one body
            out.end += 1
            to += 1
            continue
        to[1] = <char>((group[1] & 15) << 4 | group[2] >> 2)
        if group[3] == PAD:
            if group[2] & 3:
                return WEB_MALFORMED
            out.end += 2
            to += 2
            continue
        to[2] = <char>((group[2] & 3) << 6 | group[3])
        out.end += 3
        to += 3
    return WEB_OK


cdef int web_decode_end(const tg_web_decoder *decoder) noexcept nogil:
    return WEB_OK if decoder.count == 0 else WEB_MALFORMED


cdef inline void put_group(char *to, const unsigned char *three) noexcept nogil:
    to[0] = ALPHABET[three[0] >> 2]
    to[1] = ALPHABET[(three[0] & 3) << 4 | three[1] >> 4]
    to[2] = ALPHABET[(three[1] & 15) << 2 | three[2] >> 6]
    to[3] = ALPHABET[three[2] & 63]


cdef int web_encode(const iovec *parts, int count, tg_buffer *out) noexcept nogil:
    cdef unsigned char three[3]
    cdef const unsigned char *data
    cdef char *to
    cdef size_t total = 0, i
    cdef int part, held = 0
    for part in range(count):
        total += parts[part].iov_len
    if total == 0:
        return WEB_OK
    if tg_buffer_reserve(out, (total + 2) // 3 * 4) < 0:
        return WEB_NO_MEMORY
    to = tg_buffer_tail(out)
    for part in range(count):
        data = <const unsigned char *>parts[part].iov_base
        for i in range(parts[part].iov_len):
            three[held] = data[i]
            held += 1
            if held == 3:
                put_group(to, three)
                to += 4
                held = 0
    if held:
        three[2] = 0
        if held == 1:
            three[1] = 0
        put_group(to, three)
        to[3] = 61
        if held == 1:
            to[2] = 61
        to += 4
    out.end = <size_t>(to - out.data)
    return WEB_OK


cdef Py_ssize_t web_trailers_begin(tg_buffer *out) noexcept nogil:
    cdef char head[FRAME_HEAD]
    cdef Py_ssize_t begun = <Py_ssize_t>tg_buffer_size(out)
    memset(head, 0, sizeof(head))
    head[0] = <char>TRAILER_FLAG
    if tg_buffer_append(out, head, sizeof(head)) < 0:
        return WEB_NO_MEMORY
    return begun


cdef void web_trailers_end(tg_buffer *out, Py_ssize_t begun) noexcept nogil:
    cdef unsigned char *head = <unsigned char *>tg_buffer_head(out) + begun
    cdef size_t n = tg_buffer_size(out) - <size_t>begun - FRAME_HEAD
    head[1] = <unsigned char>(n >> 24)
    head[2] = <unsigned char>(n >> 16)
    head[3] = <unsigned char>(n >> 8)
    head[4] = <unsigned char>n
