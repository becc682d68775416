"""Answers of our own: see refusal.pxd."""

from libc.string cimport memcmp, memset
from lb.failure cimport FAIL_NO_ENDPOINT, FAIL_RATE_LIMIT, failure_of, grpc_code
from lb.net.buffer cimport tg_buffer, tg_buffer_append, tg_buffer_free, tg_buffer_head, tg_buffer_size
from lb.http.head cimport H_CONTENT_TYPE, Field, Scan, same_name
from lb.http.head_text cimport append_number, append_text

cdef extern from "<string.h>" nogil:
    void *memmem(const void *haystack, size_t size, const void *needle, size_t needle_size)

import urllib.parse

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


cdef Refusal refusal(int status, str message, int speaks, const tg_buffer *fields):
    cdef Refusal made = Refusal()
    cdef bytes text
    if speaks != SPEAKS_HTTP:
        made.status = 200
        made.body = b""
        text = grpc_message(message)
        append_text(&made.head, b"Content-Type: application/grpc")
        if speaks != SPEAKS_GRPC:
            append_text(&made.head, b"-web+proto" if speaks == SPEAKS_WEB else b"-web-text+proto")
        append_text(&made.head, b"\r\nGrpc-Status: ")
        append_number(&made.head, <unsigned long>grpc_code(status))
        append_text(&made.head, b"\r\nGrpc-Message: ")
        tg_buffer_append(&made.head, <const char *>text, <size_t>len(text))
        append_text(&made.head, b"\r\n")
    else:
        made.status = status
        made.body = orjson.dumps({"error": message})
        append_text(&made.head, b"Content-Type: application/json\r\n")
    if (status == failure_of(FAIL_NO_ENDPOINT).status or status == failure_of(FAIL_RATE_LIMIT).status) and (
            fields == NULL or not says_when(fields)):
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
