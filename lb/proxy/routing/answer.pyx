"""Exchanges that their route answers itself: see answer.pxd. They are counted and logged as any other."""

from libc.string cimport memchr, memcmp, memset, strcmp, strlen
from posix.strings cimport strncasecmp
from lb.failure cimport FAIL_NO_HOST, FAIL_NO_MEMORY, FAIL_NO_ROUTE
from lb.net.buffer cimport tg_buffer, tg_buffer_append, tg_buffer_free, tg_buffer_head, tg_buffer_size
from lb.http.head cimport H_HOST, H_X_FORWARDED_PROTO, Field, Scan
from lb.http.head_text cimport append_text
from lb.net.stream cimport iovec
from lb.proxy.exchange.exchange cimport Exchange
from lb.proxy.routing.actions cimport refuse_value
from lb.proxy.routing.rewrite cimport Rewrite
from lb.proxy.routing.route cimport Answer
from lb.proxy.routing.values.format cimport FORMAT_NO_MEMORY, Format, tg_values
from lb.proxy.routing.values.gather cimport gather


cdef enum:
    NOWHERE = -100                    # beside FORMAT_…: a redirect would lead back to the request's own URL


cdef void give_answer(Exchange exchange, Scan *scan) noexcept:
    cdef tg_buffer head
    cdef Answer answer = exchange.route.answer
    cdef const char *host
    cdef size_t n
    cdef int failed
    memset(&head, 0, sizeof(head))
    # A body that is still coming is not waited for: the client's connection closes it off.
    exchange.request_complete = scan.complete
    exchange.bytes_in = scan.body_bytes
    if exchange.route.values is not None:
        give_made(exchange, scan, answer)
        return
    if answer.redirect and len(answer.scheme) and strcmp(answer.scheme, scheme_of(exchange, scan)) != 0 and (
            not find_host(scan, answer, answer.host, &host, &n)):
        # HTTP/1.0 needs none, and HTTP/1.1 may have an empty one: a relative Location would lead back here.
        exchange.fail(FAIL_NO_HOST, "the request names no host, without which it cannot be sent to another scheme")
        return
    failed = tg_buffer_append(&head, <const char *>answer.head, <size_t>len(answer.head))
    if failed == 0 and answer.redirect:
        failed = append_location(exchange, &head, scan, answer, answer.host, NULL)
    if failed:
        refuse(exchange, failed)
    else:
        give_own(exchange, answer.status, &head, answer.body)
    tg_buffer_free(&head)


cdef void give_made(Exchange exchange, Scan *scan, Answer answer) noexcept:
    """The same where the answer's texts have values of the request."""
    cdef tg_buffer head
    cdef tg_values values
    cdef const char *host = NULL
    cdef size_t n = 0
    cdef int failed = 0
    cdef bytes body = answer.body, to = answer.host
    memset(&head, 0, sizeof(head))
    gather(&values, exchange, scan, exchange.route.values)
    try:
        if answer.body_format is not None:
            body = made(answer.body_format, &values, &failed)
        if answer.host_format is not None and failed == 0:
            to = made(answer.host_format, &values, &failed)
    except MemoryError:
        failed = FORMAT_NO_MEMORY
    if failed == 0 and answer.redirect and answer.location is None and (
            len(answer.scheme) and strcmp(answer.scheme, scheme_of(exchange, scan)) != 0
            or answer.host_format is not None) and not find_host(scan, answer, to, &host, &n):
        exchange.fail(FAIL_NO_HOST, "the request names no host, without which it cannot be sent to another one")
        return
    if failed == 0:
        failed = append_head(exchange, &head, scan, answer, to, &values)
    if failed:
        refuse(exchange, failed)
    else:
        give_own(exchange, answer.status, &head, body)
    tg_buffer_free(&head)


cdef void refuse(Exchange exchange, int failed) noexcept:
    if failed == NOWHERE:
        exchange.fail(FAIL_NO_ROUTE, "the redirect has no other place for this path: its expression changes nothing")
    else:
        refuse_value(exchange, failed, "the answer")


cdef int append_head(Exchange exchange, tg_buffer *head, Scan *scan, Answer answer, bytes host,
                     const tg_values *values) noexcept:
    """The head of an answer whose texts have values. 0, FORMAT_… or NOWHERE."""
    cdef int failed = tg_buffer_append(head, <const char *>answer.head, <size_t>len(answer.head))
    if failed == 0 and answer.fields is not None:
        failed = answer.fields.append_values(head, values)
    if failed or not answer.redirect:
        return failed
    if answer.location is None:
        return append_location(exchange, head, scan, answer, host, values)
    if append_text(head, b"Location: ") < 0:
        return FORMAT_NO_MEMORY
    failed = answer.location.append(head, values)
    return failed if failed else append_text(head, b"\r\n")


cdef bytes made(Format format, const tg_values *values, int *failed):
    """The text of a request; None: *failed is FORMAT_…."""
    cdef tg_buffer text
    memset(&text, 0, sizeof(text))
    try:
        failed[0] = format.append(&text, values)
        return None if failed[0] else tg_buffer_head(&text)[:tg_buffer_size(&text)]
    finally:
        tg_buffer_free(&text)


cdef void give_own(Exchange exchange, int status, tg_buffer *head, bytes body) noexcept:
    if exchange.route.rate is not None:
        exchange.route.rate.append_fields(head, &exchange.rate)
    if exchange.quota_use is not None:
        exchange.quota_use.append(head)
    if exchange.route.cors is not None:
        exchange.append_cors(head, False)
    give(exchange, status, head, body)


