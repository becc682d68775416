"""Answers as they lie in the cache: see stored.pxd."""

from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset
from lb.http.caching.answers cimport tg_answer, answer_field_stored, answer_field_updated
from lb.http.caching.conditions cimport tg_validators
from lb.http.caching.requests cimport tg_freshness
from lb.http.head cimport H_DATE, Field, Scan, is_dated, scan_begin, scan_next
from lb.http.head_text cimport date_text
from lb.net.buffer cimport tg_buffer, tg_buffer_append, tg_buffer_head, tg_buffer_reserve, tg_buffer_size
from lb.proxy.exchange.http_cache.rules cimport HttpCacheRules

cdef enum:
    SECOND_NS = 1_000_000_000

cdef extern from "<strings.h>" nogil:
    int strncasecmp(const char *a, const char *b, size_t n)


cdef const tg_stored *stored_head(const char *object, size_t size) noexcept nogil:
    cdef const tg_stored *stored = <const tg_stored *>object
    cdef size_t head
    if size < sizeof(tg_stored) or stored.form != STORED_FORM or stored.field_count > STORED_FIELDS:
        return NULL
    head = sizeof(tg_stored) + stored.field_count * sizeof(tg_line) + stored.text_size
    if head > size or stored.body_size != size - head:
        return NULL
    return stored


cdef inline const tg_line *lines_of(const tg_stored *stored) noexcept nogil:
    return <const tg_line *>(<const char *>stored + sizeof(tg_stored))


cdef const char *stored_text(const tg_stored *stored) noexcept nogil:
    return <const char *>stored + sizeof(tg_stored) + stored.field_count * sizeof(tg_line)


cdef const char *stored_body(const tg_stored *stored) noexcept nogil:
    return stored_text(stored) + stored.text_size


cdef int stored_begin(tg_buffer *into, const Scan *scan, const tg_answer *answer, HttpCacheRules rules, int64_t wall,
                      uint64_t now) noexcept:
    cdef tg_stored head
    cdef tg_line line
    cdef const Field *field
    cdef size_t text = 0, n = 0
    cdef const char *date = NULL
    cdef bint dated = is_dated(scan)
    cdef int i, count = 0
    memset(&head, 0, sizeof(head))
    memset(&line, 0, sizeof(line))
    head.form = STORED_FORM
    head.kind = STORED_ANSWER
    head.status = <uint16_t>answer.status
    head.flags = answer.flags
    head.etag = -1
    head.date = answer.date
    head.last_modified = answer.last_modified
    head.age = answer.age
    head.lifetime = answer.lifetime
    head.stale_while_revalidate = answer.control.stale_while_revalidate
    if head.stale_while_revalidate < 0:
        head.stale_while_revalidate = rules.stale_while_revalidate
    head.stale_if_error = answer.control.stale_if_error
    if head.stale_if_error < 0:
        head.stale_if_error = rules.stale_if_error
    head.received = now
    for i in range(scan.field_count):
        field = &scan.fields[i]
        if answer_field_stored(answer, field):
            if field == answer.etag:
                head.etag = count
            count += 1
            text += field.name_length + field.value_length
    if not dated:
        date = date_text(now, &n)
        if n:
            count += 1
            text += 4 + n
    if count > STORED_FIELDS or text > 0x7fffffff:
        return -1
    head.field_count = <uint32_t>count
    head.text_size = <uint32_t>text
    into.start = 0
    into.end = 0
    if tg_buffer_reserve(into, sizeof(head) + <size_t>count * sizeof(line) + text) < 0:
        return -1
    tg_buffer_append(into, &head, sizeof(head))       # for all of which there is room
    for i in range(scan.field_count):
        field = &scan.fields[i]
        if answer_field_stored(answer, field):
            line.name_length = field.name_length
            line.value_length = field.value_length
            line.id = field.id
            tg_buffer_append(into, &line, sizeof(line))
    if n:
        line.name_length = 4
        line.value_length = <uint32_t>n
        line.id = H_DATE
        tg_buffer_append(into, &line, sizeof(line))
    for i in range(scan.field_count):
        field = &scan.fields[i]
        if answer_field_stored(answer, field):
            tg_buffer_append(into, field.name, field.name_length)
            tg_buffer_append(into, field.value, field.value_length)
    if n:
        tg_buffer_append(into, b"Date", 4)
        tg_buffer_append(into, date, n)
    return 0


