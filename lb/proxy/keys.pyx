"""What a request is recognised by: see keys.pxd. Affinity and rate limits use the same keys."""

from libc.string cimport memchr, memcmp
from lb.core.http1 cimport H_COOKIE, Field, Scan, same_name
from lb.upstream.pool cimport KEY_COOKIE, KEY_HEADER, KEY_QUERY


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
    return False


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
