"""Redirects and cookies of endpoints made to fit what clients see: see response_rewrite.pxd.

A field is Location, Content-Location (RFC 9110 sections 10.2.2 and 8.7), Refresh (of HTML, "5; url=/x"), or Set-Cookie
(RFC 6265 section 4.1). What cannot be read stays as it is.
"""

from libc.stdint cimport uint32_t
from libc.string cimport memcmp, memmove
from lb.http.head cimport MAX_FIELDS, Field, Scan, same_name
from lb.net.buffer cimport tg_buffer, tg_buffer_append, tg_buffer_clear, tg_buffer_head, tg_buffer_size

from lb.config.plan.routes import ResponseRewritePlan

cdef extern from "<strings.h>" nogil:
    int strncasecmp(const char *a, const char *b, size_t n)

cdef enum:
    FAILED = -1
    SAME = 0
    CHANGED = 1
    LONGEST = 64 * 1024               # bytes of all fields together that are made for one answer

# What was made for the answer at hand.
cdef tg_buffer made


cdef class ResponseRewrite:
    """The changes of a plan (`ResponseRewritePlan`)."""

    def __init__(self, plan: ResponseRewritePlan) -> None:
        self.undo = plan.undo
        self.inside = plan.inside.encode("latin-1")
        self.outside = plan.outside.encode("latin-1")
        self.host = plan.host.encode("latin-1")
        self.locations = pairs(plan.locations)
        self.cookie_paths = pairs(plan.cookie_paths)
        self.cookie_domains = pairs(plan.cookie_domains)
        self.cookie_flags = {
            flags.name.encode("latin-1"): (tuple([name.encode() for name in flags.dropped]), flags.added.encode())
            for flags in plan.cookie_flags
        }
        self.cookies = len(plan.cookie_paths) + len(plan.cookie_domains) + len(plan.cookie_flags) > 0
        self.wants_host = plan.undo and len(self.inside) > 0

    cdef bint concerns(self, const Scan *scan) noexcept nogil:
        cdef int i
        for i in range(scan.field_count):
            if is_url(&scan.fields[i]) or is_named(&scan.fields[i], b"set-cookie", 10):
                return True
        return False

    cdef int apply(self, Scan *scan, bytes asked, bytes address) noexcept:
        cdef uint32_t begins[MAX_FIELDS]
        cdef uint32_t ends[MAX_FIELDS]
        cdef Field *field
        cdef int i, found
        tg_buffer_clear(&made)
        for i in range(scan.field_count):
            field = &scan.fields[i]
            begins[i] = <uint32_t>tg_buffer_size(&made)
            found = SAME
            if is_named(field, b"refresh", 7):
                found = self.append_refresh(field.value, field.value_length, asked, address)
            elif is_url(field):
                found = self.append_url(field.value, field.value_length, asked, address)
            elif is_named(field, b"set-cookie", 10) and self.cookies:
                found = self.append_cookie(field.value, field.value_length)
            if found == FAILED or tg_buffer_size(&made) > LONGEST:
                return -1
            ends[i] = <uint32_t>tg_buffer_size(&made) if found == CHANGED else begins[i]
        # Behind the last of them, since the buffer moves as it grows.
        for i in range(scan.field_count):
            if ends[i] > begins[i]:
                scan.fields[i].value = tg_buffer_head(&made) + begins[i]
                scan.fields[i].value_length = ends[i] - begins[i]
        return 0

    cdef int append_url(self, const char *text, size_t n, bytes asked, bytes address) noexcept:
        cdef object pair
        for pair in self.locations:
            if begins_with(text, n, <bytes>(<tuple>pair)[0]):
                return append_replaced(text, n, <bytes>(<tuple>pair)[0], <bytes>(<tuple>pair)[1])
        return self.append_undone(text, n, asked, address) if self.undo else SAME

    cdef int append_undone(self, const char *text, size_t n, bytes asked, bytes address) noexcept:
        cdef size_t begin = 0, end = 0, drop = 0, path_begin
        cdef const char *port = b""
        cdef bint inner = False, mapped = False
        cdef int failed = 0
        if n > 7 and strncasecmp(text, b"http://", 7) == 0:
            begin = 7
            port = b":80"
        elif n > 8 and strncasecmp(text, b"https://", 8) == 0:
            begin = 8
            port = b":443"
        elif n > 1 and text[0] == 47 and is_slash(text[1]):
            begin = 2                         # "//example.org/": the scheme stays
        elif n == 0 or text[0] != 47:
            return SAME                       # relative: the client resolves it by its own URL
        if begin:
            end = begin
            while end < n and not is_slash(text[end]) and text[end] != 63 and text[end] != 35:
                end += 1
            if not is_host(text + begin, end - begin, asked, port):
                inner = (is_host(text + begin, end - begin, self.host, port)
                         or is_host(text + begin, end - begin, address, port))
                if not inner:
                    return SAME
        if len(self.inside):
            # What begins as for the client, and more narrowly than for the endpoint, is the client's already.
            if (not inner and begins_with(<const char *>self.outside, <size_t>len(self.outside), self.inside)
                    and begins_with(text + end, n - end, self.outside)):
                return SAME
            mapped = True
            if begins_with(text + end, n - end, self.inside):
                drop = <size_t>len(self.inside)
            elif self.inside != b"/" or (end < n and text[end] == 92):
                return SAME                   # another part of the endpoint, which the route does not lead to
        elif not inner:
            return SAME
        if not inner:
            failed = tg_buffer_append(&made, text, end)
        path_begin = tg_buffer_size(&made)
        if mapped:
            failed |= tg_buffer_append(&made, <const char *>self.outside, <size_t>len(self.outside))
        elif end == n or text[end] != 47:
            failed |= tg_buffer_append(&made, b"/", 1)       # RFC 9110 section 4.2.3
        failed |= tg_buffer_append(&made, text + end + drop, n - end - drop)
        if failed:
            return FAILED
        if inner or begin == 0:
            keep_one_slash(path_begin)
        return CHANGED

    cdef int append_refresh(self, const char *text, size_t n, bytes asked, bytes address) noexcept:
        cdef size_t i = 0, begin = tg_buffer_size(&made)
        cdef int found
        while i + 4 <= n and strncasecmp(text + i, b"url=", 4) != 0:
            i += 1
        if i + 4 > n:
            return SAME
        i += 4
        if tg_buffer_append(&made, text, i) < 0:
            return FAILED
        found = self.append_url(text + i, n - i, asked, address)
        if found == SAME:
            made.end = made.start + begin
        return found

    cdef int append_cookie(self, const char *text, size_t n) noexcept:
        cdef size_t i = 0, end, begin = tg_buffer_size(&made)
        cdef int found, changed = SAME
        cdef bint of_host = is_of_host(text, n)
        cdef tuple flags = flags_of(self, text, n) if len(self.cookie_flags) else None
        while i < n:
            end = i
            while end < n and text[end] != 59:
                end += 1
            if i == 0:
                found = SAME
            elif flags is not None and is_dropped(<tuple>flags[0], text + i, end - i):
                found = CHANGED
            elif of_host:
                found = SAME
            else:
                found = self.append_attribute(text + i, end - i)
            if found == SAME:
                if tg_buffer_append(&made, b";", 1 if i else 0) < 0 or tg_buffer_append(&made, text + i, end - i) < 0:
                    return FAILED
            elif found == FAILED or tg_buffer_size(&made) > LONGEST:
                return FAILED
            else:
                changed = CHANGED
            i = end + 1
        if flags is not None and len(<bytes>flags[1]):
            changed = CHANGED
            if tg_buffer_append(&made, <const char *><bytes>flags[1], <size_t>len(<bytes>flags[1])) < 0:
                return FAILED
        if changed == SAME:
            made.end = made.start + begin
        return changed

    cdef int append_attribute(self, const char *text, size_t n) noexcept:
        """One of a cookie, with its semicolon, where it changes."""
        cdef object pair
        cdef bytes new
        cdef size_t i
        cdef int failed
        trim(&text, &n)
        i = value_at(text, n, b"path", 4)
        if i:
            for pair in self.cookie_paths:
                if begins_with(text + i, n - i, <bytes>(<tuple>pair)[0]):
                    failed = tg_buffer_append(&made, b"; ", 2)
                    failed |= tg_buffer_append(&made, text, 4)
                    failed |= tg_buffer_append(&made, b"=", 1)
                    return FAILED if failed else append_replaced(text + i, n - i, <bytes>(<tuple>pair)[0],
                                                                 <bytes>(<tuple>pair)[1])
            return SAME
        i = value_at(text, n, b"domain", 6)
        if i:
            i += text[i] == 46
            for pair in self.cookie_domains:
                if not same_name(text + i, n - i, <const char *><bytes>(<tuple>pair)[0]):
                    continue
                new = <bytes>(<tuple>pair)[1]
                if len(new) == 0:
                    return CHANGED
                failed = tg_buffer_append(&made, b"; ", 2)
                failed |= tg_buffer_append(&made, text, 6)
                failed |= tg_buffer_append(&made, b"=", 1)
                failed |= tg_buffer_append(&made, <const char *>new, <size_t>len(new))
                return FAILED if failed else CHANGED
        return SAME


