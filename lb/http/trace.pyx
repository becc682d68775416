"""Trace context: see trace.pxd.

The parser takes what the specification's grammar takes and nothing else (W3C Trace Context section 3.2): lower-case
hexadecimal, no zero ids, version ff refused, and of a higher version the first four parts. What it refuses begins a new
trace, so that a broken client cannot break ours.

Ids come from xoshiro256** (Blackman and Vigna, 2018), one generator per process, seeded from the kernel: an id has to
be unique, not secret.
"""

import os

from libc.stdint cimport uint64_t
from libc.string cimport memcpy, memset

cdef uint64_t STATE[4]
cdef const char *DIGITS = b"0123456789abcdef"


cdef inline uint64_t rotated(uint64_t x, int k) noexcept nogil:
    return (x << k) | (x >> (64 - k))


cdef uint64_t random64() noexcept:
    cdef uint64_t result = rotated(STATE[1] * 5, 7) * 9
    cdef uint64_t t = STATE[1] << 17
    STATE[2] ^= STATE[0]
    STATE[3] ^= STATE[1]
    STATE[1] ^= STATE[2]
    STATE[0] ^= STATE[3]
    STATE[2] ^= t
    STATE[3] = rotated(STATE[3], 45)
    return result


def seed(bytes data):
    """Seed the generator of this process with 32 bytes that are not all zero. For tests; done once at import."""
    if len(data) != sizeof(STATE) or not any(data):
        raise ValueError("a seed has 32 bytes, not all zero")
    memcpy(STATE, <const char *>data, sizeof(STATE))


def reseed():
    """Workers are forked: each needs a sequence of its own, or their ids would be the same."""
    seed(os.urandom(32))


reseed()
os.register_at_fork(after_in_child=reseed)


cdef void write_hex(const unsigned char *data, size_t n, char *into) noexcept nogil:
    cdef size_t i
    for i in range(n):
        into[2 * i] = DIGITS[data[i] >> 4]
        into[2 * i + 1] = DIGITS[data[i] & 15]


cdef inline int nibble(char c) noexcept nogil:
    if 48 <= c <= 57:
        return c - 48
    if 97 <= c <= 102:
        return c - 87
    return -1


cdef int read_hex(const char *text, size_t n, unsigned char *into) noexcept nogil:
    """`n` bytes from twice as many lower-case digits: 1 when one of them is not zero, 0 when all are, -1 when it is no
    such text."""
    cdef size_t i
    cdef int high, low, some = 0
    for i in range(n):
        high = nibble(text[2 * i])
        low = nibble(text[2 * i + 1])
        if high < 0 or low < 0:
            return -1
        into[i] = <unsigned char>(high << 4 | low)
        some |= into[i]
    return some != 0


cdef int trace_parse(const char *text, size_t n, tg_trace *trace) noexcept nogil:
    cdef unsigned char version, flags
    memset(trace, 0, sizeof(tg_trace))
    if n < TRACEPARENT_SIZE or text[2] != 45 or text[35] != 45 or text[52] != 45:
        return -1
    if read_hex(text, 1, &version) < 0 or version == 0xff:
        return -1
    # Version 00 ends here; a later one may go on behind a dash.
    if n > TRACEPARENT_SIZE and (version == 0 or text[TRACEPARENT_SIZE] != 45):
        return -1
    if read_hex(text + 3, 16, trace.trace_id) <= 0 or read_hex(text + 36, 8, trace.parent_id) <= 0:
        return -1
    if read_hex(text + 53, 1, &flags) < 0:
        return -1
    # Bits that are not known are not passed on (section 3.2.2.5.1).
    trace.flags = flags & (TRACE_SAMPLED | TRACE_RANDOM)
    return 0


cdef uint64_t trace_threshold(double ratio) noexcept nogil:
    if not ratio > 0:
        return 0
    if ratio >= 1:
        return <uint64_t>1 << 56
    return <uint64_t>(ratio * <double>(<uint64_t>1 << 56))


cdef bint trace_chosen(const tg_trace *trace, uint64_t threshold) noexcept nogil:
    # The random part of a trace id is its last 7 bytes (level 2, section 2.3.4).
    cdef uint64_t value = 0
    cdef int i
    for i in range(9, 16):
        value = value << 8 | trace.trace_id[i]
    return value < threshold


cdef void trace_begin(tg_trace *trace, uint64_t threshold) noexcept:
    cdef uint64_t parts[2]
    memset(trace, 0, sizeof(tg_trace))
    parts[0] = random64()
    parts[1] = random64()
    if parts[0] == 0 and parts[1] == 0:
        parts[0] = 1
    memcpy(trace.trace_id, parts, sizeof(parts))
    trace.flags = TRACE_RANDOM
    if trace_chosen(trace, threshold):
        trace.flags |= TRACE_SAMPLED
    trace_span(trace)


cdef void trace_span(tg_trace *trace) noexcept:
    cdef uint64_t span = random64()
    if span == 0:
        span = 1
    memcpy(trace.span_id, &span, sizeof(span))


cdef void trace_write(const tg_trace *trace, char *into) noexcept nogil:
    into[0] = 48
    into[1] = 48
    into[2] = 45
    write_hex(trace.trace_id, 16, into + 3)
    into[35] = 45
    write_hex(trace.span_id, 8, into + 36)
    into[52] = 45
    write_hex(&trace.flags, 1, into + 53)


# For tests and tools.
