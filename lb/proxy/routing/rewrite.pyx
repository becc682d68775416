"""A new path for a request: see rewrite.pxd."""

from collections.abc import Mapping

from libc.string cimport memset
from lb.net.buffer cimport tg_buffer, tg_buffer_append, tg_buffer_free, tg_buffer_head, tg_buffer_size
from lb.http.regex cimport REGEX_GROUPS, Regex, tg_piece
from lb.proxy.routing.dot_segments cimport dot_segments
from lb.proxy.routing.paths cimport template_pieces
from lb.proxy.routing.values.format cimport FORMAT_REFUSED, Format, tg_values
from lb.proxy.routing.values.lookup cimport Lookup

from lb.config.plan.routes import RewritePlan

cdef enum:
    REWRITE_PREFIX = 0
    REWRITE_PATH = 1
    REWRITE_REGEX = 2
    REWRITE_FORMAT = 3
    LONGEST = 64 * 1024               # of a path that a substitution may grow to

cdef dict KINDS = {"prefix": REWRITE_PREFIX, "path": REWRITE_PATH, "regex": REWRITE_REGEX, "format": REWRITE_FORMAT}


cdef class Rewrite:
    """The rewrite of a plan (`RewritePlan`). Raises ValueError for a bad expression, or a group that it has not."""

    def __init__(self, plan: RewritePlan, maps: Mapping[str, tuple[str, Lookup]] | None = None) -> None:
        self.kind = KINDS[plan.kind]
        self.matched = plan.matched.encode("latin-1")
        if self.kind == REWRITE_FORMAT:
            self.format = Format(plan.parts[0], "path", maps)
            return
        self.literals = tuple([part.encode() if isinstance(part, str) else None for part in plan.parts])
        self.numbers = tuple([-1 if isinstance(part, str) else part for part in plan.parts])
        if self.kind == REWRITE_REGEX:
            self.regex = Regex(self.matched)
            for number in self.numbers:
                if number > self.regex.groups:
                    raise ValueError(f"\\{number}: the expression has {self.regex.groups} groups")

    def rewritten(self, path: bytes) -> bytes:
        """The new path of `path`, as requests get it. Raises ValueError where requests are refused:
        it would grow too long, or get a dot segment; MemoryError."""
        cdef tg_buffer out
        cdef int failed
        memset(&out, 0, sizeof(out))
        try:
            if self.kind == REWRITE_PREFIX and not path.startswith(self.matched):
                return path
            failed = self.append(&out, <const char *>path, <size_t>len(path))
            if failed == -1:
                raise MemoryError
            if failed == FORMAT_REFUSED:
                raise ValueError("the rewritten path has a dot segment")
            if failed:
                raise ValueError("the rewritten path is too long")
            return tg_buffer_head(&out)[:tg_buffer_size(&out)]
        finally:
            tg_buffer_free(&out)

    cdef int append(self, tg_buffer *out, const char *path, size_t n) noexcept:
        cdef size_t begin = tg_buffer_size(out)
        cdef int failed = append_new(self, out, path, n)
        return failed if failed else checked(out, begin, path, n)

    cdef int append_format(self, tg_buffer *out, const char *path, size_t n, const tg_values *values) noexcept:
        cdef size_t begin = tg_buffer_size(out), skip = <size_t>len(self.matched)
        cdef int failed = self.format.append(out, values)
        if failed:
            return failed
        # A value may be the dots of a segment, or complete them.
        if dot_segments(tg_buffer_head(out) + begin, tg_buffer_size(out) - begin):
            return FORMAT_REFUSED
        if skip and skip < n and tg_buffer_append(out, path + skip, n - skip) < 0:
            return -1
        return checked(out, begin, path, n)

    cdef int append_parts(self, tg_buffer *out, const char *path, const tg_piece *pieces, int count) noexcept:
        cdef Py_ssize_t i
        cdef int number
        cdef bytes text
        for i in range(len(self.numbers)):
            number = <int>self.numbers[i]
            if number < 0:
                text = <bytes>self.literals[i]
                if tg_buffer_append(out, <const char *>text, <size_t>len(text)) < 0:
                    return -1
            elif number < count and pieces[number].set:
                if tg_buffer_append(out, path + pieces[number].start, pieces[number].end - pieces[number].start) < 0:
                    return -1
        return 0

    cdef int substitute(self, tg_buffer *out, const char *path, size_t n) noexcept:
        """Every match is replaced, but an empty one right behind another (as RE2's GlobalReplace has it)."""
        cdef tg_piece pieces[REGEX_GROUPS]
        cdef size_t at = 0, begin = tg_buffer_size(out), last = <size_t>-1
        while at <= n and self.regex.find(path, n, at, pieces):
            if tg_buffer_append(out, path + at, pieces[0].start - at) < 0:
                return -1
            at = pieces[0].end
            if at != last or pieces[0].start != at:
                if self.append_parts(out, path, pieces, REGEX_GROUPS) < 0:
                    return -1
            last = at
            if pieces[0].start == pieces[0].end:
                if at < n and tg_buffer_append(out, path + at, 1) < 0:
                    return -1
                at += 1
            if tg_buffer_size(out) - begin > LONGEST:
                return -2
        if at < n and tg_buffer_append(out, path + at, n - at) < 0:
            return -1
        if tg_buffer_size(out) == begin or (out.data + out.start + begin)[0] != 47:
            return rooted(out, begin)
        return 0


cdef int append_new(Rewrite rewrite, tg_buffer *out, const char *path, size_t n) noexcept:
    cdef tg_piece pieces[REGEX_GROUPS]
    cdef int count = 0
    cdef size_t skip = <size_t>len(rewrite.matched)
    if rewrite.kind == REWRITE_REGEX:
        return rewrite.substitute(out, path, n)
    if rewrite.kind == REWRITE_PATH:
        if skip:
            count = template_pieces(<const char *>rewrite.matched, skip, path, n, pieces)
        return rewrite.append_parts(out, path, pieces, count)
    if rewrite.append_parts(out, path, pieces, 0) < 0:
        return -1
    # The route matched by this prefix, so the path has it.
    return tg_buffer_append(out, path + skip, n - skip) if skip < n else 0


cdef int rooted(tg_buffer *out, size_t begin) noexcept nogil:
    """Puts a slash in front of what stands from `begin` on."""
    cdef char *at
    cdef size_t i
    if tg_buffer_append(out, b"/", 1) < 0:
        return -1
    at = out.data + out.start
    i = tg_buffer_size(out) - 1
    while i > begin:
        at[i] = at[i - 1]
        i -= 1
    at[begin] = 47
    return 0


cdef int checked(const tg_buffer *out, size_t begin, const char *path, size_t n) noexcept nogil:
    """FORMAT_REFUSED where the path from `begin` on has a dot segment that `path` did not have: of "/v1../x" the prefix
    "/v1" replaced by "/new/" gives "/new/../x", which leads out of what the route says. Else 0."""
    cdef size_t count = dot_segments(tg_buffer_head(out) + begin, tg_buffer_size(out) - begin)
    return FORMAT_REFUSED if count and count > dot_segments(path, n) else 0
