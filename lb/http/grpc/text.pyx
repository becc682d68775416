"""The textual parts of gRPC over HTTP/2: see text.pxd.

Sources: gRPC's PROTOCOL-HTTP2.md (Timeout, Percent-Encoded) and http-grpc-status-mapping.md.
"""

from libc.stdint cimport uint64_t

cdef enum:
    UNITS = 6
    PUSHBACK_DIGITS = 9               # of milliseconds: 11 days
    MOST = 99_999_999                 # eight digits

cdef uint64_t LONGEST = 1 << 62              # 146 years: the sum with any clock still fits
cdef uint64_t[6] UNIT_NS = [3_600_000_000_000, 60_000_000_000, 1_000_000_000, 1_000_000, 1_000, 1]
cdef const char *UNIT = b"HMSmun"


cdef int write_number(char *into, uint64_t value, char unit) noexcept nogil:
    cdef char digits[20]
    cdef int n = 0, i
    while True:
        digits[n] = <char>(c'0' + value % 10)
        n += 1
        value /= 10
        if not value:
            break
    for i in range(n):
        into[i] = digits[n - 1 - i]
    into[n] = unit
    return n + 1


cdef int grpc_timeout(char *into, uint64_t ns, bint *round) noexcept nogil:
    cdef int i
    cdef uint64_t value
    round[0] = False
    for i in range(UNITS):
        if ns % UNIT_NS[i] == 0 and ns / UNIT_NS[i] <= MOST:
            round[0] = UNIT_NS[i] >= 1_000_000
            return write_number(into, ns / UNIT_NS[i], UNIT[i])
    for i in range(UNITS - 1, -1, -1):
        value = ns / UNIT_NS[i] + (ns % UNIT_NS[i] != 0)
        if value <= MOST:
            return write_number(into, value, UNIT[i])
    return write_number(into, MOST, c'H')


cdef uint64_t grpc_timeout_ns(const char *value, size_t size) noexcept nogil:
    cdef uint64_t number = 0
    cdef size_t i
    cdef int unit
    if size < 2 or size > 9:
        return 0
    for i in range(size - 1):
        if value[i] < c'0' or value[i] > c'9':
            return 0
        number = number * 10 + <uint64_t>(value[i] - c'0')
    for unit in range(UNITS):
        if value[size - 1] == UNIT[unit]:
            return min(number, LONGEST / UNIT_NS[unit]) * UNIT_NS[unit]
    return 0


cdef int grpc_status(const char *value, size_t size) noexcept nogil:
    cdef int code = 0
    cdef size_t i
    if size == 0 or size > 2:
        return GRPC_UNKNOWN
    for i in range(size):
        if value[i] < c'0' or value[i] > c'9':
            return GRPC_UNKNOWN
        code = code * 10 + value[i] - c'0'
    return code if code <= 16 else GRPC_UNKNOWN


cdef int http_status(const char *value, size_t size) noexcept nogil:
    cdef int status = 0
    cdef size_t i
    if size != 3:
        return 0
    for i in range(3):
        if value[i] < c'0' or value[i] > c'9':
            return 0
        status = status * 10 + value[i] - c'0'
    return status


cdef int grpc_status_of_http(int status) noexcept nogil:
    if status == 400:
        return 13                     # INTERNAL
    if status == 401:
        return 16                     # UNAUTHENTICATED
    if status == 403:
        return 7                      # PERMISSION_DENIED
    if status == 404:
        return 12                     # UNIMPLEMENTED
    if status == 429 or status == 502 or status == 503 or status == 504:
        return 14                     # UNAVAILABLE
    return GRPC_UNKNOWN


cdef inline int hex_digit(char c) noexcept nogil:
    if c'0' <= c <= c'9':
        return c - c'0'
    if c'a' <= c <= c'f':
        return c - c'a' + 10
    if c'A' <= c <= c'F':
        return c - c'A' + 10
    return -1


cdef size_t percent_decode(char *into, const char *value, size_t size) noexcept nogil:
    cdef size_t i = 0, n = 0
    cdef int high, low
    while i < size:
        if value[i] == c'%' and i + 2 < size:
            high = hex_digit(value[i + 1])
            low = hex_digit(value[i + 2])
            if high >= 0 and low >= 0:
                into[n] = <char>(high * 16 + low)
                n += 1
                i += 3
                continue
        into[n] = value[i]
        n += 1
        i += 1
    return n


cdef long pushback_ms(const char *value, size_t n) noexcept nogil:
    """Anything but a number that is not negative says that there is to be no retry (gRFC A6, "Pushback")."""
    cdef long total = 0
    cdef size_t i
    if n == 0 or n > PUSHBACK_DIGITS:
        return PUSHBACK_NEVER
    for i in range(n):
        if value[i] < 48 or value[i] > 57:
            return PUSHBACK_NEVER
        total = total * 10 + value[i] - 48
    return total
