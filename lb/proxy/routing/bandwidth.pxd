"""The bandwidth of a route's answers: which bytes may go to a client when."""

from libc.stdint cimport uint64_t
from lb.net.timers cimport Timers
from lb.proxy.routing.bucket_key cimport BucketKey
from lb.shared.buckets cimport Buckets


cdef enum:
    SLACK_NS = 250_000_000            # of which the bytes may go at once


cdef class Bandwidth:
    cdef readonly uint64_t per_request  # bytes a second; 0 = no limit
    cdef readonly uint64_t after      # bytes of each answer that `per_request` does not count
    cdef readonly uint64_t per_key    # bytes a second; 0 = no limit
    cdef readonly size_t piece        # bytes that are granted at a time, most
    cdef readonly BucketKey key       # None: there is no limit per key
    cdef Buckets buckets
    cdef Timers timers

    # When the next `n` bytes, a piece at most, may go of an answer whose key has the bucket `key`, ns: they count
    # from now on. `paid_at` is the answer's own, 0 at its beginning: when what went of it is paid for; NULL: these are
    # free of that. `taken` is what they took from the key's bucket, ns.
    cdef uint64_t grant(self, size_t n, uint64_t key, uint64_t now, uint64_t *paid_at, uint64_t *taken) noexcept nogil
    # Of bytes that were granted, and did not go: gives back what they took from the key's bucket.
    cdef void give_back(self, uint64_t key, uint64_t now, uint64_t taken) noexcept nogil
