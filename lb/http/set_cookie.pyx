"""What a Set-Cookie field says: see set_cookie.pxd.

Dates are read as RFC 6265 section 5.1.1 has browsers read them, which takes every form that servers send.
"""

from libc.stdint cimport int64_t
from libc.string cimport memchr, memcmp
from lb.http.head cimport same_name

cdef extern from "<strings.h>" nogil:
    int strncasecmp(const char *a, const char *b, size_t n)

cdef const char *MONTHS = b"janfebmaraprmayjunjulaugsepoctnovdec"


cdef inline bint is_digit(char c) noexcept nogil:
    return 48 <= c <= 57


cdef inline bint delimits(char c) noexcept nogil:
    return c == 9 or 32 <= c <= 47 or 59 <= c <= 64 or 91 <= c <= 96 or 123 <= c <= 126


cdef void trim(const char **text, size_t *n) noexcept nogil:
    while n[0] and (text[0][0] == 32 or text[0][0] == 9):
        text[0] += 1
        n[0] -= 1
    while n[0] and (text[0][n[0] - 1] == 32 or text[0][n[0] - 1] == 9):
        n[0] -= 1


cdef int digits(const char *text, size_t n, int least, int most, size_t *at) noexcept nogil:
    """The number of `least` to `most` digits at *at, which moves behind it; -1: there is none."""
    cdef int value = 0, count = 0
    while at[0] < n and count <= most and is_digit(text[at[0]]):
        value = 10 * value + (text[at[0]] - 48)
        count += 1
        at[0] += 1
    return value if least <= count <= most else -1


cdef bint clock_of(const char *text, size_t n, int *seconds) noexcept nogil:
    """H:M:S, of one or two digits each."""
    cdef size_t at = 0
    cdef int part, value = 0, i
    for i in range(3):
        if i:
            if at == n or text[at] != 58:
                return False
            at += 1
        part = digits(text, n, 1, 2, &at)
        if part < 0 or part > (23 if i == 0 else 59):
            return False
        value = 60 * value + part
    seconds[0] = value
    return True


cdef int month_of(const char *text, size_t n) noexcept nogil:
    """1 to 12, 0 for what is no month."""
    cdef int month
    if n < 3:
        return 0
    for month in range(12):
        if strncasecmp(text, MONTHS + 3 * month, 3) == 0:
            return month + 1
    return 0


cdef int64_t days_of(int year, int month, int day) noexcept nogil:
    """Days from 1970-01-01, by years that begin in March (Howard Hinnant, chrono-compatible date algorithms)."""
    cdef int y = year - 1 if month <= 2 else year
    cdef int64_t era = y // 400
    cdef int64_t of_era = y - era * 400
    cdef int64_t of_year = (153 * (month - 3 if month > 2 else month + 9) + 2) // 5 + day - 1
    return era * 146097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719468


cdef bint date_of(const char *text, size_t n, int64_t *when) noexcept nogil:
    """Unix seconds of a cookie's date. False: it is none."""
    cdef size_t at = 0, stop, read
    cdef int seconds = -1, day = -1, month = 0, year = -1, value
    while at < n:
        if delimits(text[at]):
            at += 1
            continue
        stop = at
        while stop < n and not delimits(text[stop]):
            stop += 1
        read = 0
        if seconds < 0 and clock_of(text + at, stop - at, &value):
            seconds = value
        elif is_digit(text[at]):
            value = digits(text + at, stop - at, 1, 4, &read)
            if day < 0 and value >= 0 and read <= 2:
                day = value
            elif year < 0 and value >= 0 and read >= 2:
                year = value + (1900 if 70 <= value <= 99 else 2000 if value < 70 and read == 2 else 0)
        elif month == 0:
            month = month_of(text + at, stop - at)
        at = stop
    if seconds < 0 or not 1 <= day <= 31 or month == 0 or year < 1601:
        return False
    when[0] = days_of(year, month, day) * 86400 + seconds
    return True


cdef bint read_set_cookie(const char *text, size_t n, const char *name, size_t name_size, int64_t now,
                          const char **value, size_t *size, bint *ended) noexcept nogil:
    cdef const char *end = text + n
    cdef const char *stop
    cdef const char *equals
    cdef const char *key
    cdef const char *said
    cdef size_t key_size, said_size
    cdef int64_t when
    cdef bint aged = False, over = False, past = False
    if n == 0:
        return False                          # it need not point to anything
    stop = <const char *>memchr(text, 59, n)
    if stop == NULL:
        stop = end
    equals = <const char *>memchr(text, 61, <size_t>(stop - text))
    if equals == NULL:
        return False
    key, key_size = text, <size_t>(equals - text)
    trim(&key, &key_size)
    if key_size != name_size or memcmp(key, name, name_size) != 0:
        return False
    value[0], size[0] = equals + 1, <size_t>(stop - equals - 1)
    trim(value, size)
    while stop < end:                         # of equal attributes the last counts
        key = stop + 1
        stop = <const char *>memchr(key, 59, <size_t>(end - key))
        if stop == NULL:
            stop = end
        equals = <const char *>memchr(key, 61, <size_t>(stop - key))
        if equals == NULL:
            continue
        key_size, said, said_size = <size_t>(equals - key), equals + 1, <size_t>(stop - equals - 1)
        trim(&key, &key_size)
        trim(&said, &said_size)
        if key_size == 7 and same_name(key, 7, b"max-age") and is_age(said, said_size):
            aged = True
            over = not above_zero(said, said_size)
        elif key_size == 7 and same_name(key, 7, b"expires") and date_of(said, said_size, &when):
            past = when <= now
    ended[0] = size[0] == 0 or (over if aged else past)
    return True


cdef bint is_age(const char *text, size_t n) noexcept nogil:
    cdef size_t i
    if n == 0 or not (is_digit(text[0]) or text[0] == 45 and n > 1):
        return False
    for i in range(1, n):
        if not is_digit(text[i]):
            return False
    return True


cdef bint above_zero(const char *text, size_t n) noexcept nogil:
    cdef size_t i
    for i in range(n):                        # however many digits there are
        if 49 <= text[i] <= 57:
            return text[0] != 45
    return False
