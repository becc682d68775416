"""Reading a shard of the result cache: any process, at any time, without its lock."""

from libc.stdint cimport uint64_t

from lb.cache.layout cimport tg_found, tg_shard_view
from lb.net.buffer cimport tg_buffer

cdef enum:
    READ_MISS = -1
    READ_CORRUPT = -2

# Appends the object to `into` and returns its size; READ_MISS or READ_CORRUPT leave `into` unchanged. Only with
# `last_resort` is an object found that is good in the place of an error alone.
cdef Py_ssize_t shard_read(
    const tg_shard_view *v, const unsigned char *key, uint64_t now, bint last_resort, tg_buffer *into, tg_found *found
) noexcept nogil
# Whether a read would find a fresh object (its bytes are not verified).
cdef bint shard_has(const tg_shard_view *v, const unsigned char *key, uint64_t now) noexcept nogil
# A fresh object under the key becomes stale.
cdef void shard_expire(const tg_shard_view *v, const unsigned char *key) noexcept nogil
