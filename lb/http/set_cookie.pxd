"""What a Set-Cookie field says (RFC 6265 section 5.2), as far as affinity needs it. Bytes in, no state."""

from libc.stdint cimport int64_t

# Whether the field is about the cookie `name`, which it gives the value `value`, a part of `text`; `ended`: it takes it
# from the client instead (no value, a Max-Age of 0 or less, an Expires not after `now`, in Unix seconds).
cdef bint read_set_cookie(const char *text, size_t n, const char *name, size_t name_size, int64_t now,
                          const char **value, size_t *size, bint *ended) noexcept nogil
# Takes the blanks at both ends of *text away.
cdef void trim(const char **text, size_t *n) noexcept nogil
