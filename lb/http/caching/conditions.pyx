"""Preconditions and ranges: see conditions.pxd."""

from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcmp
from lb.http.head cimport Field, Scan, same_name
from lb.http.caching.dates cimport NO_DATE, http_date


cdef inline bint is_weak(const char *tag, size_t n) noexcept nogil:
    return n >= 2 and tag[0] == c'W' and tag[1] == c'/'


cdef bint same_tag(const char *a, size_t n, const char *b, size_t m, bint strong) noexcept nogil:
    if is_weak(a, n):
        if strong:
            return False
        a += 2
        n -= 2
    if is_weak(b, m):
        if strong:
            return False
        b += 2
        m -= 2
    return n == m and memcmp(a, b, n) == 0


cdef bint tag_listed(const char *text, size_t n, const char *tag, size_t tag_length, bint strong) noexcept nogil:
    cdef size_t i = 0, start, end
    while i < n:
        if text[i] in (32, 9, 44):
            i += 1
            continue
        start = i
        if is_weak(text + i, n - i):
            i += 2
        if i < n and text[i] == 34:
            i += 1
            while i < n and text[i] != 34:
                i += 1
            i = min(i + 1, n)
            end = i
        else:
            while i < n and text[i] != 44:
                i += 1
            end = i
            while end > start and text[end - 1] in (32, 9):
                end -= 1
        if end - start == 1 and text[start] == c'*':
            return True
        if same_tag(text + start, end - start, tag, tag_length, strong):
            return True
        while i < n and text[i] != 44:
            i += 1
    return False


cdef int64_t number(const char *text, size_t *i, size_t n) noexcept nogil:
    """Decimal digits from *i on; -1: there are none, or too many."""
    cdef int64_t value = 0
    cdef size_t start = i[0]
    while i[0] < n and 48 <= text[i[0]] <= 57:
        if i[0] - start >= 18:
            return -1
        value = value * 10 + (text[i[0]] - 48)
        i[0] += 1
    return value if i[0] > start else -1


cdef void read_range(tg_part *part, const char *text, size_t n, uint64_t size) noexcept nogil:
    """A single range of bytes (RFC 9110 section 14.1.2)."""
    cdef size_t i = 6
    cdef int64_t first, last
    if n < 7 or not same_name(text, 6, b"bytes="):
        return
    while i < n and text[i] in (32, 9):
        i += 1
    first = number(text, &i, n)
    if i >= n or text[i] != 45:
        return
    i += 1
    last = number(text, &i, n)
    while i < n and text[i] in (32, 9):
        i += 1
    if i < n or (first < 0 and last < 0) or (first >= 0 and last >= 0 and last < first):
        return                                # several, or no range at all
    if first < 0:                             # the last bytes
        if last == 0 or size == 0:
            part.status = 416
            return
        part.first = size - min(<uint64_t>last, size)
        part.last = size - 1
    elif <uint64_t>first >= size:
        part.status = 416
        return
    else:
        part.first = <uint64_t>first
        part.last = size - 1 if last < 0 else min(<uint64_t>last, size - 1)
    part.status = 206


cdef bint range_holds(const Field *condition, const tg_validators *stored) noexcept nogil:
    """If-Range (RFC 9110 section 13.1.5): only what identifies the very bytes will do."""
    cdef const char *text = condition.value
    cdef size_t n = condition.value_length
    cdef int64_t date
    if n and (text[0] == 34 or is_weak(text, n)):
        return stored.etag != NULL and same_tag(text, n, stored.etag, stored.etag_length, True)
    date = http_date(text, n)
    # A Last-Modified that is not a second older than the answer may have been that of other bytes.
    return (date != NO_DATE and date == stored.last_modified and stored.date > stored.last_modified)


cdef void choose_part(tg_part *part, const Scan *scan, const tg_validators *stored, uint64_t size,
                      bint ranges) noexcept nogil:
    """If-Match and If-Unmodified-Since are for the origin (RFC 9111 section 4.3.2)."""
    cdef const Field *field
    cdef const Field *asked = NULL
    cdef const Field *condition = NULL
    cdef int64_t since = NO_DATE
    cdef bint tags_given = False, tag_found = False, several = False
    cdef int i
    part.status = 200
    for i in range(scan.field_count):
        field = &scan.fields[i]
        if field.id:
            continue
        if field.name_length == 5 and same_name(field.name, 5, b"range"):
            several = asked != NULL
            asked = field
        elif field.name_length == 8 and same_name(field.name, 8, b"if-range"):
            condition = field
        elif field.name_length == 13 and same_name(field.name, 13, b"if-none-match"):
            tags_given = True
            if tag_listed(field.value, field.value_length, stored.etag, stored.etag_length, False):
                tag_found = True
        elif field.name_length == 17 and same_name(field.name, 17, b"if-modified-since"):
            since = http_date(field.value, field.value_length)
    if tags_given:
        if tag_found:
            part.status = 304
            return
    elif since != NO_DATE:
        # Without Last-Modified the time it was made has to do (RFC 9111 section 4.3.2).
        if (stored.date if stored.last_modified == NO_DATE else stored.last_modified) <= since:
            part.status = 304
            return
    if not ranges or asked == NULL or several or (condition != NULL and not range_holds(condition, stored)):
        return
    read_range(part, asked.value, asked.value_length, size)
