"""What a route does to a request before its exchange begins: see actions.pxd."""

from libc.stdint cimport uint32_t
from libc.string cimport memchr
from lb.failure cimport FAIL_NO_MEMORY, FAIL_PATH_TOO_LONG, FAIL_ROUTE_FULL, FAIL_TOO_MANY_FIELDS
from lb.net.buffer cimport tg_buffer, tg_buffer_append, tg_buffer_clear, tg_buffer_head, tg_buffer_size
from lb.http.head cimport Scan
from lb.proxy.exchange.exchange cimport Exchange
from lb.proxy.routing.rewrite cimport Rewrite
from lb.proxy.routing.route cimport Route

# A rewritten target, until the exchange has built its request from it, which is before the next one begins.
cdef tg_buffer rewritten


cdef bint admit(Exchange exchange, Scan *scan) noexcept:
    cdef Route route = exchange.route
    cdef int failed = 0
    if route.retry is not None:
        route.retry.budget.begin(exchange.started)
    if route.hedge is not None:
        route.hedge.budget.begin(exchange.started)
    if route.full():
        exchange.request_complete = scan.complete    # then the connection can go on
        exchange.fail(FAIL_ROUTE_FULL, f"the route takes {route.max_in_flight} requests at a time")
        return False
    if route.answer is not None:
        return True
    if route.rewrite is not None:
        failed = new_target(route.rewrite, scan)
    if failed == 0 and route.request_fields is not None:
        failed = route.request_fields.apply(scan)
        if failed:
            exchange.fail(FAIL_TOO_MANY_FIELDS, "the header fields are too many")
            return False
    if failed == -1:
        exchange.fail(FAIL_NO_MEMORY, "out of memory")
    elif failed:
        exchange.fail(FAIL_PATH_TOO_LONG, "the rewritten path is too long")
    return failed == 0


cdef int new_target(Rewrite rewrite, Scan *scan) noexcept:
    cdef const char *query = NULL
    cdef size_t n = scan.target_length
    cdef int failed
    if n == 0 or scan.target[0] != 47:
        return 0                              # the "*" of OPTIONS
    query = <const char *>memchr(scan.target, 63, n)
    if query != NULL:
        n = <size_t>(query - scan.target)
    tg_buffer_clear(&rewritten)
    failed = rewrite.append(&rewritten, scan.target, n)
    if failed:
        return failed
    if query != NULL and tg_buffer_append(&rewritten, query, scan.target_length - n) < 0:
        return -1
    scan.target = tg_buffer_head(&rewritten)
    scan.target_length = <uint32_t>tg_buffer_size(&rewritten)
    return 0
