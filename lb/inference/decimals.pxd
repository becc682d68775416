"""Decimal text to floating point."""


# Reads the number of JSON (RFC 8259 section 6) at `text`, which ends before `end`, of at most NUMBER_MOST characters:
# `value` is the double nearest to it, ties to even; an infinity where it is too large for one. What is behind it.
cdef const char *read_number(const char *text, const char *end, double *value) noexcept nogil

cdef enum:
    NUMBER_MOST = 1024                # characters of a number
