"""Answers of our own: see refusal.pxd."""

from libc.stdint cimport uint64_t
from libc.string cimport memcmp, memset
from lb.failure cimport FAIL_NO_ENDPOINT, FAIL_QUOTA, FAIL_RATE_LIMIT, failure_of
from lb.net.buffer cimport tg_buffer, tg_buffer_append, tg_buffer_free, tg_buffer_head, tg_buffer_size
from lb.http.head cimport H_CONTENT_TYPE, Field, Scan, same_name
from lb.http.head_text cimport append_number, append_text
from lb.proxy.random cimport random_below

cdef enum:
    MILLISECOND_NS = 1_000_000
    SECOND_NS = 1_000_000_000
    UNKNOWN_NS = 500_000_000          # after which a call may be tried again, where nothing is known
    MOST_JITTER_NS = 2_000_000_000    # below 2**31

cdef extern from "<string.h>" nogil:
    void *memmem(const void *haystack, size_t size, const void *needle, size_t needle_size)

import urllib.parse
from base64 import b64encode

import orjson

cdef bytes grpc_message(str text):
    return urllib.parse.quote(text, safe=" !\"#$&'()*+,/:;<=>?@[\\]^`{|}").encode()


cdef class Refusal:

    def __cinit__(self):
        memset(&self.head, 0, sizeof(self.head))

    def __dealloc__(self):
        tg_buffer_free(&self.head)


cdef bint says_when(const tg_buffer *fields) noexcept:
    cdef size_t n = tg_buffer_size(fields)
    return n > 0 and memmem(tg_buffer_head(fields), n, b"Retry-After:", 12) != NULL


cdef bytes part_of(int field, bytes content):
    """A field of bytes in a message of protobuf."""
    return bytes([field << 3 | 2]) + varint(len(content)) + content


cdef bytes varint(uint64_t number):
    cdef list made = []
    while number >= 128:
        made.append(number & 127 | 128)
        number >>= 7
    made.append(number)
    return bytes(made)


cdef bytes status_details(int code, str message, uint64_t after):
    """A google.rpc.Status with a RetryInfo, for Grpc-Status-Details-Bin (google/rpc/error_details.proto)."""
    delay = b"\x08" + varint(after // SECOND_NS) + b"\x10" + varint(after % SECOND_NS)
    info = part_of(1, b"type.googleapis.com/google.rpc.RetryInfo") + part_of(2, part_of(1, delay))
    return b64encode(b"\x08" + varint(<uint64_t>code) + part_of(2, message.encode()) + part_of(3, info))


cdef void append_pushback(tg_buffer *head, int code, str message, uint64_t after):
    """When the call may be tried again: as gRPC's clients read it themselves (gRFC A6), and as applications do."""
    cdef bytes details
    if after == 0:
        after = UNKNOWN_NS
    # Clients that were refused together do not come back together.
    after += random_below(min(after // 2, <uint64_t>MOST_JITTER_NS) + 1)
    details = status_details(code, message, after)
    append_text(head, b"Grpc-Retry-Pushback-Ms: ")
    if code == failure_of(FAIL_QUOTA).grpc_status:
        append_text(head, b"-1")              # gRFC A6: none; the call would hang until the quota begins anew
    else:
        append_number(head, <unsigned long>((after + MILLISECOND_NS - 1) // MILLISECOND_NS))
    append_text(head, b"\r\nGrpc-Status-Details-Bin: ")
    tg_buffer_append(head, <const char *>details, <size_t>len(details))
    append_text(head, b"\r\n")


cdef Refusal refusal(int status, int code, str message, int speaks, const tg_buffer *fields, uint64_t after):
    cdef Refusal made = Refusal()
    cdef bytes text
    cdef bint waiting_helps = (
        status == failure_of(FAIL_NO_ENDPOINT).status or status == failure_of(FAIL_RATE_LIMIT).status)
    if speaks != SPEAKS_HTTP:
        made.status = 200
        made.body = b""
        text = grpc_message(message)
        append_text(&made.head, b"Content-Type: application/grpc")
        if speaks != SPEAKS_GRPC:
            append_text(&made.head, b"-web+proto" if speaks == SPEAKS_WEB else b"-web-text+proto")
        append_text(&made.head, b"\r\nGrpc-Status: ")
        append_number(&made.head, <unsigned long>code)
        append_text(&made.head, b"\r\nGrpc-Message: ")
        tg_buffer_append(&made.head, <const char *>text, <size_t>len(text))
        append_text(&made.head, b"\r\n")
        if waiting_helps:
            append_pushback(&made.head, code, message, after)
    else:
        made.status = status
        made.body = orjson.dumps({"error": message})
        append_text(&made.head, b"Content-Type: application/json\r\n")
    if waiting_helps and (fields == NULL or not says_when(fields)):
        append_text(&made.head, b"Retry-After: 1\r\n")
    if fields != NULL:
        tg_buffer_append(&made.head, tg_buffer_head(fields), tg_buffer_size(fields))
    made.part.iov_base = <char *>made.body
    made.part.iov_len = <size_t>len(made.body)
    return made


cdef bint speaks_grpc(Scan *scan) noexcept:
    cdef Field *field
    if scan.first[H_CONTENT_TYPE] < 0:
        return False
    field = &scan.fields[scan.first[H_CONTENT_TYPE]]
    if field.value_length < 16:
        return False
    if memcmp(field.value, b"application/grpc", 16) != 0 and not same_name(field.value, 16, b"application/grpc"):
        return False
    return field.value_length == 16 or field.value[16] in (c'+', c';', c' ')
