"""Answers of HTTP/1.1 as bytes: see http1_answer.pxd."""

from libc.stdint cimport uint64_t
from lb.net.buffer cimport tg_buffer, tg_buffer_append, tg_buffer_free, tg_buffer_head, tg_buffer_size
from lb.http.head cimport H_CONTENT_LENGTH, H_UPGRADE, Field, Scan, is_dated
from lb.http.head_text cimport append_date, append_fields, append_number, append_text, reason_phrase


cdef void answer_continue(tg_buffer *out) noexcept:
    append_text(out, b"HTTP/1.1 100 Continue\r\n\r\n")


cdef inline void status_line(tg_buffer *out, Scan *scan) noexcept:
    append_text(out, b"HTTP/1.1 ")
    append_number(out, <uint64_t>scan.status)
    append_text(out, b" ")
    if scan.reason_length:
        tg_buffer_append(out, scan.reason, scan.reason_length)
    elif scan.version == 20:
        append_text(out, reason_phrase(scan.status))
    append_text(out, b"\r\n")


cdef inline void connection_field(tg_answer *answer, tg_buffer *out) noexcept:
    if not answer.keep:
        append_text(out, b"Connection: close\r\n")
    elif answer.http10:
        append_text(out, b"Connection: keep-alive\r\n")


cdef void upgrade_field(tg_buffer *out, const Scan *scan) noexcept:
    cdef const Field *field = &scan.fields[scan.first[H_UPGRADE]]
    append_text(out, b"Upgrade: ")
    tg_buffer_append(out, field.value, field.value_length)
    append_text(out, b"\r\n")


cdef void answer_interim(tg_buffer *out, Scan *scan) noexcept:
    status_line(out, scan)
    append_fields(out, scan, <uint64_t>1 << H_CONTENT_LENGTH)    # it has no length (RFC 9110 section 8.6)
    append_text(out, b"\r\n")


cdef void answer_head(tg_answer *answer, tg_buffer *out, Scan *scan, const tg_buffer *extra, bint last,
                      uint64_t now) noexcept:
    cdef int status = scan.status
    cdef bint bodiless = status == 204 or status == 304 or answer.head_request
    status_line(out, scan)
    # 204 has no length (RFC 9110 section 8.6).
    append_fields(out, scan, <uint64_t>1 << H_CONTENT_LENGTH if status == 204 else 0)
    if not is_dated(scan):
        append_date(out, now)                     # RFC 9110 section 6.6.1: whoever passes it on has to
    if extra != NULL:
        tg_buffer_append(out, tg_buffer_head(extra), tg_buffer_size(extra))
    answer.chunking = False
    answer.until_close = False
    if not bodiless and not scan.has_length:
        if last:
            append_text(out, b"Content-Length: 0\r\n")
        elif answer.http10:
            answer.keep = False
            answer.until_close = True
        else:
            answer.chunking = True
            answer.chunk = 0
            append_text(out, b"Transfer-Encoding: chunked\r\n")
    if status == 426 and scan.first[H_UPGRADE] >= 0 and not answer.http10:
        upgrade_field(out, scan)                  # RFC 9110 section 15.5.22: it says to what
        append_text(out, b"Connection: Upgrade\r\n")
    connection_field(answer, out)
    append_text(out, b"\r\n")


cdef void answer_own_head(tg_answer *answer, tg_buffer *out, int status, const tg_buffer *fields, uint64_t size,
                          uint64_t now) noexcept:
    append_text(out, b"HTTP/1.1 ")
    append_number(out, <uint64_t>status)
    append_text(out, b" ")
    append_text(out, reason_phrase(status))
    append_text(out, b"\r\n")
    append_date(out, now)
    tg_buffer_append(out, tg_buffer_head(fields), tg_buffer_size(fields))
    if status != 204 and status != 304:           # RFC 9110 section 8.6
        append_text(out, b"Content-Length: ")
        append_number(out, size)
        append_text(out, b"\r\n")
    connection_field(answer, out)
    append_text(out, b"\r\n")
    answer.chunking = False


cdef void answer_upgrade(tg_answer *answer, tg_buffer *out, const Scan *scan) noexcept:
    append_text(out, b"HTTP/1.1 101 Switching Protocols\r\n")
    append_fields(out, scan, 0)
    if scan.first[H_UPGRADE] >= 0:
        upgrade_field(out, scan)
    append_text(out, b"Connection: Upgrade\r\n\r\n")
    answer.keep = False
    answer.chunking = False
    answer.until_close = False


cdef void answer_last_chunk(tg_answer *answer, tg_buffer *out) noexcept:
    append_text(out, b"0\r\n")
    tg_buffer_append(out, tg_buffer_head(&answer.trailers), tg_buffer_size(&answer.trailers))
    append_text(out, b"\r\n")
    tg_buffer_free(&answer.trailers)
    answer.chunking = False
