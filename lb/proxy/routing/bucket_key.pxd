"""Whose requests share a token bucket: the key of rate limits and bandwidth limits."""

from libc.stdint cimport uint64_t
from lb.http.head cimport Scan
from lb.proxy.routing.text_key cimport TextKey
from lb.shared.buckets cimport Buckets


cdef class BucketKey:
    cdef Buckets buckets
    cdef uint64_t salt                # tells these buckets from those of other limits
    cdef readonly int kind            # KEY_* of lb.upstream.pool; KEY_NONE = one bucket for the whole route
    cdef readonly bytes name          # of the header, cookie or parameter
    cdef readonly TextKey text        # None: the key is no text
    cdef readonly bint by_identity    # it is known only once the client has shown who it is

    # The bucket of a request from `source` (text of `n` bytes); `text` is what the text of its key says, of
    # `text_length` bytes. Never 0.
    cdef uint64_t find(self, const Scan *scan, const char *text, size_t text_length, const char *source,
                       size_t n) noexcept
