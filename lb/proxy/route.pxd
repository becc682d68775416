"""Routes: which pool answers a request. The first that matches, in the order of the configuration."""

from libc.stdint cimport uint64_t
from lb.upstream.pool cimport Pool


cdef class Route:
    cdef readonly str name
    cdef readonly Pool pool
    cdef uint64_t *series             # this worker's words
    cdef readonly bint cache
    cdef readonly uint64_t cache_ttl
    cdef readonly uint64_t timeout
    cdef readonly uint64_t max_body
    cdef readonly bint expose_endpoint
    cdef bytes host
    cdef bint host_suffix             # "*.example.org": host holds ".example.org"
    cdef int path_kind
    cdef bytes path
    cdef object regex
    cdef uint64_t methods             # set of llhttp methods; 0 = any

    cdef bint matches_host(self, const char *host, size_t n) noexcept
    cdef bint matches_path(self, const char *path, size_t n) noexcept


cdef class RouteTable:
    cdef tuple routes
    # The route of a request, or None; then *other_method says that only the method was wrong. `host` is without port.
    cdef Route find(self, const char *host, size_t host_length, const char *path, size_t path_length, int method,
                    bint *other_method)
