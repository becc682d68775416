"""TRACE and OPTIONS that go no further than here: see last_hop.pxd."""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset
from lb.net.buffer cimport tg_buffer, tg_buffer_append, tg_buffer_clear, tg_buffer_free, tg_buffer_head, tg_buffer_size
from lb.http.head cimport H_COOKIE, Field, Scan, parse_decimal, same_name
from lb.http.head_text cimport append_number, append_text
from lb.http.methods cimport method_text
from lb.net.stream cimport iovec
from lb.proxy.exchange.exchange cimport Exchange

cdef enum:
    M_TRACE = 7                       # llhttp's number

# The number that the next hop gets, until the exchange has built its request from it.
cdef tg_buffer fewer


cdef bint answers_last_hop(Exchange exchange, Scan *scan) noexcept:
    cdef Field *field
    cdef int64_t left
    cdef int i
    for i in range(scan.field_count):
        field = &scan.fields[i]
        if not same_name(field.name, field.name_length, b"max-forwards"):
            continue
        left = parse_decimal(field.value, field.value_length)
        if left == 0:
            answer(exchange, scan)
            return True
        if left > 0:
            tg_buffer_clear(&fewer)
            if append_number(&fewer, <uint64_t>(left - 1)) == 0:
                field.value = tg_buffer_head(&fewer)
                field.value_length = <uint32_t>tg_buffer_size(&fewer)
        return False
    return False


cdef void answer(Exchange exchange, Scan *scan) noexcept:
    cdef tg_buffer head, body
    cdef iovec part
    cdef bytes methods
    memset(&head, 0, sizeof(head))
    memset(&body, 0, sizeof(body))
    if exchange.method == M_TRACE:
        append_text(&head, b"Content-Type: message/http\r\n")
        reflect(exchange, scan, &body)
    elif exchange.route.methods:
        methods = b", ".join(sorted(exchange.route.method_names()))
        append_text(&head, b"Allow: ")
        tg_buffer_append(&head, <const char *>methods, <size_t>len(methods))
        append_text(&head, b"\r\n")
    part.iov_base = tg_buffer_head(&body)
    part.iov_len = tg_buffer_size(&body)
    exchange.request_complete = scan.complete     # a body that still comes is not waited for
    exchange.status = 200
    exchange.bytes_out = part.iov_len
    exchange.record()
    exchange.client.respond_whole(200, &head, &part, 1)
    tg_buffer_free(&head)
    tg_buffer_free(&body)


cdef void reflect(Exchange exchange, Scan *scan, tg_buffer *out) noexcept:
    """The request as it came, without what is secret (RFC 9110 section 9.3.8): scripts of a page must not get to see
    the cookies that they cannot read."""
    cdef size_t n
    cdef const char *method = method_text(scan, exchange.method, &n)
    cdef const Field *field
    cdef int i
    tg_buffer_append(out, method, n)
    append_text(out, b" ")
    tg_buffer_append(out, scan.target, scan.target_length)
    append_text(out, b" HTTP/2.0\r\n" if scan.version == 20 else b" HTTP/1.1\r\n")
    for i in range(scan.field_count):
        field = &scan.fields[i]
        if is_secret(field):
            continue
        tg_buffer_append(out, field.name, field.name_length)
        append_text(out, b": ")
        tg_buffer_append(out, field.value, field.value_length)
        append_text(out, b"\r\n")
    append_text(out, b"\r\n")


cdef bint is_secret(const Field *field) noexcept:
    return (field.id == H_COOKIE or same_name(field.name, field.name_length, b"authorization")
            or same_name(field.name, field.name_length, b"proxy-authorization")
            or same_name(field.name, field.name_length, b"x-forwarded-client-cert"))