cdef inline bint is_of_host(const char *text, size_t n) noexcept nogil:
    """Whether browsers keep the cookie with `Path=/` and without `Domain` alone (RFC 6265bis section 4.1.3.2)."""
    trim(&text, &n)
    return n >= 7 and strncasecmp(text, b"__Host-", 7) == 0


cdef tuple flags_of(ResponseRewrite self, const char *text, size_t n):
    """What becomes of the flags of the cookie that `text` sets: by its name, or as of all others. None: nothing."""
    cdef size_t end = 0
    while end < n and text[end] != 61 and text[end] != 59:
        end += 1
    trim(&text, &end)
    found = self.cookie_flags.get(text[:end])
    return self.cookie_flags.get(b"*") if found is None else found


cdef bint is_dropped(tuple names, const char *text, size_t n) noexcept:
    """Whether an attribute of a cookie has one of these names, with a value or without."""
    cdef size_t end = 0
    trim(&text, &n)
    while end < n and text[end] != 61:
        end += 1
    trim(&text, &end)
    for name in names:
        if same_name(text, end, <const char *><bytes>name):
            return True
    return False


cdef size_t value_at(const char *text, size_t n, const char *name, size_t size) noexcept nogil:
    """Where the value of an attribute of this name begins; 0: it has another name, or no value. Browsers take spaces
    around its equals sign away (RFC 6265 section 5.2)."""
    cdef size_t i = size
    if n <= size or strncasecmp(text, name, size) != 0:
        return 0
    while i < n and (text[i] == 32 or text[i] == 9):
        i += 1
    if i == n or text[i] != 61:
        return 0
    i += 1
    while i < n and (text[i] == 32 or text[i] == 9):
        i += 1
    return i if i < n else 0