cdef void stored_end(tg_buffer *object) noexcept nogil:
    cdef tg_stored *head = <tg_stored *>tg_buffer_head(object)
    head.body_size = tg_buffer_size(object) - sizeof(tg_stored) - head.field_count * sizeof(tg_line) - head.text_size


cdef int stored_note(tg_buffer *into, int kind, uint64_t nonce, const char *text, size_t size) noexcept nogil:
    cdef tg_stored head
    memset(&head, 0, sizeof(head))
    head.form = STORED_FORM
    head.kind = <uint16_t>kind
    head.etag = -1
    head.nonce = nonce
    head.text_size = <uint32_t>size
    into.start = 0
    into.end = 0
    if tg_buffer_append(into, &head, sizeof(head)) < 0:
        return -1
    return tg_buffer_append(into, text, size)


cdef void stored_scan(Scan *into, const tg_stored *stored) noexcept nogil:
    cdef const tg_line *line = lines_of(stored)
    cdef const char *text = stored_text(stored)
    cdef const char *end = text + stored.text_size
    cdef Field *field
    cdef uint32_t i
    scan_begin(into)
    into.version = 20                         # its phrase is by its status
    into.status = stored.status
    into.has_length = True
    into.chunked = False
    into.content_length = stored.body_size
    into.trailer_count = 0
    for i in range(stored.field_count):
        if <uint64_t>line[i].name_length + line[i].value_length > <uint64_t>(end - text):
            break
        field = &into.fields[i]
        field.name = text
        field.name_length = line[i].name_length
        field.value = text + line[i].name_length
        field.value_length = line[i].value_length
        field.id = line[i].id if line[i].id < 32 else 0
        field.hop = False
        if field.id and into.first[field.id] < 0:
            into.first[field.id] = <int>i
        text = field.value + field.value_length
        into.field_count += 1


cdef void stored_freshness(tg_freshness *into, const tg_stored *stored, uint64_t now) noexcept nogil:
    into.age = stored.age + (<int64_t>((now - stored.received) // SECOND_NS) if now > stored.received else 0)
    into.lifetime = stored.lifetime
    into.stale_while_revalidate = stored.stale_while_revalidate
    into.stale_if_error = stored.stale_if_error
    into.flags = stored.flags


cdef void stored_validators(tg_validators *into, const tg_stored *stored) noexcept nogil:
    cdef const tg_line *line = lines_of(stored)
    cdef const char *text = stored_text(stored)
    cdef int i
    into.etag = NULL
    into.etag_length = 0
    into.last_modified = stored.last_modified
    into.date = stored.date
    if stored.etag < 0 or <uint32_t>stored.etag >= stored.field_count:
        return
    for i in range(stored.etag):
        text += line[i].name_length + line[i].value_length
    into.etag = text + line[stored.etag].name_length
    into.etag_length = line[stored.etag].value_length


cdef bint is_replaced(const Field *field, const Scan *fresh) noexcept nogil:
    cdef int i
    if field.id == H_DATE:
        return True                           # it is as new as the 304
    if not answer_field_updated(field.name, field.name_length):
        return False
    for i in range(fresh.field_count):
        if (not fresh.fields[i].hop and fresh.fields[i].name_length == field.name_length
                and strncasecmp(fresh.fields[i].name, field.name, field.name_length) == 0):
            return True
    return False


cdef void stored_updated(Scan *into, const tg_stored *stored, const Scan *fresh) noexcept nogil:
    cdef const Field *field
    cdef int i, count
    stored_scan(into, stored)
    count = into.field_count
    for i in range(count):
        if is_replaced(&into.fields[i], fresh):
            into.fields[i].hop = True         # which is not kept
    into.first[H_DATE] = -1
    for i in range(fresh.field_count):
        field = &fresh.fields[i]
        if field.hop or not answer_field_updated(field.name, field.name_length) or into.field_count >= STORED_FIELDS:
            continue
        into.fields[into.field_count] = field[0]
        scan_next(into)
