"""The rate limit of a route: see rate.pxd. The buckets are the segment's, so that it holds over all workers.

What a client is told follows draft-ietf-httpapi-ratelimit-headers: `RateLimit-Policy` names the quota (q) and the
seconds in which it comes back (w), `RateLimit` what is left (r) and the seconds until all of it is back (t). Earlier
versions of the draft had three plain fields, which many clients still read: `fields: legacy`.
"""

from libc.stdint cimport uint64_t
from lb.shared.buckets cimport Buckets, make_limit, tg_verdict
from lb.net.buffer cimport tg_buffer, tg_buffer_append
from lb.http.head cimport Scan
from lb.net.timers cimport Timers
from lb.http.head_text cimport append_number, append_text
from lb.proxy.routing.bucket_key cimport BucketKey

cdef dict FORMS = {"off": RATE_FIELDS_OFF, "standard": RATE_FIELDS_STANDARD, "legacy": RATE_FIELDS_LEGACY}


cdef inline uint64_t seconds(uint64_t ns) noexcept nogil:
    """Whole seconds, rounded up: who waits that long does not come too early."""
    return ns // 1_000_000_000 + (ns % 1_000_000_000 != 0)


cdef class RateLimit:
    """`plan` is a RatePlan of the route `route`, whose path is `path`, of `path_kind`; `maps` are as in Format.
    `timers` are what the turns of delayed requests are timed by. Raises ValueError for a rate that cannot be counted,
    or delays without timers, OSError when the system has no timer."""

    def __init__(self, plan, str route, Buckets buckets not None, Timers timers=None, path_kind="", path="", maps=None):
        self.buckets = buckets
        self.limit = make_limit(plan.interval_ns, plan.burst)
        if plan.delay_after >= 0:
            if timers is None:
                raise ValueError("a rate that delays needs timers")
            timers.open()
            self.delays = True
            self.timers = timers
            self.at_once = <uint64_t>plan.delay_after * self.limit.interval
        self.key = BucketKey(plan.key, plan.key_name, buckets, "route:" + route, path_kind, path, maps)
        self.form = FORMS[plan.fields]
        window = max(<uint64_t>1, seconds(self.limit.depth))
        if self.form == RATE_FIELDS_STANDARD:
            self.lines = f'RateLimit-Policy: "{route}";q={plan.burst};w={window}\r\n'.encode()
            self.item = f'RateLimit: "{route}";r='.encode()
        elif self.form == RATE_FIELDS_LEGACY:
            self.lines = f"RateLimit-Limit: {plan.burst}\r\n".encode()

    cdef bint admit(self, const Scan *scan, const char *key, size_t key_length, const char *source, size_t n,
                    uint64_t now, tg_verdict *verdict) noexcept:
        self.buckets.take(self.bucket_of(scan, key, key_length, source, n), &self.limit, now, verdict)
        return verdict.admitted

    cdef uint64_t bucket_of(self, const Scan *scan, const char *key, size_t key_length, const char *source,
                            size_t n) noexcept:
        return self.key.find(scan, key, key_length, source, n)

    cdef void refuse(self, uint64_t bucket, uint64_t now, uint64_t wait, tg_verdict *verdict) noexcept nogil:
        self.give_back(bucket, now)
        verdict.admitted = False
        verdict.wait = wait if wait else 1
        verdict.remaining += 1
        verdict.reset -= self.limit.interval

    cdef void give_back(self, uint64_t bucket, uint64_t now) noexcept nogil:
        self.buckets.put_back(bucket, &self.limit, now)

    cdef uint64_t wait_of(self, const tg_verdict *verdict) noexcept nogil:
        cdef uint64_t ahead = verdict.reset - self.limit.interval       # of those before it
        return ahead - self.at_once if self.delays and ahead > self.at_once else 0

    cdef int append_fields(self, tg_buffer *out, const tg_verdict *verdict) noexcept:
        cdef int failed = 0
        if self.form == RATE_FIELDS_OFF:
            return 0
        failed |= tg_buffer_append(out, <const char *>self.lines, <size_t>len(self.lines))
        if self.form == RATE_FIELDS_STANDARD:
            failed |= tg_buffer_append(out, <const char *>self.item, <size_t>len(self.item))
            failed |= append_number(out, verdict.remaining)
            failed |= append_text(out, b";t=")
        else:
            failed |= append_text(out, b"RateLimit-Remaining: ")
            failed |= append_number(out, verdict.remaining)
            failed |= append_text(out, b"\r\nRateLimit-Reset: ")
        failed |= append_number(out, seconds(verdict.reset))
        return failed | append_text(out, b"\r\n")

    cdef int append_refusal(self, tg_buffer *out, const tg_verdict *verdict) noexcept:
        cdef int failed = append_text(out, b"Retry-After: ")
        failed |= append_number(out, seconds(verdict.wait) if verdict.wait else 1)
        failed |= append_text(out, b"\r\n")
        return failed | self.append_fields(out, verdict)
