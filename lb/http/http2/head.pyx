"""Header blocks of HTTP/2 as heads, and back: see head.pxd."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memchr, memcmp, memcpy
from lb.net.buffer cimport tg_buffer, tg_buffer_append, tg_buffer_head, tg_buffer_reserve, tg_buffer_size
from lb.http.head cimport (
    H_CONTENT_LENGTH, H_TRANSFER_ENCODING, MAX_TRAILERS, Field, Scan, classify_trailer, known_name, parse_decimal,
    same_name, scan_begin, scan_field,
)
from lb.http.http2.block cimport block_field, block_next
from lb.http.http2.queue cimport h2_field
from lb.http.methods cimport method_number
from lb.http.http2.nghttp2 cimport NGHTTP2_NV_FLAG_NO_COPY_NAME, NGHTTP2_NV_FLAG_NONE

cdef extern from "<strings.h>" nogil:
    int strncasecmp(const char *a, const char *b, size_t n)

cdef enum:
    M_CONNECT = 5                     # llhttp's number
    FIRSTS = 32                       # of Scan.first

# What `read_request` found, for as long as the block lies where it lay.
ctypedef struct kept_head:
    const char *block
    int method
    const char *method_text
    uint32_t method_length
    bint has_length
    uint64_t content_length
    bint websocket
    const char *target
    uint32_t target_length
    int host_count
    int first[FIRSTS]
    int field_count
    Field fields[1]                   # as many as there are


cdef inline bint is_name(const block_field *field, const char *name, size_t n) noexcept nogil:
    return field.name_size == n and memcmp(field.name, name, n) == 0


cdef int join_cookies(tg_buffer *block, size_t *offset, size_t *size) noexcept:
    """Where a request has several Cookie fields, their values joined, at `offset` of the block; `size` 0 = none."""
    cdef const char *at = tg_buffer_head(block)
    cdef const char *end = at + tg_buffer_size(block)
    cdef block_field field
    cdef int count = 0
    cdef size_t total = 0
    size[0] = 0
    while block_next(&at, end, &field):
        if is_name(&field, b"cookie", 6):
            count += 1
            total += field.value_size + 2
    if count < 2:
        return 0
    if tg_buffer_reserve(block, total) < 0:
        return -1
    offset[0] = tg_buffer_size(block)
    at = tg_buffer_head(block)
    end = at + offset[0]
    while block_next(&at, end, &field):
        if is_name(&field, b"cookie", 6):
            if size[0]:
                tg_buffer_append(block, b"; ", 2)
                size[0] += 2
            tg_buffer_append(block, field.value, field.value_size)
            size[0] += field.value_size
    return 0


cdef int read_request(Scan *scan, tg_buffer *block, bint last) noexcept:
    cdef const char *at
    cdef const char *end
    cdef block_field field
    cdef block_field authority
    cdef size_t joined_at = 0, joined = 0, size = tg_buffer_size(block)
    cdef int64_t length
    cdef bint has_method = False, has_path = False, protocol = False, websocket = False, cookie = False
    scan_begin(scan)
    scan.version = 20
    scan.method = -1
    scan.status = 0
    scan.head = True
    scan.complete = last
    scan.span_count = 0
    scan.body_bytes = 0
    scan.trailer_count = 0
    scan.websocket = False
    authority.name = NULL
    authority.value_size = 0
    if join_cookies(block, &joined_at, &joined) < 0:
        return HEAD_NO_MEMORY
    at = tg_buffer_head(block)
    end = at + size
    while block_next(&at, end, &field):
        if field.name_size and field.name[0] == 58:
            # The session has checked that these come first, once each, and are the ones a request may have.
            if is_name(&field, b":method", 7):
                has_method = True
                scan.method = method_number(field.value, field.value_size)
                scan.method_text = field.value
                scan.method_length = field.value_size
            elif is_name(&field, b":path", 5):
                has_path = True
                scan.target = field.value
                scan.target_length = field.value_size
            elif is_name(&field, b":authority", 10):
                authority = field
                if scan_field(scan, b"Host", 4, field.value, field.value_size) < 0:
                    return HEAD_TOO_MANY
            elif is_name(&field, b":protocol", 9):
                protocol = True
                websocket = same_name(field.value, field.value_size, b"websocket")
            continue
        if authority.name != NULL and is_name(&field, b"host", 4):
            # RFC 9113 section 8.3.1: it may not differ, and it adds nothing.
            if field.value_size != authority.value_size or strncasecmp(field.value, authority.value, field.value_size):
                return HEAD_MALFORMED
            continue
        if joined and is_name(&field, b"cookie", 6):
            if cookie:
                continue
            cookie = True
            field.value = tg_buffer_head(block) + joined_at
            field.value_size = <uint32_t>joined
        if scan_field(scan, field.name, field.name_size, field.value, field.value_size) < 0:
            return HEAD_TOO_MANY
    if scan.method < 0:
        return HEAD_METHOD if has_method else HEAD_MALFORMED
    if scan.method == M_CONNECT and protocol:
        scan.websocket = websocket
        if not websocket:
            return HEAD_METHOD
    elif scan.method == M_CONNECT:
        return HEAD_METHOD
    if not has_path or scan.first[H_TRANSFER_ENCODING] >= 0:
        return HEAD_MALFORMED
    scan.has_length = scan.first[H_CONTENT_LENGTH] >= 0
    scan.content_length = 0
    if scan.has_length:
        length = parse_decimal(scan.fields[scan.first[H_CONTENT_LENGTH]].value,
                               scan.fields[scan.first[H_CONTENT_LENGTH]].value_length)
        if length < 0:
            return HEAD_MALFORMED
        scan.content_length = <uint64_t>length
    scan.chunked = not last and not scan.has_length and not scan.websocket
    return HEAD_OK


cdef void *keep_head(const Scan *scan, const tg_buffer *block) noexcept:
    """NULL: no memory, which is no harm."""
    cdef kept_head *kept = <kept_head *>malloc(sizeof(kept_head) + scan.field_count * sizeof(Field))
    if kept == NULL:
        return NULL
    kept.block = tg_buffer_head(block)
    kept.method = scan.method
    kept.method_text = scan.method_text
    kept.method_length = scan.method_length
    kept.has_length = scan.has_length
    kept.content_length = scan.content_length
    kept.websocket = scan.websocket
    kept.target = scan.target
    kept.target_length = scan.target_length
    kept.host_count = scan.host_count
    kept.field_count = scan.field_count
    memcpy(kept.first, scan.first, sizeof(kept.first))
    memcpy(kept.fields, scan.fields, scan.field_count * sizeof(Field))
    return kept


cdef int read_request_again(Scan *scan, tg_buffer *block, bint last, void **kept) noexcept:
    cdef const kept_head *known = <const kept_head *>kept[0]
    cdef size_t size
    cdef int rc
    if known == NULL or known.block != tg_buffer_head(block) or known.field_count > scan.max_fields:
        size = tg_buffer_size(block)
        rc = read_request(scan, block, last)
        free(kept[0])
        kept[0] = NULL
        if rc == HEAD_OK and tg_buffer_size(block) == size:       # joined cookies would have to be joined again
            kept[0] = keep_head(scan, block)
        return rc
    scan.reason_length = 0
    scan.version = 20
    scan.method = known.method
    scan.method_text = known.method_text
    scan.method_length = known.method_length
    scan.status = 0
    scan.head = True
    scan.complete = last
    scan.span_count = 0
    scan.body_bytes = 0
    scan.trailer_count = 0
    scan.has_length = known.has_length
    scan.content_length = known.content_length
    scan.websocket = known.websocket
    scan.chunked = not last and not scan.has_length and not scan.websocket
    scan.target = known.target
    scan.target_length = known.target_length
    scan.host_count = known.host_count
    scan.field_count = known.field_count
    memcpy(scan.first, known.first, sizeof(known.first))
    memcpy(scan.fields, known.fields, known.field_count * sizeof(Field))
    return HEAD_OK


cdef int read_response(Scan *scan, tg_buffer *block, bint last) noexcept:
    cdef const char *at = tg_buffer_head(block)
    cdef const char *end = at + tg_buffer_size(block)
    cdef block_field field
    cdef int64_t number
    scan_begin(scan)
    scan.version = 20
    scan.status = 0
    scan.head = True
    scan.complete = last
    scan.span_count = 0
    scan.body_bytes = 0
    scan.trailer_count = 0
    scan.websocket = False
    while block_next(&at, end, &field):
        if field.name_size and field.name[0] == 58:
            if is_name(&field, b":status", 7):
                number = parse_decimal(field.value, field.value_size)
                scan.status = <int>number if 100 <= number <= 999 else 0
            continue
        if scan_field(scan, field.name, field.name_size, field.value, field.value_size) < 0:
            return HEAD_TOO_MANY
    if scan.status == 0 or scan.first[H_TRANSFER_ENCODING] >= 0:
        return HEAD_MALFORMED
    scan.has_length = scan.first[H_CONTENT_LENGTH] >= 0
    scan.content_length = 0
    if scan.has_length:
        number = parse_decimal(scan.fields[scan.first[H_CONTENT_LENGTH]].value,
                               scan.fields[scan.first[H_CONTENT_LENGTH]].value_length)
        if number < 0:
            return HEAD_MALFORMED
        scan.content_length = <uint64_t>number
    scan.chunked = False
    return HEAD_OK


cdef int read_trailers(Scan *scan, tg_buffer *block) noexcept:
    cdef const char *at = tg_buffer_head(block)
    cdef const char *end = at + tg_buffer_size(block)
    cdef block_field field
    cdef Field *into
    scan.trailer_count = 0
    while block_next(&at, end, &field):
        if field.name_size and field.name[0] == 58:
            return HEAD_MALFORMED
        if scan.trailer_count >= MAX_TRAILERS:
            return HEAD_TOO_MANY
        into = &scan.trailers[scan.trailer_count]
        into.name = field.name
        into.name_length = field.name_size
        into.value = field.value
        into.value_length = field.value_size
        classify_trailer(into)
        scan.trailer_count += 1
    return HEAD_OK


cdef class FieldList:

    cdef void clear(self) noexcept:
        self.count = 0
        self.block = NULL

    cdef void add(self, const char *name, size_t name_size, const char *value, size_t value_size) noexcept:
        if self.count < FIELDS_MAX:
            h2_field(&self.fields[self.count], name, name_size, value, value_size, NGHTTP2_NV_FLAG_NONE)
            self.count += 1

    cdef void add_held(self, const char *name, size_t name_size, const char *value, size_t value_size,
                       uint8_t flags) noexcept:
        if self.count < FIELDS_MAX:
            h2_field(&self.fields[self.count], name, name_size, value, value_size,
                     flags | NGHTTP2_NV_FLAG_NO_COPY_NAME)
            self.count += 1

    cdef void add_status(self, int status) noexcept:
        if status == 200:
            self.add_held(b":status", 7, b"200", 3, NGHTTP2_NV_FLAG_NONE)
            return
        self.number[0] = <char>(48 + status // 100 % 10)
        self.number[1] = <char>(48 + status // 10 % 10)
        self.number[2] = <char>(48 + status % 10)
        self.add(b":status", 7, self.number, 3)

    cdef void add_fields(self, const Scan *scan, uint64_t skip) noexcept:
        cdef int i
        cdef const Field *field
        for i in range(scan.field_count):
            field = &scan.fields[i]
            if field.hop or (field.id and (skip >> field.id) & 1):
                continue
            if field.id and self.count < FIELDS_MAX:
                h2_field(&self.fields[self.count], known_name(field.id), field.name_length, field.value,
                         field.value_length, NGHTTP2_NV_FLAG_NO_COPY_NAME)
                self.count += 1
            else:
                self.add(field.name, field.name_length, field.value, field.value_length)

    cdef void add_lines(self, const tg_buffer *lines) noexcept:
        cdef const char *at = tg_buffer_head(lines)
        cdef const char *end = at + tg_buffer_size(lines)
        cdef const char *stop
        cdef const char *colon
        while at < end:
            stop = <const char *>memchr(at, 13, <size_t>(end - at))
            colon = <const char *>memchr(at, 58, <size_t>(end - at))
            if stop == NULL or colon == NULL or colon > stop:
                return
            self.add(at, <size_t>(colon - at), colon + 2, <size_t>(stop - colon - 2))
            at = stop + 2

    cdef void add_block(self, const tg_buffer *block) noexcept:
        self.block = block
        self.place = self.count


cdef FieldList FIELDS = FieldList()


cdef FieldList worker_fields():
    return FIELDS
