"""A head that outlives the bytes it came in: see kept_head.pxd."""

from libc.stdint cimport uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy
from lb.http.head cimport M_OTHER, Field, Scan
from lb.net.buffer cimport tg_buffer_append, tg_buffer_free, tg_buffer_head


cdef int head_keep(tg_kept_head *kept, const Scan *scan) noexcept:
    cdef int i
    cdef int failed = 0
    cdef const Field *field
    kept.fields = <Field *>malloc(sizeof(Field) * <size_t>max(scan.field_count, 1))
    if kept.fields == NULL:
        return -1
    memcpy(kept.fields, scan.fields, sizeof(Field) * <size_t>scan.field_count)
    memcpy(kept.first, scan.first, sizeof(kept.first))
    kept.field_count = scan.field_count
    kept.host_count = scan.host_count
    kept.version = scan.version
    kept.method = scan.method
    # Of a method that has a number, the text may be that of another request, which is gone.
    kept.method_length = scan.method_length if scan.method == M_OTHER else 0
    kept.target_length = scan.target_length
    kept.content_length = scan.content_length
    kept.has_length = scan.has_length
    kept.chunked = scan.chunked
    kept.websocket = scan.websocket
    kept.complete = scan.complete
    kept.span_count = scan.span_count
    failed |= tg_buffer_append(&kept.text, scan.method_text, kept.method_length)
    failed |= tg_buffer_append(&kept.text, scan.target, scan.target_length)
    for i in range(scan.field_count):
        field = &scan.fields[i]
        failed |= tg_buffer_append(&kept.text, field.name, field.name_length)
        failed |= tg_buffer_append(&kept.text, field.value, field.value_length)
    return failed


cdef void head_restore(Scan *scan, const tg_kept_head *kept) noexcept:
    cdef const char *at = tg_buffer_head(&kept.text)
    cdef Field *field
    cdef int i
    scan.version = kept.version
    scan.method = kept.method
    scan.method_text = at if kept.method == M_OTHER else NULL
    scan.method_length = <uint32_t>kept.method_length
    at += kept.method_length
    scan.target = at
    scan.target_length = <uint32_t>kept.target_length
    at += kept.target_length
    scan.status = 0
    scan.reason_length = 0
    scan.content_length = kept.content_length
    scan.has_length = kept.has_length
    scan.chunked = kept.chunked
    scan.websocket = kept.websocket
    scan.head = True
    scan.complete = kept.complete
    scan.span_count = kept.span_count
    scan.body_bytes = 0
    scan.trailer_count = 0
    scan.host_count = kept.host_count
    memcpy(scan.first, kept.first, sizeof(kept.first))
    memcpy(scan.fields, kept.fields, sizeof(Field) * <size_t>kept.field_count)
    scan.field_count = kept.field_count
    for i in range(kept.field_count):
        field = &scan.fields[i]
        field.name = at
        at += field.name_length
        field.value = at
        at += field.value_length


cdef void head_free(tg_kept_head *kept) noexcept:
    tg_buffer_free(&kept.text)
    free(kept.fields)
    kept.fields = NULL
