"""The rate limit of a route: who counts as one client, how much it may ask, and what it is told."""

from libc.stdint cimport uint64_t
from lb.shared.buckets cimport Buckets, tg_limit, tg_verdict
from lb.net.buffer cimport tg_buffer
from lb.http.head cimport Scan
from lb.net.timers cimport Timers
from lb.proxy.routing.bucket_key cimport BucketKey


cdef enum:
    RATE_FIELDS_OFF = 0
    RATE_FIELDS_STANDARD = 1          # RateLimit and RateLimit-Policy
    RATE_FIELDS_LEGACY = 2            # RateLimit-Limit, -Remaining and -Reset


cdef class RateLimit:
    cdef Buckets buckets
    cdef tg_limit limit
    cdef readonly BucketKey key
    cdef readonly bint delays         # requests wait for their turn behind some of the burst:
    cdef uint64_t at_once             # ns that these take to come back
    cdef Timers timers                # for the turns; None where nothing waits
    cdef readonly int form
    cdef bytes lines                  # the fields that are always the same
    cdef bytes item                   # "RateLimit: "NAME"" up to the numbers

    # Takes a token for the request, whose client is at `source` (text); `key` is what the text of its key says, of
    # `key_length` bytes. False: refuse it with 429.
    cdef bint admit(self, const Scan *scan, const char *key, size_t key_length, const char *source, size_t n,
                    uint64_t now, tg_verdict *verdict) noexcept
    # The bucket of such a request.
    cdef uint64_t bucket_of(self, const Scan *scan, const char *key, size_t key_length, const char *source,
                            size_t n) noexcept
    # The token that it was given goes back: it was not passed on, and `verdict` is that of a refusal for `wait` ns.
    cdef void refuse(self, uint64_t bucket, uint64_t now, uint64_t wait, tg_verdict *verdict) noexcept nogil
    # The same for one that has been told nothing.
    cdef void give_back(self, uint64_t bucket, uint64_t now) noexcept nogil
    # Nanoseconds until the turn of a request that was admitted.
    cdef uint64_t wait_of(self, const tg_verdict *verdict) noexcept nogil
    # The field lines that tell the client what it has left. 0, or -1 when memory is out.
    cdef int append_fields(self, tg_buffer *out, const tg_verdict *verdict) noexcept
    # The same for an answer 429, with Retry-After.
    cdef int append_refusal(self, tg_buffer *out, const tg_verdict *verdict) noexcept
