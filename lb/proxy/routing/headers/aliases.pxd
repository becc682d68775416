"""Headers under another spelling of their names.

CGI (RFC 3875 section 4.1.18), and WSGI and PHP after it, make a variable of each header: `X-Forwarded-For` and
`X_Forwarded_For` both become HTTP_X_FORWARDED_FOR. Some servers take every other character for an underscore, too. So a
client could put in what was replaced here, or what a route has not seen.
"""

from lb.http.head cimport Scan


# Whether a name has characters besides letters, digits and hyphens, and with hyphens instead would be one that is set,
# removed or looked at here: by the proxy itself, or by a route (`guarded`, of RouteTable).
cdef bint is_alias(const char *name, size_t n, dict guarded) noexcept
# Whether a name of `n` bytes is a spelling of `plain`, which is as long, in lower case, and has letters, digits and
# hyphens alone. Its own spelling is one.
cdef bint is_spelling(const char *name, const char *plain, size_t n) noexcept nogil
# Takes such fields out of a request's head: how many there were.
cdef int hide_aliases(Scan *scan, dict guarded) noexcept
# Takes out of a request's trailers what belongs in its head, whatever its spelling (RFC 9110 section 6.5.1).
cdef void hide_trailers(Scan *scan, dict guarded) noexcept
# Adds a name, in lower case, to `guarded`.
cdef void guard_name(dict guarded, bytes name)
