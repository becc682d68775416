"""Routes: see route.pxd."""

import re

from libc.stdint cimport uint64_t
from libc.string cimport memcmp
from lb.core.http1 cimport method_name
from lb.core.segment cimport Segment
from lb.upstream.pool cimport Pool

cdef extern from "<strings.h>" nogil:
    int strncasecmp(const char *a, const char *b, size_t n)

cdef enum:
    PATH_ANY = 0
    PATH_EXACT = 1
    PATH_PREFIX = 2
    PATH_REGEX = 3

cdef dict KINDS = {"": PATH_ANY, "exact": PATH_EXACT, "prefix": PATH_PREFIX, "regex": PATH_REGEX}
# llhttp numbers its methods from 0; those above 34 are not HTTP (RTSP).
cdef dict METHODS = {method_name(i).decode(): i for i in range(35)}


cdef class Route:
    """A route of a plan (`RoutePlan`), bound to its pool and to this worker's stripe of counters.

    Raises ValueError for a method that HTTP does not know.
    """

    def __init__(self, plan, Pool pool, Segment segment):
        self.name = plan.name
        self.pool = pool
        self.series = segment.series(plan.series)
        self.cache = plan.cache
        self.cache_ttl = plan.cache_ttl_ns
        self.timeout = plan.timeout_ns
        self.max_body = plan.max_body
        self.expose_endpoint = plan.expose_endpoint
        host = plan.host.encode("ascii")
        self.host_suffix = host.startswith(b"*.")
        self.host = host[1:] if self.host_suffix else host
        self.path_kind = KINDS[plan.path_kind]
        self.path = plan.path.encode()
        self.regex = re.compile(self.path) if self.path_kind == PATH_REGEX else None
        for method in plan.methods:
            if method not in METHODS:
                raise ValueError(f"not an HTTP method: {method}")
            self.methods |= <uint64_t>1 << <int>METHODS[method]

    cdef bint matches_host(self, const char *host, size_t n) noexcept:
        cdef size_t own = len(self.host)
        if own == 0:
            return True
        if self.host_suffix:
            return n > own and strncasecmp(host + n - own, <const char *>self.host, own) == 0
        return n == own and strncasecmp(host, <const char *>self.host, n) == 0

    cdef bint matches_path(self, const char *path, size_t n) noexcept:
        cdef size_t own = len(self.path)
        if self.path_kind == PATH_PREFIX:
            return n >= own and memcmp(path, <const char *>self.path, own) == 0
        if self.path_kind == PATH_EXACT:
            return n == own and memcmp(path, <const char *>self.path, own) == 0
        if self.path_kind == PATH_REGEX:
            return self.regex.search(path[:n]) is not None
        return True


cdef class RouteTable:

    def __init__(self, routes):
        self.routes = tuple(routes)

    cdef Route find(self, const char *host, size_t host_length, const char *path, size_t path_length, int method,
                    bint *other_method):
        cdef Route route
        cdef object item
        other_method[0] = False
        for item in self.routes:
            route = <Route>item
            if not route.matches_path(path, path_length) or not route.matches_host(host, host_length):
                continue
            if route.methods and not (route.methods >> method) & 1:
                other_method[0] = True
                continue
            other_method[0] = False
            return route
        return None
