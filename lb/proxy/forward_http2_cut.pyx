"""gRPC answers that break off: see forward_http2_cut.pxd."""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset, strlen
from lb.core.buffer cimport tg_buffer, tg_buffer_free, tg_buffer_head, tg_buffer_size
from lb.core.head cimport Field, Scan, classify
from lb.core.head_text cimport append_number
from lb.proxy.client cimport Client
from lb.proxy.refusal cimport grpc_code, grpc_message


cdef void put_field(Field *field, const char *name, const char *value, size_t n) noexcept nogil:
    field.name = name
    field.name_length = <uint32_t>strlen(name)
    field.value = value
    field.value_length = <uint32_t>n
    classify(field)


cdef void end_in_trailers(Http2Exchange exchange, int status, const char *reason, str message) noexcept:
    cdef Client client = exchange.client
    cdef Scan scan
    cdef tg_buffer code
    cdef bytes text = grpc_message(message)
    exchange.cancel_upstream()
    memset(&code, 0, sizeof(code))
    append_number(&code, <uint64_t>grpc_code(status))
    scan.trailer_count = 2
    put_field(&scan.trailers[0], b"grpc-status", tg_buffer_head(&code), tg_buffer_size(&code))
    put_field(&scan.trailers[1], b"grpc-message", <const char *>text, <size_t>len(text))
    exchange.answer_trailers(&scan)
    tg_buffer_free(&code)
    exchange.reason = reason
    exchange.let_go(status < 500)     # a client's fault is not held against the endpoint
    exchange.record()
    client.respond_end()