cdef tuple pairs(texts):
    return tuple([(old.encode("latin-1"), new.encode("latin-1")) for old, new in texts])


cdef inline bint is_named(const Field *field, const char *lower, uint32_t n) noexcept nogil:
    return field.name_length == n and same_name(field.name, n, lower)


cdef inline bint is_url(const Field *field) noexcept nogil:
    return (is_named(field, b"location", 8) or is_named(field, b"content-location", 16)
            or is_named(field, b"refresh", 7))


cdef inline bint is_slash(char c) noexcept nogil:
    return c == 47 or c == 92                 # browsers take a backslash for a slash


cdef inline bint begins_with(const char *text, size_t n, bytes begin) noexcept:
    cdef size_t size = <size_t>len(begin)
    return n >= size and memcmp(text, <const char *>begin, size) == 0


cdef int append_replaced(const char *text, size_t n, bytes old, bytes new) noexcept:
    cdef size_t skip = <size_t>len(old)
    cdef int failed = tg_buffer_append(&made, <const char *>new, <size_t>len(new))
    failed |= tg_buffer_append(&made, text + skip, n - skip)
    return FAILED if failed else CHANGED


cdef inline void trim(const char **text, size_t *n) noexcept nogil:
    while n[0] and (text[0][0] == 32 or text[0][0] == 9):
        text[0] += 1
        n[0] -= 1
    while n[0] and (text[0][n[0] - 1] == 32 or text[0][n[0] - 1] == 9):
        n[0] -= 1


cdef bint is_host(const char *text, size_t n, bytes known, const char *port) noexcept:
    """Whether both are one host with one port; `port` is the scheme's own, b"" where there is no scheme."""
    cdef const char *other
    cdef size_t size
    if known is None or len(known) == 0:
        return False
    other = <const char *>known
    size = <size_t>len(known)
    n = without_port(text, n, port)
    size = without_port(other, size, port)
    return n == size and strncasecmp(text, other, n) == 0


cdef size_t without_port(const char *text, size_t n, const char *port) noexcept nogil:
    cdef size_t size = 0 if port[0] == 0 else 3 if port[1] == 56 else 4       # ":80", ":443"
    return n - size if size and n > size and memcmp(text + n - size, port, size) == 0 else n


cdef void keep_one_slash(size_t begin) noexcept nogil:
    """Of those that the path made from `begin` on begins with: "//example.org" would be another host."""
    cdef char *at = tg_buffer_head(&made) + begin
    cdef size_t n = tg_buffer_size(&made) - begin, skip = 1
    while skip < n and is_slash(at[skip]):
        skip += 1
    memmove(at + 1, at + skip, n - skip)
    made.end -= skip - 1
