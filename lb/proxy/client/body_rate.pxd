"""Least speed of a request's body: a client has to send `quota` bytes within every `window`, or it holds us up.

A pure function of time: `start`, then `advance` with what came; it gives the deadline at which the window would end
unfulfilled. Each quota that comes begins a new window, so that a fast start earns no credit for a trickle behind it
(mod_reqtimeout and Kestrel average over the whole body and allow that), and a body shorter than the quota has one
window. Time in which we did not want any of it does not count: call `start` again when the body goes on.
"""

from libc.stdint cimport uint64_t


cdef struct tg_body_rate:
    uint64_t began                    # of this window, monotonic ns
    uint64_t bytes                    # that came in it


cdef inline void body_rate_start(tg_body_rate *body_rate, uint64_t now) noexcept nogil:
    body_rate.began = now
    body_rate.bytes = 0


# `quota` 0 = any speed will do: the deadline is never.
cdef inline uint64_t body_rate_advance(
    tg_body_rate *body_rate, uint64_t now, uint64_t came, uint64_t quota, uint64_t window
) noexcept nogil:
    if quota == 0:
        return <uint64_t>-1
    body_rate.bytes += came
    if body_rate.bytes >= quota:
        body_rate.began = now
        body_rate.bytes = 0
    return body_rate.began + window


# The bytes that `rate` (bytes a second) asks for in `window` ns, rounded up; at least 1 unless rate is 0. Rate below
# 2**33 and window below 2**54 (208 days), or the result is too large.
cdef inline uint64_t body_rate_quota(uint64_t rate, uint64_t window) noexcept nogil:
    cdef uint64_t whole = window // 1_000_000_000
    cdef uint64_t rest = window % 1_000_000_000
    return rate * whole + (rate * rest + 999_999_999) // 1_000_000_000
