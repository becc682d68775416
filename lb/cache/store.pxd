"""The result cache: answers shared by all workers, in the segment's cache region."""

from libc.stdint cimport uint32_t, uint64_t

from lb.cache.layout cimport (
    tg_cache_stripe, tg_fill, tg_flight_set, tg_flight_worker, tg_found, tg_shard_view,
)
from lb.net.buffer cimport tg_buffer
from lb.shared.segment cimport Segment


cdef class ResultCache:
    cdef readonly Segment segment
    cdef readonly size_t max_object   # bytes; larger objects are rejected
    cdef readonly uint32_t shard_count
    cdef tg_shard_view *shards
    cdef tg_cache_stripe *stripes
    cdef tg_cache_stripe *stripe      # this process's
    cdef uint32_t *generations
    cdef uint32_t generation_mask
    cdef uint32_t *changes
    cdef tg_flight_worker *flight_workers
    cdef tg_flight_set *flights       # of all workers: lb.cache.shared_flights
    cdef uint32_t flight_mask
    cdef uint64_t *purging            # a bit for each slot, which several share: lb.cache.layout
    cdef uint64_t *claims             # on refreshes: lb.cache.claims
    cdef uint64_t token

    # Append the object under the 32-byte key to `into` and return its size; `found` says whether it is fresh or stale.
    # -1 = miss, and nothing is changed. Verified: sequence number, length and checksum. Takes no lock. `last_resort`:
    # the backend has failed, so that an object is found also when it is good in the place of an error alone.
    cdef Py_ssize_t get(
        self, const unsigned char *key, uint64_t now, bint last_resort, tg_buffer *into, tg_found *found
    ) noexcept
    # Keep `n` bytes under the key as `fill` says, in place of what was there. 1 stored; 0 rejected: too large, no time
    # to live, a tag was purged since the fill began, worth less than what would have to go and not TG_AWAITED, or the
    # shard is busy; -1: the shard was found damaged and has been emptied. Never waits.
    cdef int put(
        self, const unsigned char *key, const char *data, size_t n, uint64_t now, const tg_fill *fill
    ) noexcept

    # Tags. An answer that depends on something (a model, its version, a tenant) carries the tag of that thing. What is
    # found under a key has no tag that was purged since the answer's fill began.
    #
    # The slot of a tag. Tags may share a slot: a purge then takes the entries of both. The same as long as the segment
    # lives, so that a pool or a model can keep its own.
    cdef uint32_t slot(self, const char *tag, size_t n) noexcept
    # To be called before the backend is asked: makes it a fill without times, cost and flags, which the caller sets
    # before `put`, and notes the generations of the slots. -1: more than TG_TAGS slots; `put`
    # rejects such a fill. A fill is plain memory; zeroes are a fill without tags.
    cdef int begin(self, tg_fill *fill, const uint32_t *slots, uint32_t n) noexcept
    # Whether none of its tags was purged since the fill began.
    cdef bint holds(self, const tg_fill *fill) noexcept
    # Nothing that carries a tag of this slot, or is being made, is found afterwards. One atomic increment: does not
    # wait, whatever the number of entries, and has happened or not if its process is killed. 2^32 purges of a slot
    # during one entry's life would come round to its generation.
    cdef void purge_slot(self, uint32_t slot) noexcept
    # Whether a tag of the fill may have been purged without the cache tier knowing of it yet: what the tier has may be
    # older than the purge. A purge is marked before it happens, so that who has its generations sees the mark.
    cdef bint tier_is_behind(self, const tg_fill *fill) noexcept
    # Nothing is found under the key afterwards, until it is put again. Never waits.
    cdef void invalidate(self, const unsigned char *key, uint64_t now) noexcept
    # What the key stands for has changed: the same, and what is being made under the key, by any process, is told by
    # `changes_of`, which is another number from then on. Keys share these numbers.
    cdef void change(self, const unsigned char *key, uint64_t now) noexcept
    cdef uint32_t changes_of(self, const unsigned char *key) noexcept
    # Whether `get` would find something fresh; counts nothing, and the bytes are not verified.
    cdef bint contains(self, const unsigned char *key, uint64_t now) noexcept

    # Refreshes, as lb.cache.claims has them.
    cdef bint claim(self, const unsigned char *key, uint64_t now, uint64_t lease) noexcept
    cdef void settle(self, const unsigned char *key, uint64_t now, uint64_t pause, bint failed) noexcept
    cdef bint failing(self, const unsigned char *key) noexcept

    cdef inline tg_shard_view *shard(self, const unsigned char *key) noexcept
    cdef int check(self, key) except -1
