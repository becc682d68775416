"""The result cache: answers shared by all workers, in the segment's cache region."""

from libc.stdint cimport uint32_t, uint64_t

from lb.cache.layout cimport tg_cache_stripe, tg_shard_view
from lb.net.buffer cimport tg_buffer
from lb.shared.segment cimport Segment


cdef class ResultCache:
    cdef readonly Segment segment
    cdef readonly size_t max_object   # bytes; larger objects are rejected
    cdef readonly uint32_t shard_count
    cdef tg_shard_view *shards
    cdef tg_cache_stripe *stripes
    cdef tg_cache_stripe *stripe      # this process's
    cdef uint64_t token

    # Append the fresh object under the 32-byte key to `into` and return its size, with its age and the time it has left
    # (ns); -1 = miss, and nothing is changed. Verified: sequence number, length and checksum. Takes no lock.
    cdef Py_ssize_t get(
        self, const unsigned char *key, uint64_t now, tg_buffer *into, uint64_t *age_ns, uint64_t *ttl_ns
    ) noexcept
    # Keep `n` bytes under the key for `ttl_ns`, in place of what was there. 1 stored; 0 rejected: too large, no time to
    # live, or the shard is busy; -1: the shard was found damaged and has been emptied. Never waits.
    cdef int put(self, const unsigned char *key, const char *data, size_t n, uint64_t now, uint64_t ttl_ns) noexcept
    # Nothing is found under the key afterwards, until it is put again. Never waits.
    cdef void invalidate(self, const unsigned char *key, uint64_t now) noexcept
    # Whether `get` would find something; counts nothing, and the bytes are not verified.
    cdef bint contains(self, const unsigned char *key, uint64_t now) noexcept

    cdef inline tg_shard_view *shard(self, const unsigned char *key) noexcept
    cdef int check(self, key) except -1
