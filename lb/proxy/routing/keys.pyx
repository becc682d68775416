"""What a request is recognised by: see keys.pxd. Affinity and rate limits use the same keys."""

from libc.stdint cimport uint32_t
from libc.string cimport memchr, memcmp
from lb.net.buffer cimport (
    tg_buffer, tg_buffer_append, tg_buffer_clear, tg_buffer_head, tg_buffer_reserve, tg_buffer_size,
)
from lb.http.head cimport H_COOKIE, Field, Scan, same_name
from lb.upstream.pool cimport KEY_COOKIE, KEY_HEADER, KEY_PATH, KEY_QUERY, KEY_URI


cdef bint find_value(
    const Scan *scan, int kind, const char *name, size_t n, const char **value, size_t *length
) noexcept nogil:
    cdef const char *query
    cdef const Field *field
    cdef int i
    if kind == KEY_HEADER:
        for i in range(scan.field_count):
            field = &scan.fields[i]
            if field.name_length == n and same_name(field.name, n, name):
                value[0] = field.value
                length[0] = field.value_length
                return True
    elif kind == KEY_COOKIE:
        for i in range(scan.field_count):
            field = &scan.fields[i]
            if field.id == H_COOKIE and find_pair(field.value, field.value_length, 59, name, n, value, length):
                return True
    elif kind == KEY_QUERY:
        query = <const char *>memchr(scan.target, 63, scan.target_length)
        if query != NULL:
            return find_pair(query + 1, scan.target_length - <size_t>(query + 1 - scan.target), 38, name, n, value,
                             length)
    elif kind == KEY_PATH or kind == KEY_URI:
        value[0] = scan.target
        length[0] = first_part(scan.target, scan.target_length, kind == KEY_URI, 0, 0)
        return length[0] != 0
    return False


cdef size_t first_part(const char *target, size_t n, bint query, int depth, int most) noexcept nogil:
    cdef const char *end = <const char *>memchr(target, 63, n)
    cdef size_t path = n if end == NULL else <size_t>(end - target)
    cdef size_t i
    cdef int slashes = 0
    if depth:
        for i in range(path):
            if target[i] == 47:
                slashes += 1
                if slashes > depth:
                    n = path = i
                    break
    if not query:
        n = path
    return min(n, <size_t>most) if most else n


def key_of_target(target: bytes, query: bool, depth: int, most: int) -> bytes:
    """`first_part` as bytes, for explanations."""
    return target[:first_part(<const char *>target, <size_t>len(target), query, depth, most)]


cdef bint find_pair(const char *text, size_t size, char separator, const char *name, size_t n,
                    const char **value, size_t *length) noexcept nogil:
    """`name=value` among pairs that `separator` parts (cookies, a query)."""
    cdef size_t i = 0, stop
    while i < size:
        while i < size and text[i] == 32:
            i += 1
        stop = i
        while stop < size and text[stop] != separator:
            stop += 1
        if stop - i > n and text[i + n] == 61 and memcmp(text + i, name, n) == 0:
            value[0] = text + i + n + 1
            length[0] = stop - (i + n + 1)
            return True
        i = stop + 1
    return False


cdef int count_values(const Scan *scan, int kind, const char *name, size_t n) noexcept nogil:
    cdef const char *query
    cdef const Field *field
    cdef int i, count = 0
    if kind == KEY_QUERY:
        query = <const char *>memchr(scan.target, 63, scan.target_length)
        if query == NULL:
            return 0
        return count_pairs(query + 1, scan.target_length - <size_t>(query + 1 - scan.target), 38, name, n)
    for i in range(scan.field_count):
        field = &scan.fields[i]
        if kind == KEY_COOKIE and field.id == H_COOKIE:
            count += count_pairs(field.value, field.value_length, 59, name, n)
        elif kind == KEY_HEADER and field.name_length == n and same_name(field.name, n, name):
            count += 1
    return count


cdef int count_pairs(const char *text, size_t size, char separator, const char *name, size_t n) noexcept nogil:
    cdef size_t i = 0, stop, end
    cdef int count = 0
    while i < size:
        while i < size and text[i] == 32:
            i += 1
        stop = i
        while stop < size and text[stop] != separator:
            stop += 1
        end = i
        while end < stop and text[end] != 61:
            end += 1
        if separator == 38 and memchr(text + i, 37, end - i) != NULL:
            count += 2
        elif end - i == n and memcmp(text + i, name, n) == 0:
            count += 1
        i = stop + 1
    return count


cdef tg_buffer rest                   # of the Cookie fields of a request


cdef void drop_cookie(Scan *scan, const char *name, size_t n) noexcept:
    cdef Field *field
    cdef const char *text
    cdef size_t total = 0, i, stop, begun
    cdef int f
    for f in range(scan.field_count):
        if scan.fields[f].id == H_COOKIE:
            total += scan.fields[f].value_length + 2
    tg_buffer_clear(&rest)
    if tg_buffer_reserve(&rest, total) < 0:
        total = 0                             # no memory to write in: none of them is passed on
    for f in range(scan.field_count):
        field = &scan.fields[f]
        if field.id != H_COOKIE:
            continue
        if total == 0:
            field.hop = True
            continue
        text, begun, i = field.value, tg_buffer_size(&rest), 0
        while i < field.value_length:
            while i < field.value_length and (text[i] == 32 or text[i] == 59):
                i += 1
            stop = i
            while stop < field.value_length and text[stop] != 59:
                stop += 1
            if stop > i and not (stop - i > n and text[i + n] == 61 and memcmp(text + i, name, n) == 0):
                if tg_buffer_size(&rest) > begun:
                    tg_buffer_append(&rest, b"; ", 2)
                tg_buffer_append(&rest, text + i, stop - i)
            i = stop
        field.value = tg_buffer_head(&rest) + begun
        field.value_length = <uint32_t>(tg_buffer_size(&rest) - begun)
        if field.value_length == 0:
            field.hop = True
