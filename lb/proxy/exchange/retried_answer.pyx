"""Answers of HTTP that give way to another attempt: see retried_answer.pxd."""

from libc.stdint cimport int64_t
from lb.failure cimport RETRY_5XX, RETRY_LIMITED, is_retryable
from lb.http.caching.dates cimport NO_DATE, http_date
from lb.http.grpc.text cimport PUSHBACK_NONE
from lb.http.head cimport Scan, same_name
from lb.proxy.exchange.exchange cimport Exchange
from lb.telemetry.accesslog cimport wall_ns

cdef enum:
    TOO_MANY_REQUESTS = 429
    MOST_DIGITS = 9                   # of seconds: 31 years
    SECOND_MS = 1000
    SECOND_NS = 1_000_000_000


cdef bint retry_answer(Exchange exchange, const Scan *scan) noexcept:
    cdef int kind = RETRY_5XX if is_retryable(scan.status) else RETRY_LIMITED
    if kind == RETRY_LIMITED and scan.status != TOO_MANY_REQUESTS:
        return False
    if exchange.route.retry is None or not exchange.route.retry.names(kind):
        return False
    exchange.pushback = retry_after(scan, wall_ns() // SECOND_NS)
    if exchange.retry_attempt(kind, scan.status):
        return True
    exchange.pushback = PUSHBACK_NONE         # the answer goes to the client
    return False


cdef long retry_after(const Scan *scan, int64_t now) noexcept nogil:
    """Milliseconds from `now` (Unix seconds) until the endpoint wants to be asked again (RFC 9110 section 10.2.3); of
    several times the last. PUSHBACK_NONE where it does not say, or not in a form that the section knows."""
    cdef long longest = PUSHBACK_NONE
    cdef int i
    for i in range(scan.field_count):
        if scan.fields[i].name_length == 11 and same_name(scan.fields[i].name, 11, b"retry-after"):
            longest = max(longest, delay_of(scan.fields[i].value, scan.fields[i].value_length, now))
    return longest


cdef long delay_of(const char *text, size_t n, int64_t now) noexcept nogil:
    cdef int64_t seconds = 0
    cdef size_t i
    for i in range(n):
        if text[i] < 48 or text[i] > 57:
            seconds = http_date(text, n)
            return PUSHBACK_NONE if seconds == NO_DATE else <long>max(0, seconds - now) * SECOND_MS
        if i < MOST_DIGITS:
            seconds = seconds * 10 + text[i] - 48
    if n > MOST_DIGITS:
        seconds = 999_999_999                 # whatever its first digits are, it is beyond any wait
    return <long>seconds * SECOND_MS if n else PUSHBACK_NONE