cdef void give(Exchange exchange, int status, tg_buffer *head, bytes body) noexcept:
    cdef iovec part
    part.iov_base = <char *>body
    part.iov_len = <size_t>len(body)
    exchange.status = status
    exchange.bytes_out = part.iov_len
    exchange.record()
    exchange.client.respond_whole(status, head, &part, 1)


cdef int append_location(Exchange exchange, tg_buffer *head, Scan *scan, Answer answer, bytes to,
                         const tg_values *values) noexcept:
    """Location (RFC 9110 section 10.2.2): as short as it can be said, so that what is not replaced stays. One that
    names a host has a scheme, too, as clients expect it. `to`: the host that the route says. 0, FORMAT_… or NOWHERE;
    `values` may be NULL where the new path has none."""
    cdef const char *query = <const char *>memchr(scan.target, 63, scan.target_length)
    cdef size_t n = scan.target_length if query == NULL else <size_t>(query - scan.target)
    cdef size_t skip = 0, end, i
    cdef Rewrite rewrite = exchange.route.rewrite
    cdef tg_buffer path
    cdef int failed = 0
    cdef char c
    cdef const char *host
    cdef const char *scheme
    cdef size_t host_length
    append_text(head, b"Location: ")
    if find_host(scan, answer, to, &host, &host_length):
        scheme = <const char *>answer.scheme if len(answer.scheme) else scheme_of(exchange, scan)
        failed |= tg_buffer_append(head, scheme, strlen(scheme))
        failed |= append_text(head, b"://")
        failed |= tg_buffer_append(head, host, host_length)
    memset(&path, 0, sizeof(path))
    if rewrite is not None and rewrite.format is not None:
        failed = rewrite.append_format(&path, scan.target, n, values)
        if failed:
            tg_buffer_free(&path)
            return failed
    elif rewrite is not None:
        failed = rewrite.append(&path, scan.target, n)
        if failed:
            tg_buffer_free(&path)
            return failed
    else:
        failed |= tg_buffer_append(&path, scan.target, n)
    end = tg_buffer_size(&path)
    if host_length == 0:
        # "//example.org" would be another host, and browsers take a backslash for a slash.
        while skip < end and is_slash(path.data[skip]):
            skip += 1
        failed |= append_text(head, b"/")
    i = max(skip, <size_t>1)                  # behind what is one slash in Location
    if (rewrite is not None and rewrite.regex is not None and (query == NULL or not answer.drop_query)
            and end - i == n - 1 and memcmp(path.data + i, scan.target + 1, n - 1) == 0
            and (host_length == 0 or len(to) == 0 and is_here(exchange, scan, answer, host_length))):
        tg_buffer_free(&path)
        return NOWHERE
    for i in range(skip, end):
        c = path.data[i]
        if c == 92:
            failed |= append_text(head, b"%5C")
        else:
            failed |= tg_buffer_append(head, &path.data[i], 1)
    tg_buffer_free(&path)
    if query != NULL and not answer.drop_query:
        failed |= tg_buffer_append(head, query, scan.target_length - n)
    failed |= append_text(head, b"\r\n")
    return -1 if failed else 0


cdef void give_preflight(Exchange exchange, Scan *scan) noexcept:
    cdef tg_buffer head
    memset(&head, 0, sizeof(head))
    exchange.request_complete = scan.complete
    exchange.bytes_in = scan.body_bytes
    if exchange.append_cors(&head, True) < 0:
        exchange.fail(FAIL_NO_MEMORY, "out of memory")
    else:
        give(exchange, 204, &head, b"")
    tg_buffer_free(&head)


cdef bint find_host(Scan *scan, Answer answer, bytes to, const char **host, size_t *n) noexcept:
    """The host that Location names, `to` where that is one; False where it names none."""
    cdef Field *field
    host[0] = <const char *>to
    n[0] = <size_t>len(to)
    if n[0] == 0 and len(answer.scheme) and scan.first[H_HOST] >= 0:
        field = &scan.fields[scan.first[H_HOST]]
        host[0] = field.value
        n[0] = without_port(field.value, field.value_length)       # another scheme has another port
    return n[0] > 0


cdef const char *scheme_of(Exchange exchange, const Scan *scan) noexcept:
    """The scheme of the client's own URL: a trusted proxy in front knows it better than this listener."""
    cdef const Field *field
    if (scan.first[H_X_FORWARDED_PROTO] >= 0 and exchange.listener.hop.trusted.count
            and exchange.listener.hop.trusted.contains(exchange.client.ip, exchange.client.ip_length)):
        field = &scan.fields[scan.first[H_X_FORWARDED_PROTO]]
        if field.value_length == 5 and strncasecmp(field.value, b"https", 5) == 0:
            return b"https"
        if field.value_length == 4 and strncasecmp(field.value, b"http", 4) == 0:
            return b"http"
    return exchange.client.scheme()


cdef bint is_here(Exchange exchange, const Scan *scan, Answer answer, size_t host_length) noexcept:
    """Whether scheme and port of Location, which names the request's host, are the request's own."""
    return (strcmp(answer.scheme, scheme_of(exchange, scan)) == 0
            and host_length == scan.fields[scan.first[H_HOST]].value_length)


cdef inline bint is_slash(char c) noexcept nogil:
    return c == 47 or c == 92


cdef size_t without_port(const char *host, size_t n) noexcept nogil:
    cdef size_t i = n
    while i and 48 <= host[i - 1] <= 57:
        i -= 1
    return i - 1 if i and host[i - 1] == 58 else n
