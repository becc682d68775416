"""One form for each path: see normalize.pxd and `lb.config.normal`, which says the same in plain Python.

Almost every path is in its normal form already: one look along it finds that out, and nothing is copied.
"""

from typing import TYPE_CHECKING

from libc.stdint cimport uint32_t
from libc.string cimport memchr, memcpy, memmove
from lb.net.buffer cimport tg_buffer, tg_buffer_clear, tg_buffer_reserve
from lb.http.head cimport Scan

if TYPE_CHECKING:
    from lb.config.plan.routes import NormalizePlan

cdef tg_buffer normal
cdef dict ALIASED = {"pass": 0, "drop": NORMAL_HIDE_ALIASES, "reject": NORMAL_REFUSE_ALIASES}


cdef int normalize_flags(plan, str aliased="pass") except -1:
    cdef int flags = ALIASED[aliased]
    if plan is None:
        return flags
    if plan.decode:
        flags |= NORMAL_DECODE
    if plan.dot_segments:
        flags |= NORMAL_DOTS
    if plan.merge_slashes:
        flags |= NORMAL_SLASHES
    if plan.escaped_slash == "decode":
        flags |= NORMAL_SLASH_DECODE
    elif plan.escaped_slash == "reject":
        flags |= NORMAL_SLASH_REJECT
    elif plan.escaped_slash == "same_route":
        flags |= NORMAL_READINGS
    return flags


cdef bint is_target(const Scan *scan) noexcept nogil:
    cdef uint32_t i
    cdef unsigned char all = 0
    if scan.version == 20:
        for i in range(scan.target_length):
            all |= <unsigned char>scan.target[i]
    return all < 128 and memchr(scan.target, 35, scan.target_length) == NULL


cdef bint is_normal(const char *path, size_t n, int flags) noexcept nogil:
    """Whether it has no escape, no slash before a slash or a dot, and no backslash where that would be one; it begins
    with a slash."""
    cdef const char *end = path + n
    if memchr(path, 37, n) != NULL:
        return False
    if flags & (NORMAL_SLASH_DECODE | NORMAL_SLASH_REJECT) and memchr(path, 92, n) != NULL:
        return False
    while path != NULL:
        path += 1
        if path < end and (path[0] == 47 or path[0] == 46):
            return False
        path = <const char *>memchr(path, 47, <size_t>(end - path))
    return True


cdef int normalize(Scan *scan, int flags) noexcept nogil:
    cdef const char *query
    cdef size_t n = scan.target_length, i
    if flags & NORMAL_PATH == 0 or n == 0 or scan.target[0] != 47:
        return 0                              # also the "*" of OPTIONS
    query = <const char *>memchr(scan.target, 63, n)
    if query != NULL:
        n = <size_t>(query - scan.target)
    if is_normal(scan.target, n, flags):
        return 0
    tg_buffer_clear(&normal)
    if tg_buffer_reserve(&normal, scan.target_length + 1) < 0:
        return NORMAL_NO_MEMORY
    i = n
    if decode(scan.target, &n, normal.data, flags) < 0:
        return NORMAL_REFUSED
    n = resolve(normal.data, n, flags)
    if query != NULL:
        memcpy(normal.data + n, query, scan.target_length - i)
        n += scan.target_length - i
    scan.target = normal.data
    scan.target_length = <uint32_t>n
    return 0


cdef int decode(const char *path, size_t *size, char *out, int flags) noexcept nogil:
    """Escapes (RFC 3986 sections 2.1 and 6.2.2). What comes out is never longer. -1: refused."""
    cdef size_t n = size[0], i = 0, o = 0
    cdef int high, low, c
    while i < n:
        if path[i] != 37:
            out[o] = path[i]
            if path[i] == 92 and flags & NORMAL_SLASH_REJECT:
                return -1
            if path[i] == 92 and flags & NORMAL_SLASH_DECODE:
                out[o] = 47
            o += 1
            i += 1
            continue
        high = hex_digit(path[i + 1]) if i + 2 < n else -1
        low = hex_digit(path[i + 2]) if i + 2 < n else -1
        if high < 0 or low < 0:
            if flags & NORMAL_DECODE:
                return -1
            out[o] = 37
            o += 1
            i += 1
            continue
        c = high << 4 | low
        if (c == 47 or c == 92) and flags & NORMAL_SLASH_REJECT:
            return -1
        if (c == 47 or c == 92) and flags & NORMAL_SLASH_DECODE:
            out[o] = 47
            o += 1
        elif flags & NORMAL_DECODE == 0:
            memcpy(out + o, path + i, 3)
            o += 3
        elif c == 0:
            return -1
        elif unreserved(c):
            out[o] = <char>c
            o += 1
        else:
            out[o] = 37
            out[o + 1] = upper(path[i + 1])
            out[o + 2] = upper(path[i + 2])
            o += 3
        i += 3
    size[0] = o
    return 0


cdef size_t resolve(char *path, size_t n, int flags) noexcept nogil:
    """Dot segments (RFC 3986 section 5.2.4) and doubled slashes, in place. The length of what is left, at least 1."""
    cdef size_t i = 0, o = 0, end, size
    cdef const char *slash
    while i < n:
        # path[i] is the slash in front of a segment.
        slash = <const char *>memchr(path + i + 1, 47, n - i - 1)
        end = n if slash == NULL else <size_t>(slash - path)
        size = end - i - 1
        if flags & NORMAL_DOTS and size == 1 and path[i + 1] == 46:
            if end == n:
                path[o] = 47
                o += 1
        elif flags & NORMAL_DOTS and size == 2 and path[i + 1] == 46 and path[i + 2] == 46:
            while o > 0:
                o -= 1
                if path[o] == 47:
                    break
            if end == n:
                path[o] = 47
                o += 1
        elif not (flags & NORMAL_SLASHES and size == 0 and end < n):
            memmove(path + o, path + i, end - i)
            o += end - i
        i = end
    if o == 0:
        path[0] = 47
        o = 1
    return o


cdef inline int hex_digit(char c) noexcept nogil:
    if 48 <= c <= 57:
        return c - 48
    if 97 <= (c | 32) <= 102:
        return (c | 32) - 87
    return -1


cdef inline char upper(char c) noexcept nogil:
    return <char>(c - 32) if 97 <= c <= 102 else c


cdef inline bint unreserved(int c) noexcept nogil:
    """RFC 3986 section 2.3."""
    return 48 <= c <= 57 or 65 <= c <= 90 or 97 <= c <= 122 or c == 45 or c == 46 or c == 95 or c == 126


def normal_target(bytes target not None, plan: NormalizePlan) -> bytes | None:
    """The normal form of a request's target, or None when it is refused; for tests."""
    cdef Scan scan
    scan.target = <const char *>target
    scan.target_length = <uint32_t>len(target)
    if normalize(&scan, normalize_flags(plan)) < 0:
        return None
    return scan.target[:scan.target_length]
