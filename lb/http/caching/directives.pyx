"""Cache-Control, taken apart: see directives.pxd."""

from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memset
from lb.http.head cimport Scan, same_name


cdef void directives_begin(tg_directives *into) noexcept nogil:
    memset(into, 0, sizeof(tg_directives))
    into.max_age = -1
    into.s_maxage = -1
    into.min_fresh = -1
    into.max_stale = -1
    into.stale_while_revalidate = -1
    into.stale_if_error = -1


cdef int64_t delta_seconds(const char *text, size_t n) noexcept nogil:
    cdef int64_t value = 0
    cdef size_t i
    if n >= 2 and text[0] == 34 and text[n - 1] == 34:
        text += 1
        n -= 2
    if n == 0:
        return -1
    for i in range(n):
        if text[i] < 48 or text[i] > 57:
            return -1
        value = min(value * 10 + (text[i] - 48), <int64_t>MOST_SECONDS)
    return value


cdef inline void shorter(int64_t *into, int64_t value) noexcept nogil:
    if into[0] < 0 or value < into[0]:
        into[0] = value


cdef inline void lifetime(int64_t *into, int64_t value) noexcept nogil:
    shorter(into, max(value, 0))


cdef inline void permission(int64_t *into, int64_t value) noexcept nogil:
    """What cannot be read allows nothing."""
    if value >= 0:
        shorter(into, value)


cdef void one(tg_directives *into, const char *name, size_t n, const char *value, size_t size) noexcept nogil:
    """`value` NULL: there is none. It has its quotes."""
    into.flags |= CC_ANY
    if same_name(name, n, b"max-age"):
        lifetime(&into.max_age, delta_seconds(value, size))
    elif same_name(name, n, b"s-maxage"):
        lifetime(&into.s_maxage, delta_seconds(value, size))
    elif same_name(name, n, b"no-store"):
        into.flags |= CC_NO_STORE
    elif same_name(name, n, b"no-cache"):
        names(into, value, size, CC_NO_CACHE)
    elif same_name(name, n, b"private"):
        names(into, value, size, CC_PRIVATE)
    elif same_name(name, n, b"public"):
        into.flags |= CC_PUBLIC
    elif same_name(name, n, b"must-revalidate"):
        into.flags |= CC_MUST_REVALIDATE
    elif same_name(name, n, b"proxy-revalidate"):
        into.flags |= CC_PROXY_REVALIDATE
    elif same_name(name, n, b"must-understand"):
        into.flags |= CC_MUST_UNDERSTAND
    elif same_name(name, n, b"only-if-cached"):
        into.flags |= CC_ONLY_IF_CACHED
    elif same_name(name, n, b"min-fresh"):
        if delta_seconds(value, size) >= 0:
            into.min_fresh = max(into.min_fresh, delta_seconds(value, size))
    elif same_name(name, n, b"max-stale"):
        permission(&into.max_stale, <int64_t>MOST_SECONDS if value == NULL else delta_seconds(value, size))
    elif same_name(name, n, b"stale-while-revalidate"):
        permission(&into.stale_while_revalidate, delta_seconds(value, size))
    elif same_name(name, n, b"stale-if-error"):
        permission(&into.stale_if_error, delta_seconds(value, size))


cdef void names(tg_directives *into, const char *value, size_t size, uint32_t whole) noexcept nogil:
    """A list of field names, or the directive for the whole answer where there is none, or no room for it."""
    if value == NULL or size == 0 or into.list_count == NAMED_LISTS:
        into.flags |= whole
        return
    into.lists[into.list_count] = value
    into.list_lengths[into.list_count] = <uint32_t>size
    into.list_count += 1


cdef void directives_read(tg_directives *into, const char *text, size_t n) noexcept nogil:
    cdef size_t i = 0, name, name_end, value
    while i < n:
        if text[i] == 32 or text[i] == 9 or text[i] == 44:
            i += 1
            continue
        name = i
        while i < n and text[i] not in (44, 61, 32, 9, 34):
            i += 1
        name_end = i
        if i < n and text[i] == 61:
            i += 1
            value = i
            if i < n and text[i] == 34:
                i += 1
                while i < n and text[i] != 34:
                    i += 2 if text[i] == 92 else 1
                if i >= n:                        # the string has no end: what it hides may forbid anything
                    into.flags |= CC_MALFORMED | CC_NO_STORE
                    return
                i += 1
            else:
                while i < n and text[i] not in (44, 32, 9):
                    i += 1
            one(into, text + name, name_end - name, text + value, i - value)
        else:
            one(into, text + name, name_end - name, NULL, 0)
        while i < n and (text[i] == 32 or text[i] == 9):
            i += 1
        if i < n and text[i] != 44:
            into.flags |= CC_MALFORMED
            while i < n and text[i] != 44:
                i += 1


cdef bint directives_of(tg_directives *into, const Scan *scan, const char *name) noexcept nogil:
    cdef int i
    cdef bint found = False
    for i in range(scan.field_count):
        if same_name(scan.fields[i].name, scan.fields[i].name_length, name):
            found = True
            directives_read(into, scan.fields[i].value, scan.fields[i].value_length)
    return found


cdef bint directives_name(const tg_directives *directives, const char *field, size_t n) noexcept nogil:
    cdef int k
    cdef size_t i, start, size
    cdef const char *text
    for k in range(directives.list_count):
        text = directives.lists[k]
        size = directives.list_lengths[k]
        i = 0
        while i < size:
            if text[i] in (32, 9, 34, 44):
                i += 1
                continue
            start = i
            while i < size and text[i] not in (32, 9, 34, 44):
                i += 1
            if i - start == n and same_field(text + start, field, n):
                return True
    return False


cdef inline bint same_field(const char *a, const char *b, size_t n) noexcept nogil:
    cdef size_t i
    for i in range(n):
        if a[i] != b[i] and ((a[i] | 32) != (b[i] | 32) or (a[i] | 32) < 97 or (a[i] | 32) > 122):
            return False
    return True
