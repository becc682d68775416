"""Redirects and cookies of endpoints made to fit what clients see. URLs and cookies name paths and hosts as the
endpoint knows them; the route's rewrite is undone there."""

from lb.http.head cimport Scan


cdef class ResponseRewrite:
    cdef bint undo                    # the route's rewrite, in URLs
    cdef bytes inside                 # how paths begin for the endpoint; b"" = as for the client
    cdef bytes outside
    cdef bytes host                   # the endpoint's for this route; b"" = the client's
    cdef tuple locations              # pairs: how a URL begins, and what replaces that
    cdef tuple cookie_paths           # likewise
    cdef tuple cookie_domains         # pairs: in lower case, and what replaces it; b"" = the attribute goes
    cdef readonly bint wants_host     # the Host that the client asked for matters
    cdef dict cookie_flags            # by name, b"*" for all others: the attributes that go, and the text that comes
    cdef bint cookies                 # some of these are for cookies

    # Whether an answer has fields that `apply` may change.
    cdef bint concerns(self, const Scan *scan) noexcept nogil
    # Changes the fields of an endpoint's answer. `asked`: the request's Host, or None; `address`: the endpoint's. 0, or
    # -1: no memory, or the fields would grow beyond all measure; then they stay as they are. The texts lie in a buffer
    # of the worker's, until the next call.
    cdef int apply(self, Scan *scan, bytes asked, bytes address) noexcept
    cdef int append_url(self, const char *text, size_t n, bytes asked, bytes address) noexcept
    cdef int append_undone(self, const char *text, size_t n, bytes asked, bytes address) noexcept
    cdef int append_refresh(self, const char *text, size_t n, bytes asked, bytes address) noexcept
    cdef int append_cookie(self, const char *text, size_t n) noexcept
    cdef int append_attribute(self, const char *text, size_t n) noexcept
