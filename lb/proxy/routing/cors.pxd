"""Cross-origin requests: what a route tells browsers (the Fetch standard, section 3.3)."""

from lb.net.buffer cimport tg_buffer
from lb.http.head cimport Field, Scan


cdef class Cors:
    cdef readonly bint any            # every origin may ask, so that the answer does not depend on it
    cdef frozenset exact
    cdef tuple below                  # (what stands before the name, what ends it) of "https://*.example.org"
    cdef tuple regexes
    cdef bytes said                   # "Name: value\r\n" lines of an answer to an origin that may ask
    cdef bytes preflight              # the same of an answer to a preflight request

    # The request's Origin, if it has one that may ask; else NULL.
    cdef const Field *origin_of(self, const Scan *scan) noexcept
    cdef bint allows(self, const char *origin, size_t n) noexcept
    # The lines of an answer: to the origin, of `n` bytes; 0 = it may not ask, or there is none. 0 or -1 (no memory).
    cdef int append(self, tg_buffer *head, const char *origin, size_t n, bint preflight) noexcept


# The method that a preflight request asks for; NULL = it is none.
cdef const Field *preflight_method(const Scan *scan) noexcept
# Drops what an endpoint says of other origins from its answer's head.
cdef void drop_cors(Scan *scan) noexcept
