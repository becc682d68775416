"""Who an exchange is from: see authentication.pxd."""

from libc.string cimport memchr
from lb.failure cimport FAIL_BAD_CREDENTIAL, FAIL_FORBIDDEN, FAIL_NO_CREDENTIAL, FAIL_NO_MEMORY, FAIL_TOO_MANY_FIELDS
from lb.http.head cimport Scan
from lb.net.buffer cimport tg_buffer, tg_buffer_append
from lb.proxy.access.guard cimport Guard
from lb.proxy.access.provider cimport ACCESS_FORBIDDEN, ACCESS_GRANTED, ACCESS_NONE, Known
from lb.proxy.exchange.exchange cimport Exchange

cdef bytes marked                     # the identity in the head that is being looked at, which points to it


cdef bint authenticate(Exchange exchange, Scan *scan) noexcept:
    cdef Guard guard = exchange.route.guard
    cdef Known found
    if not guard.asks:
        guard.mark(scan, b"")
        return True
    try:
        found = guard.look(scan, exchange.client.tls, exchange.started)
    except (MemoryError, ValueError):
        return refuse(exchange, scan, FAIL_NO_MEMORY, "out of memory")
    if found.state == ACCESS_GRANTED:
        return admit(exchange, scan, found.identity)
    if found.state == ACCESS_FORBIDDEN:
        note(exchange, found.identity)
        return refuse(exchange, scan, FAIL_FORBIDDEN, "Forbidden")
    if found.state == ACCESS_NONE:
        return refuse(exchange, scan, FAIL_NO_CREDENTIAL, "Unauthorized: the request says not who it is from")
    return refuse(exchange, scan, FAIL_BAD_CREDENTIAL, "Unauthorized: the credential is not accepted")


cdef bint refuse(Exchange exchange, Scan *scan, int kind, str message) noexcept:
    exchange.request_complete = scan.complete     # then the connection can go on
    exchange.fail(kind, message)
    return False


cdef void note(Exchange exchange, bytes identity) noexcept:
    """For the access log."""
    if exchange.recorded() and tg_buffer_append(
            &exchange.target, <const char *>identity, <size_t>len(identity)) == 0:
        exchange.identity_length = <unsigned char>len(identity)


cdef bint admit(Exchange exchange, Scan *scan, bytes identity) noexcept:
    global marked
    marked = identity
    note(exchange, identity)
    if exchange.route.guard.mark(scan, identity) < 0:
        return refuse(exchange, scan, FAIL_TOO_MANY_FIELDS, "the header fields are too many")
    return True


cdef int append_target(tg_buffer *into, Exchange exchange, const Scan *scan) noexcept:
    cdef const char *query = NULL
    if exchange.route.guard is not None and exchange.route.guard.in_query:
        query = <const char *>memchr(scan.target, 63, scan.target_length)
    return tg_buffer_append(
        into, scan.target, scan.target_length if query == NULL else <size_t>(query - scan.target))
