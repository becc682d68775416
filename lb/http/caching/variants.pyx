"""The variants of an answer: see variants.pxd."""

from libc.string cimport memcmp
from lb.net.buffer cimport tg_buffer, tg_buffer_append, tg_buffer_size
from lb.http.head cimport Field, Scan, same_name

cdef enum:
    ELEMENTS = 64                     # of an Accept field; the order of more counts


cdef struct tg_element:
    size_t start
    size_t size


cdef int append_lower(tg_buffer *into, const char *text, size_t n) noexcept nogil:
    cdef size_t i
    if tg_buffer_append(into, text, n) < 0:
        return -1
    for i in range(into.end - n, into.end):
        if 65 <= into.data[i] <= 90:
            into.data[i] |= 32
    return 0


cdef int vary_names(tg_buffer *into, const Scan *scan) noexcept nogil:
    cdef const Field *field
    cdef size_t i, start, n, begun = tg_buffer_size(into)
    cdef int k
    for k in range(scan.field_count):
        field = &scan.fields[k]
        if field.name_length != 4 or not same_name(field.name, 4, b"vary"):
            continue
        i = 0
        n = field.value_length
        while i < n:
            if field.value[i] in (32, 9, 44):
                i += 1
                continue
            start = i
            while i < n and field.value[i] not in (32, 9, 44):
                i += 1
            if append_lower(into, field.value + start, i - start) < 0 or tg_buffer_append(into, b",", 1) < 0:
                return -1
            if tg_buffer_size(into) - begun > MOST_VARY:
                return -1
    return 0


cdef int append_elements(tg_buffer *into, const char *text, size_t n) noexcept nogil:
    """The elements of a list, a comma behind each, without white space around them and their parameters."""
    cdef size_t i = 0
    cdef bint quoted = False, written = False
    while i < n:
        if quoted:
            if text[i] == 92 and i + 1 < n:
                if tg_buffer_append(into, text + i, 2) < 0:
                    return -1
                i += 2
                continue
            quoted = text[i] != 34
        elif text[i] == 34:
            quoted = True
        elif text[i] == 44:
            if written and tg_buffer_append(into, b",", 1) < 0:
                return -1
            written = False
            i += 1
            continue
        elif text[i] in (32, 9) and (not written or skips(text, i, n)):
            i += 1
            continue
        if tg_buffer_append(into, text + i, 1) < 0:
            return -1
        written = True
        i += 1
    return tg_buffer_append(into, b",", 1) if written else 0


cdef bint skips(const char *text, size_t i, size_t n) noexcept nogil:
    """White space that stands before a comma, a semicolon or the end, or behind a semicolon."""
    cdef size_t k = i
    while k and text[k - 1] in (32, 9):
        k -= 1
    if k and text[k - 1] == 59:
        return True
    while i < n and text[i] in (32, 9):
        i += 1
    return i >= n or text[i] in (44, 59)


cdef int sort_elements(tg_buffer *into, size_t start, tg_buffer *room) noexcept nogil:
    """In lower case, and in order: neither changes what an Accept field says (RFC 9110 section 12.5)."""
    cdef tg_element found[ELEMENTS]
    cdef tg_element one
    cdef int count = 0, i, k
    cdef size_t at = start, begun = start
    while at < into.end:
        if 65 <= into.data[at] <= 90:
            into.data[at] |= 32
        if into.data[at] == 44:
            if count == ELEMENTS:
                return 0
            found[count].start = begun
            found[count].size = at - begun
            count += 1
            begun = at + 1
        at += 1
    for i in range(1, count):
        one = found[i]
        k = i
        while k > 0 and before(into.data, &one, &found[k - 1]):
            found[k] = found[k - 1]
            k -= 1
        found[k] = one
    room.start = 0
    room.end = 0
    for i in range(count):
        if (tg_buffer_append(room, into.data + found[i].start, found[i].size) < 0
                or tg_buffer_append(room, b",", 1) < 0):
            return -1
    into.end = start
    return tg_buffer_append(into, room.data, room.end)


cdef bint before(const char *data, const tg_element *a, const tg_element *b) noexcept nogil:
    cdef int order = memcmp(data + a.start, data + b.start, min(a.size, b.size))
    return order < 0 or (order == 0 and a.size < b.size)


# Room of `sort_elements`: a worker has one thread.
cdef tg_buffer SORTED


cdef int vary_values(tg_buffer *into, const char *names, size_t n, const Scan *scan) noexcept nogil:
    cdef size_t i = 0, start, length, begun
    cdef int k
    cdef bint given
    cdef const Field *field
    while i < n:
        start = i
        while i < n and names[i] != 44:
            i += 1
        length = i - start
        i += 1
        given = False
        begun = into.end - into.start
        for k in range(scan.field_count):
            field = &scan.fields[k]
            if field.name_length == length and same_lower(field.name, names + start, length):
                given = True
                if append_elements(into, field.value, field.value_length) < 0:
                    return -1
        if length > 6 and memcmp(names + start, b"accept-", 7) == 0:
            if sort_elements(into, into.start + begun, &SORTED) < 0:
                return -1
        if tg_buffer_append(into, b"\x01" if given else b"\x00", 1) < 0:
            return -1
    return 0


cdef inline bint same_lower(const char *text, const char *lower, size_t n) noexcept nogil:
    cdef size_t i
    cdef char c
    for i in range(n):
        c = text[i]
        if 65 <= c <= 90:
            c |= 32
        if c != lower[i]:
            return False
    return True
