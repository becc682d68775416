"""Tokens: see token.pxd."""

cdef const char *DIGITS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


cdef inline int value_of(unsigned char c) noexcept nogil:
    if 65 <= c <= 90:
        return c - 65
    if 97 <= c <= 122:
        return c - 71
    if 48 <= c <= 57:
        return c + 4
    if c == 45:
        return 62
    return 63 if c == 95 else -1


cdef void write_token(const unsigned char *token, char *text) noexcept nogil:
    cdef unsigned bits = 0
    cdef int held = 0, i, at = 0
    for i in range(TOKEN):
        bits = bits << 8 | token[i]
        held += 8
        while held >= 6:
            held -= 6
            text[at] = DIGITS[bits >> held & 63]
            at += 1
        bits &= (1u << held) - 1
    text[at] = DIGITS[bits << (6 - held) & 63]


cdef bint read_token(const char *text, unsigned char *token) noexcept nogil:
    cdef unsigned bits = 0
    cdef int held = 0, i, at = 0, value
    for i in range(TOKEN_TEXT):
        value = value_of(<unsigned char>text[i])
        if value < 0:
            return False
        bits = bits << 6 | <unsigned>value
        held += 6
        if held >= 8:
            held -= 8
            token[at] = <unsigned char>(bits >> held & 255)
            at += 1
            bits &= (1u << held) - 1
    return at == TOKEN and bits == 0
