"""Changing a shard of the result cache, under its lock."""

from libc.stdint cimport uint64_t

from lb.cache.layout cimport tg_cache_stripe, tg_entry, tg_shard_view

# 1 = this process holds the lock, 0 = another living one does. A dead owner's shard is emptied first.
cdef bint shard_lock(tg_shard_view *v, uint64_t token, uint64_t now, tg_cache_stripe *counters) noexcept nogil
cdef void shard_unlock(tg_shard_view *v) noexcept nogil

# Under the lock. -1 when the shard is damaged: the caller then empties it. Insertion: 0 = done, 1 = the entry is worth
# less than what would have had to go for it, and not `awaited`. Removal: 1 = there was such an entry, 0 = there was
# none.
# `entry` is complete, with its checksum, has TG_TAGS tags at most, and needs at most half of the shard's chunks.
cdef int shard_insert(
    tg_shard_view *v, const tg_entry *entry, const char *data, uint64_t now, uint64_t expires, bint awaited,
    tg_cache_stripe *counters
) noexcept nogil
cdef int shard_remove(tg_shard_view *v, const unsigned char *key) noexcept nogil
cdef void shard_reset(tg_shard_view *v) noexcept nogil
