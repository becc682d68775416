"""Dates of HTTP: see dates.pxd.

The names of days are not looked at, and letters may have any case: what a date says does not depend on them.
"""

from libc.stdint cimport int64_t
from libc.string cimport memchr


cdef const char *MONTHS = b"janfebmaraprmayjunjulaugsepoctnovdec"


cdef inline int digits(const char *text, int count) noexcept nogil:
    """A number of so many digits; -1 when it is none."""
    cdef int value = 0, i
    for i in range(count):
        if text[i] < 48 or text[i] > 57:
            return -1
        value = value * 10 + (text[i] - 48)
    return value


cdef int month_of(const char *text) noexcept nogil:
    """1 to 12, or -1."""
    cdef int i
    for i in range(12):
        if ((text[0] | 32) == MONTHS[3 * i] and (text[1] | 32) == MONTHS[3 * i + 1]
                and (text[2] | 32) == MONTHS[3 * i + 2]):
            return i + 1
    return -1


cdef inline bint is_gmt(const char *text) noexcept nogil:
    return (text[0] | 32) == c'g' and (text[1] | 32) == c'm' and (text[2] | 32) == c't'


cdef int64_t seconds(int year, int month, int day, const char *clock) noexcept nogil:
    """`clock` is hh:mm:ss. Days as by Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms"."""
    cdef int hour = digits(clock, 2), minute = digits(clock + 3, 2), second = digits(clock + 6, 2)
    cdef int64_t y, days
    if (year < 1970 or month < 1 or day < 1 or day > 31 or hour < 0 or hour > 23 or minute < 0 or minute > 59
            or second < 0 or second > 60 or clock[2] != 58 or clock[5] != 58):
        return NO_DATE
    y = year - (month <= 2)
    days = (y * 365 + y // 4 - y // 100 + y // 400
            + (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1 - 719468)
    return ((days * 24 + hour) * 60 + minute) * 60 + second


cdef int64_t http_date(const char *text, size_t n) noexcept nogil:
    cdef const char *comma = <const char *>memchr(text, 44, n) if n else NULL
    cdef size_t rest
    cdef int year, day
    if comma == NULL:                         # asctime: "Sun Nov  6 08:49:37 1994"
        if n != 24 or text[3] != 32 or text[7] != 32 or text[10] != 32 or text[19] != 32:
            return NO_DATE
        day = digits(text + 9, 1) if text[8] == 32 else digits(text + 8, 2)
        return seconds(digits(text + 20, 4), month_of(text + 4), day, text + 11)
    rest = n - <size_t>(comma - text)
    if rest == 26:                            # IMF-fixdate: "Sun, 06 Nov 1994 08:49:37 GMT"
        if (comma[1] != 32 or comma[4] != 32 or comma[8] != 32 or comma[13] != 32 or comma[22] != 32
                or not is_gmt(comma + 23)):
            return NO_DATE
        return seconds(digits(comma + 9, 4), month_of(comma + 5), digits(comma + 2, 2), comma + 14)
    if rest == 24:                            # RFC 850: "Sunday, 06-Nov-94 08:49:37 GMT"
        if (comma[1] != 32 or comma[4] != 45 or comma[8] != 45 or comma[11] != 32 or comma[20] != 32
                or not is_gmt(comma + 21)):
            return NO_DATE
        year = digits(comma + 9, 2)
        if year >= 0:
            year += 1900 if year >= 70 else 2000
        return seconds(year, month_of(comma + 5), digits(comma + 2, 2), comma + 12)
    return NO_DATE
