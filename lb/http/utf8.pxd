"""Bytes of clients as characters, for JSON (RFC 8259 section 7)."""

from libc.stdint cimport uint32_t

cdef enum:
    JSON_ESCAPE = 12                  # most bytes that `json_point` writes


# Length of the sequence of UTF-8 that `text` begins with (RFC 3629 section 4), and its code point; 0: of `n` bytes it
# begins with none.
cdef inline size_t utf8_point(const char *text, size_t n, uint32_t *point) noexcept nogil:
    cdef unsigned char first = <unsigned char>text[0], c
    cdef size_t size, i
    if first < 0x80:
        point[0] = first
        return 1
    if 0xC2 <= first <= 0xDF:
        size = 2
        point[0] = first & 0x1F
    elif 0xE0 <= first <= 0xEF:
        size = 3
        point[0] = first & 0x0F
    elif 0xF0 <= first <= 0xF4:
        size = 4
        point[0] = first & 0x07
    else:
        return 0
    if size > n:
        return 0
    for i in range(1, size):
        c = <unsigned char>text[i]
        if c & 0xC0 != 0x80:
            return 0
        point[0] = point[0] << 6 | (c & 0x3F)
    if size == 3 and (point[0] < 0x800 or 0xD800 <= point[0] <= 0xDFFF):
        return 0                      # longer than it has to be, or half of a pair of UTF-16
    if size == 4 and not 0x10000 <= point[0] <= 0x10FFFF:
        return 0
    return size


# Writes the escape of a code point, of one beyond U+FFFF a pair of them, and returns its length.
cdef inline size_t json_point(char *into, uint32_t point) noexcept nogil:
    if point < 0x10000:
        return json_unit(into, point)
    point -= 0x10000
    json_unit(into, 0xD800 | point >> 10)
    return 6 + json_unit(into + 6, 0xDC00 | (point & 0x3FF))


cdef inline size_t json_unit(char *into, uint32_t unit) noexcept nogil:
    cdef int i
    cdef uint32_t digit
    into[0] = 92
    into[1] = 117
    for i in range(4):
        digit = unit >> (12 - 4 * i) & 15
        into[2 + i] = <char>(digit + (48 if digit < 10 else 55))
    return 6
