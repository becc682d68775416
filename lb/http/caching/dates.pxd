"""Dates of HTTP (RFC 9110 section 5.6.7)."""

from libc.stdint cimport int64_t

cdef enum:
    NO_DATE = -1

# Seconds since 1970 of a date in one of the three forms; NO_DATE for anything else, and for years before 1970. A year
# of two digits is one of 1970 to 2069.
cdef int64_t http_date(const char *text, size_t n) noexcept nogil
