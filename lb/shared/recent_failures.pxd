"""The share of an endpoint's recent attempts that failed: one word of its record, which every worker writes.

An attempt moves the share half of the way: a failure towards 1, a good answer towards 0. Time halves it every 10 s, so
that an endpoint that is passed over is asked again. Workers write the word without a lock and may lose each other's
attempts.
"""

from libc.math cimport exp2
from libc.stdint cimport uint32_t, uint64_t

from lb.shared.atomics cimport tg_load64_relaxed, tg_store64_relaxed
from lb.shared.segment_layout cimport tg_endpoint

cdef enum:
    TICK_SHIFT = 24                   # a tick of the word's clock is 2**24 ns, 17 ms; it comes round after 2 years
    HALF_LIFE = 596                   # ticks: 10 s
    WHOLE = 1 << 24                   # a share of 1
    LEAST = 1 << 18                   # a share below 1/64 is forgotten: good answers to a good endpoint write nothing


# The word: the tick of the last attempt above, the share at that moment below. 0: nothing is held against it.
cdef inline double faded_failures(uint64_t word, uint64_t now) noexcept nogil:
    cdef uint32_t age = <uint32_t> (now >> TICK_SHIFT) - <uint32_t> (word >> 32)
    if age > <uint32_t> 1 << 31:
        age = 0                       # another worker was later than this event
    return <double> <uint32_t> word / <double> WHOLE * exp2(-<double> age / <double> HALF_LIFE)


# 0 to 1, at `now` (monotonic ns).
cdef inline double failing_of(const tg_endpoint *record, uint64_t now) noexcept nogil:
    cdef uint64_t word = tg_load64_relaxed(&record.recent_failures)
    return faded_failures(word, now) if word else 0.0


cdef inline bint has_failed(const tg_endpoint *record) noexcept nogil:
    return tg_load64_relaxed(&record.recent_failures) != 0


# An attempt ended at `now`.
cdef inline void note_attempt(tg_endpoint *record, bint failed, uint64_t now) noexcept nogil:
    cdef uint64_t word = tg_load64_relaxed(&record.recent_failures)
    cdef double share
    cdef uint64_t units
    if word == 0 and not failed:
        return
    share = faded_failures(word, now) if word else 0.0
    units = <uint64_t> ((share + (1.0 if failed else 0.0)) / 2.0 * <double> WHOLE)
    tg_store64_relaxed(&record.recent_failures, 0 if units < LEAST else (now >> TICK_SHIFT) << 32 | units)


# The part of its turns that an endpoint takes: all while nothing failed, a quarter when every other attempt fails, and
# never less than one of 256, by which it is found out when the endpoint is well again.
cdef inline double turns_of(double failing) noexcept nogil:
    return max((1.0 - failing) * (1.0 - failing), 1.0 / 256.0)
