"""What a request is recognised by: the value of a header, a cookie or a parameter of the query."""

from lb.http.head cimport Scan

# Finds the value that `kind` (KEY_HEADER, KEY_COOKIE, KEY_QUERY, KEY_PATH or KEY_URI of lb.upstream.pool) and `name`
# name in the request; header names are given in lower case. False: the request has none. The value lies in the scan's
# bytes.
cdef bint find_value(
    const Scan *scan, int kind, const char *name, size_t n, const char **value, size_t *length) noexcept nogil
# How many bytes of a request's target count as a key: of its path, or with `query` of all of it, the first `depth`
# directories (0 = all; HAProxy's `balance uri depth`) and the first `most` bytes (0 = all).
cdef size_t first_part(const char *target, size_t n, bint query, int depth, int most) noexcept nogil
# How many of these the request has. A parameter whose name has escapes may be any: with one there are two at least.
cdef int count_values(const Scan *scan, int kind, const char *name, size_t n) noexcept nogil
# Takes the cookies of this name out of the request. The other ones are in a buffer of the worker's from then on, which
# is good until the next call. Where there is no memory for that, none is passed on.
cdef void drop_cookie(Scan *scan, const char *name, size_t n) noexcept
