"""Heads of answers over HTTP/2: see http2_answer.pxd."""

from libc.stdint cimport uint64_t
from libc.string cimport memset
from lb.core.buffer cimport tg_buffer, tg_buffer_free, tg_buffer_size
from lb.core.head cimport H_CONTENT_LENGTH, Scan, is_dated
from lb.core.head_text cimport append_date, append_number, append_text, date_text
from lb.core.http2_frames cimport H2_INTERNAL_ERROR
from lb.core.http2_head cimport FieldList, worker_fields
from lb.core.nghttp2 cimport NGHTTP2_NV_FLAG_NONE
from lb.core.stream cimport iovec
from lb.proxy.http2_request cimport Http2Request

cdef enum:
    INTERIM_LIMIT = 64 * 1024         # bytes that wait for the client, above which no interim answer is added


cdef void answer_head(Http2Request request, Scan *scan, const tg_buffer *extra, bint last) noexcept:
    cdef FieldList fields = worker_fields()
    cdef const char *date
    cdef size_t size
    cdef int failed
    if request.gone or (scan.status < 200 and tg_buffer_size(&request.host.control) > INTERIM_LIMIT):
        return
    fields.clear()
    fields.add_status(scan.status)
    # Neither an interim answer nor 204 has a length (RFC 9110 section 8.6).
    fields.add_fields(scan, <uint64_t>1 << H_CONTENT_LENGTH if scan.status < 200 or scan.status == 204 else 0)
    if scan.status < 200:
        failed = request.host.inform(&request.stream, fields.fields, fields.count)
    else:
        # RFC 9110 section 6.6.1: whoever passes it on has to date it. Of a gRPC call, which nobody keeps, it would
        # be a fiftieth of the cost.
        if not request.grpc and not is_dated(scan):
            date = date_text(request.poller.now, &size)
            if size:
                fields.add_kept(b"date", 4, date, size, NGHTTP2_NV_FLAG_NONE)
        if extra != NULL:
            fields.add_lines(extra)
        request.answered = True
        failed = request.host.respond(&request.stream, fields.fields, fields.count, not last)
    if failed:
        request.stop(H2_INTERNAL_ERROR)
        return
    request.mark()


cdef void answer_whole(Http2Request request, int status, const tg_buffer *head, const iovec *parts, int count) noexcept:
    cdef FieldList fields = worker_fields()
    cdef tg_buffer date, number
    cdef size_t size = 0
    cdef int i
    cdef bint body
    if request.gone:
        return
    memset(&date, 0, sizeof(date))
    memset(&number, 0, sizeof(number))
    for i in range(count):
        size += parts[i].iov_len
    body = size > 0 and not request.head_request
    append_date(&date, request.poller.now)
    fields.clear()
    fields.add_status(status)
    fields.add_lines(&date)
    fields.add_lines(head)
    if not request.grpc and status != 204 and status != 304:       # RFC 9110 section 8.6
        append_text(&number, b"Content-Length: ")
        append_number(&number, size)
        append_text(&number, b"\r\n")
        fields.add_lines(&number)
    request.answered = True
    i = request.host.respond(&request.stream, fields.fields, fields.count, body)
    tg_buffer_free(&date)
    tg_buffer_free(&number)
    if i:
        request.stop(H2_INTERNAL_ERROR)
        return
    if body:
        request.respond_body(parts, count)
    request.respond_end()


cdef void answer_continue(Http2Request request) noexcept:
    cdef FieldList fields = worker_fields()
    if request.gone:
        return
    fields.clear()
    fields.add_status(100)
    request.host.inform(&request.stream, fields.fields, fields.count)
    request.mark()
