"""Request methods by number and by name: see methods.pxd for the contract."""

from libc.string cimport memchr, memcmp, strlen
from lb.http.head cimport M_OTHER

cdef extern from "<llhttp.h>" nogil:
    const char *llhttp_method_name(int method)

cdef enum:
    METHODS = 35                      # llhttp's numbers from here on are not HTTP's (RTSP), but for:
    M_QUERY = 46
    M_PRI = 34                        # no method, but how HTTP/2 begins


cdef int method_number(const char *name, size_t n) noexcept nogil:
    cdef int i
    cdef const char *known
    if n == 4 and memcmp(name, b"POST", 4) == 0:
        return 3
    if n == 3 and memcmp(name, b"GET", 3) == 0:
        return 1
    if n == 5 and memcmp(name, b"QUERY", 5) == 0:
        return M_QUERY
    for i in range(METHODS):
        known = llhttp_method_name(i)
        if strlen(known) == n and memcmp(known, name, n) == 0:
            return i if i != M_PRI else -1
    return M_OTHER if is_token(name, n) else -1


cdef bint is_token(const char *text, size_t n) noexcept nogil:
    cdef size_t i
    for i in range(n):
        if not is_token_octet(<unsigned char>text[i]):
            return False
    return n > 0


cdef bint is_token_octet(unsigned char c) noexcept nogil:
    """tchar of RFC 9110 section 5.6.2."""
    return (48 <= c <= 57 or 65 <= (c & 0xDF) <= 90
            or (33 <= c <= 126 and memchr(b"!#$%&'*+-.^_`|~", c, 15) != NULL))


cdef const char *method_name(int method) noexcept:
    return llhttp_method_name(method)


cdef const char *method_text(const Scan *scan, int method, size_t *n) noexcept:
    cdef const char *name
    if method == M_OTHER:
        n[0] = scan.method_length
        return scan.method_text
    name = llhttp_method_name(method)
    n[0] = strlen(name)
    return name
