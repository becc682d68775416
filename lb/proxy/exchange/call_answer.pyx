"""Answers to gRPC calls that are made here: see call_answer.pxd."""

from libc.stdint cimport uint32_t
from libc.string cimport memset
from lb.failure cimport FAIL_NO_MEMORY
from lb.http.head cimport MAX_FIELDS, Field, Scan, classify, scan_begin, scan_field
from lb.http.head_text cimport append_number
from lb.net.buffer cimport tg_buffer, tg_buffer_free, tg_buffer_head, tg_buffer_size
from lb.net.stream cimport iovec
from lb.proxy.exchange.exchange cimport X_ANSWERING, X_DONE, Exchange
from lb.proxy.exchange.grpc_web_codec cimport WebCodec
from lb.proxy.exchange.refusal cimport grpc_message


cdef void put_prefix(char *into, size_t size) noexcept nogil:
    into[0] = 0
    into[1] = <char>(size >> 24)
    into[2] = <char>(size >> 16)
    into[3] = <char>(size >> 8)
    into[4] = <char>size


cdef void trailer(Field *field, const char *name, size_t name_size, const char *value, size_t n) noexcept nogil:
    field.name = name
    field.name_length = <uint32_t>name_size
    field.value = value
    field.value_length = <uint32_t>n
    classify(field)


cdef void answer_call(Exchange exchange, WebCodec web, bytes kind, int status, str message, const iovec *parts,
                      int count, tg_buffer *extra) noexcept:
    cdef Scan scan
    cdef tg_buffer code
    cdef bytes text
    exchange.grpc_status = <short>status
    exchange.status = 200
    exchange.first_byte_at = exchange.client.poller.now
    exchange.move(X_ANSWERING)
    scan_begin(&scan)
    scan.version = 20
    scan.status = 200
    scan.has_length = scan.chunked = scan.complete = scan.websocket = False
    scan.span_count = scan.trailer_count = 0
    scan.max_fields = MAX_FIELDS
    memset(&code, 0, sizeof(code))
    if (scan_field(&scan, b"content-type", 12, <const char *>kind, <size_t>len(kind)) < 0
            or append_number(&code, <uint32_t>status) < 0):
        exchange.fail(FAIL_NO_MEMORY, "out of memory")
    elif web is None or web.rewrite_answer(exchange, &scan, False):
        exchange.append_endpoint(extra)
        exchange.change_answer(&scan)
        exchange.client.respond(&scan, extra, False)
        scan.trailer_count = 1
        trailer(&scan.trailers[0], b"grpc-status", 11, tg_buffer_head(&code), tg_buffer_size(&code))
        if status:
            text = grpc_message(message)
            scan.trailer_count = 2
            trailer(&scan.trailers[1], b"grpc-message", 12, <const char *>text, <size_t>len(text))
        send(exchange, web, parts, count, &scan)
    tg_buffer_free(&code)


cdef void send(Exchange exchange, WebCodec web, const iovec *parts, int count, Scan *scan) noexcept:
    """What follows the answer's head."""
    cdef iovec part
    cdef int i
    for i in range(count):
        if exchange.state == X_DONE:          # the client left meanwhile
            return
        part = parts[i]
        if part.iov_len == 0:
            continue
        if web is not None and web.text and not web.encode(exchange, &part):
            return
        exchange.bytes_out += part.iov_len
        exchange.client.respond_body(&part, 1)
    if exchange.state == X_DONE:
        return
    if web is not None:
        web.send_trailers(exchange, scan)
    else:
        exchange.client.respond_trailers(scan)
    if exchange.state != X_DONE:
        exchange.end()
