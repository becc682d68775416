"""A new path for a request, made of the old one."""

from lb.net.buffer cimport tg_buffer
from lb.http.regex cimport Regex, tg_piece
from lb.proxy.routing.values.format cimport Format, tg_values


cdef class Rewrite:
    cdef int kind
    cdef bytes matched                # prefix: what is replaced; path: the template's key
    cdef Regex regex
    cdef tuple literals               # by part: its bytes, or None
    cdef tuple numbers                # by part: the number of a name or group, or -1
    cdef readonly Format format       # of the new path, or what replaces the prefix; None: there are no values in it

    # Appends the new path, which begins with a slash, to `out`. 0, -1 for no memory, -2 when it would grow too long.
    cdef int append(self, tg_buffer *out, const char *path, size_t n) noexcept
    # The same where it has a `format`. -3: a value would make another path of it.
    cdef int append_format(self, tg_buffer *out, const char *path, size_t n, const tg_values *values) noexcept
    cdef int substitute(self, tg_buffer *out, const char *path, size_t n) noexcept
    cdef int append_parts(self, tg_buffer *out, const char *path, const tg_piece *pieces, int count) noexcept
