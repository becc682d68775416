"""What a route says of HTTP caching."""

from libc.stdint cimport int64_t


cdef class HttpCacheRules:
    cdef readonly int64_t ttl         # s of an answer that says nothing of its freshness; 0 = by Last-Modified
    cdef readonly int64_t stale_while_revalidate   # s, where the answer says nothing
    cdef readonly int64_t stale_if_error
    cdef readonly size_t max_object   # bytes; 0 = the cache's
    cdef readonly bint ignore_set_cookie
    cdef readonly bint request_directives
    cdef readonly bint query          # counts in the key
    cdef readonly bytes headers       # names that count in the key, in lower case, a comma behind each
