"""The authority of a request: see authority.pxd."""

from libc.string cimport memchr, memcpy
from lb.net.ip cimport AF_INET6, IP_TEXT

cdef extern from "<arpa/inet.h>" nogil:
    int inet_pton(int family, const char *text, void *into)

cdef enum:
    PORT_MOST = 65535

# Of a name (RFC 3986 section 3.2.2, without pct-encoded), and what an address of the future may have besides a colon.
cdef unsigned char NAME_BYTES[256]


cdef void know_name_bytes() noexcept:
    cdef int c
    for c in range(256):
        NAME_BYTES[c] = (48 <= c <= 57 or 65 <= c <= 90 or 97 <= c <= 122
                         or (33 <= c < 127 and memchr(b"-._~!$&'()*+,;=", c, 15) != NULL))


know_name_bytes()


cdef bint read_authority(const char *text, size_t n, size_t *host_length) noexcept nogil:
    cdef size_t i = 0
    if n and text[0] == c"[":
        i = literal_length(text, n)
        if i == 0:
            return False
    else:
        while i < n and NAME_BYTES[<unsigned char>text[i]]:
            i += 1
    host_length[0] = i
    if i == n:
        return True
    return i > 0 and text[i] == c":" and is_port(text + i + 1, n - i - 1)


cdef bint is_port(const char *text, size_t n) noexcept nogil:
    cdef unsigned int value = 0
    cdef size_t i
    for i in range(n):
        if not c"0" <= text[i] <= c"9":
            return False
        value = value * 10 + <unsigned int>(text[i] - 48)
        if value > PORT_MOST:
            return False
    return True


cdef size_t literal_length(const char *text, size_t n) noexcept nogil:
    """Length of an address in brackets, with them; 0: it is none."""
    cdef char copy[IP_TEXT]
    cdef unsigned char address[16]
    cdef const char *stop = <const char *>memchr(text, c"]", n)
    cdef size_t size
    if stop == NULL:
        return 0
    size = <size_t>(stop - text) - 1
    if size and text[1] | 32 == c"v":
        return size + 2 if is_future(text + 1, size) else 0
    if size == 0 or size >= IP_TEXT or memchr(text + 1, 0, size) != NULL:
        return 0
    memcpy(copy, text + 1, size)
    copy[size] = 0
    return size + 2 if inet_pton(AF_INET6, copy, address) == 1 else 0


cdef bint is_future(const char *text, size_t n) noexcept nogil:
    """IPvFuture: "v", hexadecimal digits, a dot, and at least one byte more."""
    cdef size_t i = 1, begun
    while i < n and (c"0" <= text[i] <= c"9" or c"a" <= text[i] | 32 <= c"f"):
        i += 1
    if i == 1 or i >= n or text[i] != c".":
        return False
    i += 1
    begun = i
    while i < n and (NAME_BYTES[<unsigned char>text[i]] or text[i] == c":"):
        i += 1
    return i == n and i > begun
