"""Request methods: the numbers are llhttp's, and `M_OTHER` (lb.http.head) stands for those it has none for."""

from lb.http.head cimport Scan

# The number of a method: llhttp's, M_OTHER = it has none, -1 = no request may have it (RFC 9113 section 3.4), or not a
# token at all (RFC 9110 section 9.1).
cdef int method_number(const char *name, size_t n) noexcept nogil
# RFC 9110 section 5.6.2.
cdef bint is_token(const char *text, size_t n) noexcept nogil
cdef const char *method_name(int method) noexcept        # not of M_OTHER
# The name of a request's method, which may be another than its scan has, and its length.
cdef const char *method_text(const Scan *scan, int method, size_t *n) noexcept
