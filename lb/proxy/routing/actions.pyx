"""What a route does to a request before its exchange begins: see actions.pxd."""

from libc.stdint cimport uint32_t
from libc.string cimport memchr
from lb.failure cimport (
    FAIL_BAD_REQUEST, FAIL_NO_MEMORY, FAIL_PATH_TOO_LONG, FAIL_ROUTE_FULL, FAIL_TOO_MANY_FIELDS,
)
from lb.net.buffer cimport tg_buffer, tg_buffer_append, tg_buffer_clear, tg_buffer_head, tg_buffer_size
from lb.http.head cimport H_HOST, Field, Scan
from lb.proxy.exchange.exchange cimport Exchange
from lb.proxy.routing.headers.fields cimport FORMAT_FAILED
from lb.proxy.routing.rewrite cimport Rewrite
from lb.proxy.routing.route cimport Route
from lb.proxy.routing.values.format cimport FORMAT_NO_MEMORY, FORMAT_REFUSED, tg_values
from lb.proxy.routing.values.gather cimport gather

# A rewritten target, until the exchange has built its request from it, which is before the next one begins.
cdef tg_buffer rewritten
# Fields of the access log, while they are made.
cdef tg_buffer fields


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
        return route.log_format is None or keep_texts(exchange, scan, NULL)
    if route.values is not None:
        return admit_values(exchange, scan, route)
    if route.response_rewrite is not None and not keep_texts(exchange, scan, NULL):
        return False
    if route.rewrite is not None:
        failed = new_target(route.rewrite, scan, NULL)
    if failed == 0 and route.request_fields is not None:
        failed = route.request_fields.apply(scan)
        if failed:
            exchange.fail(FAIL_TOO_MANY_FIELDS, "the header fields are too many")
            return False
    if failed == FORMAT_REFUSED:
        return refuse_value(exchange, failed, "the rewritten path")
    if failed == FORMAT_NO_MEMORY:
        exchange.fail(FAIL_NO_MEMORY, "out of memory")
    elif failed:
        exchange.fail(FAIL_PATH_TOO_LONG, "the rewritten path is too long")
    return failed == 0


cdef bint admit_values(Exchange exchange, Scan *scan, Route route) noexcept:
    """The same where the route's texts have values: they are of the request as it came."""
    cdef tg_values values
    cdef int failed = 0
    gather(&values, exchange, scan, route.values)
    if not keep_texts(exchange, scan, &values):
        return False
    if route.request_fields is not None:
        if route.request_fields.valued:
            failed = route.request_fields.apply_values(scan, &values)
        else:
            failed = route.request_fields.apply(scan)
        if failed < FORMAT_NO_MEMORY:
            return refuse_value(exchange, failed + FORMAT_FAILED, "a header")
        if failed:
            exchange.fail(FAIL_TOO_MANY_FIELDS, "the header fields are too many")
            return False
    if route.rewrite is not None:
        failed = new_target(route.rewrite, scan, &values)
        if failed == FORMAT_NO_MEMORY or failed == FORMAT_REFUSED:
            return refuse_value(exchange, failed, "the rewritten path")
        if failed:
            exchange.fail(FAIL_PATH_TOO_LONG, "the rewritten path is too long")
            return False
    return True


cdef bint keep_texts(Exchange exchange, Scan *scan, const tg_values *gathered) noexcept:
    """Keeps what the answer's head and the access log say of the request, which is gone by then. False: it has been
    answered."""
    cdef Route route = exchange.route
    cdef tg_values values
    cdef tuple kept = ()
    cdef int failed = 0
    cdef bint valued = route.response_fields is not None and route.response_fields.valued
    cdef bint logs = route.log_format is not None and exchange.recorded()
    cdef bint wants_host = route.response_rewrite is not None and route.response_rewrite.wants_host
    if not valued and not logs and not wants_host:
        return True
    if gathered == NULL and (valued or logs):
        gather(&values, exchange, scan, route.values)
        gathered = &values
    try:
        if valued:
            kept = route.response_fields.keep(gathered, &failed)
        if wants_host and failed == 0:
            kept = kept + (host_of(scan),)
        if route.log_format is not None and failed == 0:
            kept = kept + (logged(exchange, gathered),)
    except MemoryError:
        failed = FORMAT_NO_MEMORY
    if failed:
        return refuse_value(exchange, failed, "a header of the answer")
    exchange.kept = kept
    return True


cdef bytes host_of(const Scan *scan):
    """The host that the client asked for, with its port; b"" where it named none."""
    cdef const Field *field
    if scan.first[H_HOST] < 0:
        return b""
    field = &scan.fields[scan.first[H_HOST]]
    return field.value[:field.value_length]


cdef bytes logged(Exchange exchange, const tg_values *values):
    """The route's own fields of the access log, behind the texts of the answer; b"" where they are too long."""
    if not exchange.recorded():
        return b""
    tg_buffer_clear(&fields)
    if exchange.route.log_format.append(&fields, values) < 0:
        return b""
    return tg_buffer_head(&fields)[:tg_buffer_size(&fields)]


cdef bint refuse_value(Exchange exchange, int failed, str what) noexcept:
    if failed == FORMAT_NO_MEMORY:
        exchange.fail(FAIL_NO_MEMORY, "out of memory")
    elif failed == FORMAT_REFUSED:
        exchange.fail(FAIL_BAD_REQUEST, f"{what} cannot be made of this request: a value has what may not stand there")
    else:
        exchange.fail(FAIL_TOO_MANY_FIELDS, f"{what} cannot be made of this request: it would be too long")
    return False


cdef int new_target(Rewrite rewrite, Scan *scan, const tg_values *values) noexcept:
    cdef const char *query = NULL
    cdef size_t n = scan.target_length
    cdef int failed
    if n == 0 or scan.target[0] != 47:
        return 0                              # the "*" of OPTIONS
    query = <const char *>memchr(scan.target, 63, n)
    if query != NULL:
        n = <size_t>(query - scan.target)
    tg_buffer_clear(&rewritten)
    if rewrite.format is not None:
        failed = rewrite.append_format(&rewritten, scan.target, n, values)
    else:
        failed = rewrite.append(&rewritten, scan.target, n)
    if failed:
        return failed
    if query != NULL and tg_buffer_append(&rewritten, query, scan.target_length - n) < 0:
        return -1
    scan.target = tg_buffer_head(&rewritten)
    scan.target_length = <uint32_t>tg_buffer_size(&rewritten)
    return 0
