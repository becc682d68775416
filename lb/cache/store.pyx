"""The result cache: answers shared by all workers, in the segment's cache region (docs/adr/result-cache.md).

Any process may be killed between any two instructions: a lock is taken from a dead owner and the shard emptied, and a
reader that has any doubt reports a miss. Keys are 32-byte digests under the segment's secret: nobody outside can aim
at a bucket or at another's entry. Times are monotonic nanoseconds, the same for all processes of the machine.
"""

from libc.stdint cimport UINT64_MAX, int64_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from lb.cache.census cimport read_counted, shard_census, tg_counted
from lb.cache.claims cimport claim_failing, claim_settle, claim_take
from lb.cache.layout cimport (
    TG_CACHE_MAGIC,
    TG_CACHE_PAGE,
    TG_CHUNK,
    TG_CLAIMS_AT,
    TG_PURGING_AT,
    TG_PURGING_WORDS,
    tg_cache_stripe,
    tg_checksum,
    tg_entry,
    tg_fill,
    tg_flight_set,
    tg_flight_sets_for,
    tg_flight_worker,
    tg_found,
    tg_generations_for,
    tg_head_size,
    tg_key_flight,
    tg_key_shard,
    tg_purging_bit,
    tg_purging_word,
    tg_shard_place,
    tg_shard_view,
    tg_tag,
    tg_tags_hold,
    TG_AWAITED,
    TG_DISK_COUNTS,
    TG_FRESH,
    TG_NEGATIVE,
    TG_TAGS,
)
from lb.cache.lookup cimport READ_CORRUPT, READ_MISS, shard_expire, shard_has, shard_read
from lb.cache.owner cimport owner_token
from lb.cache.shard cimport shard_insert, shard_lock, shard_remove, shard_reset, shard_unlock
from lb.shared.atomics cimport (
    tg_cas64,
    tg_fetch_add32,
    tg_load32,
    tg_load32_relaxed,
    tg_load64,
    tg_load64_relaxed,
    tg_store64,
    tg_store64_relaxed,
)
from lb.shared.hashing cimport hash64_keyed
from lb.net.buffer cimport tg_buffer, tg_buffer_free, tg_buffer_head, tg_buffer_size
from lb.shared.segment cimport Segment, tg_add

from collections.abc import Iterable, Sequence
from typing import Any

from lb.errors import StartError, TidegateError

cdef enum:
    # Small enough to be emptied in well under a millisecond, large enough that the keys spread evenly.
    SHARD_BYTES = 4 << 20
    # An object may fill an eighth of a shard at least: more would make the shard's eviction queue meaningless.
    OBJECTS_PER_SHARD = 8
    MAX_SHARDS = 65536
    MIN_CHUNKS = 16


# What is counted of the tier on disk; `bytes` and `failing` (0 or 1) are as they are now.
DISK = ("hits", "stored", "evictions", "dropped", "damaged", "errors", "bytes", "failing")


cdef inline uint64_t later(uint64_t time, uint64_t by) noexcept nogil:
    return time + by if by < UINT64_MAX - time else UINT64_MAX


cdef class ResultCache:
    """This process's access to the cache in `segment`.

    `max_object` is the largest object in bytes; the attribute of that name may be lower: at most half a shard. The
    first process to come lays the region out, later ones find it so. To be made in the process that uses it, not before
    a fork. Raises TidegateError when the region is too small or holds something else, StartError without /proc.
    """

    def __init__(self, Segment segment, max_object: int):
        segment.check_open()
        cdef uint64_t stripes = (segment.header.workers + 1) * sizeof(tg_cache_stripe)
        cdef uint64_t size = segment.header.cache_size
        cdef uint32_t generations = tg_generations_for(size)
        cdef uint64_t generations_at = TG_CACHE_PAGE + (stripes + TG_CACHE_PAGE - 1) // TG_CACHE_PAGE * TG_CACHE_PAGE
        cdef uint32_t sets = tg_flight_sets_for(size)
        cdef uint64_t changes_at = generations_at + generations * sizeof(uint32_t)
        cdef uint64_t flights_at = changes_at + generations * sizeof(uint32_t)
        cdef uint64_t sets_at = flights_at + segment.header.workers * sizeof(tg_flight_worker)
        cdef uint64_t start = sets_at + sets * sizeof(tg_flight_set)
        start = (start + TG_CACHE_PAGE - 1) // TG_CACHE_PAGE * TG_CACHE_PAGE
        cdef char *region = segment.base + segment.header.cache_offset
        if self.shards is not NULL:
            raise TypeError("a ResultCache is initialised once")
        if max_object < 1:
            raise ValueError(f"max_object must be at least 1, not {max_object}")
        if size < start + TG_CACHE_PAGE:
            raise TidegateError(f"a result cache needs more than {size} bytes of the shared segment")
        cdef uint64_t shards = 1
        cdef uint64_t least = max(<uint64_t> SHARD_BYTES, OBJECTS_PER_SHARD * <uint64_t> min(max_object, size))
        while shards < MAX_SHARDS and size // (2 * shards) >= least:
            shards *= 2
        tg_cas64(<uint64_t *> region, 0, (TG_CACHE_MAGIC << 32) | shards)
        cdef uint64_t geometry = tg_load64(<uint64_t *> region)
        shards = geometry & 0xffffffffu
        if geometry >> 32 != TG_CACHE_MAGIC or not 0 < shards <= MAX_SHARDS or shards & (shards - 1):
            raise TidegateError("the cache region of the shared segment is not a result cache of this version")

        self.token = owner_token()
        if self.token == 0:
            raise StartError("cannot read /proc/self/stat, which the result cache's locks need")
        self.shards = <tg_shard_view *> calloc(shards, sizeof(tg_shard_view))
        if self.shards is NULL:
            raise MemoryError
        self.shard_count = <uint32_t> shards
        cdef uint64_t stride = (size - start) // shards // TG_CACHE_PAGE * TG_CACHE_PAGE
        self.generations = <uint32_t *> (region + generations_at)
        self.generation_mask = generations - 1
        self.changes = <uint32_t *> (region + changes_at)
        self.flight_workers = <tg_flight_worker *> (region + flights_at)
        self.flights = <tg_flight_set *> (region + sets_at)
        self.flight_mask = sets - 1
        cdef uint64_t i
        for i in range(shards):
            if tg_shard_place(&self.shards[i], region + start + i * stride, stride) < MIN_CHUNKS:
                raise TidegateError(f"a result cache needs more than {segment.header.cache_size} bytes")
            self.shards[i].generations = self.generations
            self.shards[i].generation_mask = self.generation_mask
        self.purging = <uint64_t *> (region + TG_PURGING_AT)
        self.claims = <uint64_t *> (region + TG_CLAIMS_AT)
        self.stripes = <tg_cache_stripe *> (region + TG_CACHE_PAGE)
        self.stripe = self.stripes + (segment.header.workers if segment.worker < 0 else segment.worker)
        self.max_object = min(max_object, self.shards[0].count // 2 * TG_CHUNK - tg_head_size(TG_TAGS))
        self.segment = segment

    def __dealloc__(self):
        free(self.shards)

    cdef inline tg_shard_view *shard(self, const unsigned char *key) noexcept:
        return &self.shards[tg_key_shard(key) & (self.shard_count - 1)]

    cdef Py_ssize_t get(
        self, const unsigned char *key, uint64_t now, bint last_resort, tg_buffer *into, tg_found *found
    ) noexcept:
        if self.segment.base is NULL:
            return -1
        cdef Py_ssize_t size = shard_read(self.shard(key), key, now, last_resort, into, found)
        if size >= 0:
            tg_add(&self.stripe.hits if found.state == TG_FRESH else &self.stripe.stale, 1)
            tg_add(&self.stripe.saved_us, found.cost_us)
            return size
        tg_add(&self.stripe.misses, 1)
        if size == READ_CORRUPT:
            tg_add(&self.stripe.corrupt, 1)
        return READ_MISS

    cdef int put(
        self, const unsigned char *key, const char *data, size_t n, uint64_t now, const tg_fill *fill
    ) noexcept:
        if self.segment.base is NULL or fill.fresh_ns == 0:
            return 0
        if n > self.max_object:
            tg_add(&self.stripe.rejected_size, 1)
            return 0
        # Not for correctness, which is the readers' part: no room for what nobody will find.
        if not tg_tags_hold(self.generations, self.generation_mask, fill.tags, fill.count):
            tg_add(&self.stripe.rejected_purged, 1)
            return 0
        cdef tg_entry entry
        memset(&entry, 0, sizeof(entry))
        memcpy(entry.key, key, 32)
        entry.stored_ns = now
        entry.size = n
        entry.fresh_until = later(now, fill.fresh_ns)
        entry.stale_until = later(entry.fresh_until, fill.stale_ns)
        entry.error_until = later(entry.fresh_until, fill.error_ns)
        entry.cost_us = fill.cost_us
        entry.flags = <uint16_t> (fill.flags & ~TG_AWAITED)
        entry.count = fill.count
        memcpy(entry.tags, fill.tags, fill.count * sizeof(tg_tag))
        entry.checksum = tg_checksum(&entry, data, n)
        cdef tg_shard_view *shard = self.shard(key)
        if not shard_lock(shard, self.token, now, self.stripe):
            tg_add(&self.stripe.rejected_busy, 1)
            return 0
        cdef uint64_t expires = max(entry.stale_until, entry.error_until)
        cdef int outcome = shard_insert(
            shard, &entry, data, now, expires, (fill.flags & TG_AWAITED) != 0, self.stripe)
        if outcome < 0:
            shard_reset(shard)
        shard_unlock(shard)
        if outcome > 0:
            tg_add(&self.stripe.rejected_value, 1)
            return 0
        tg_add(&self.stripe.corrupt if outcome < 0 else &self.stripe.stored, 1)
        return -1 if outcome < 0 else 1

    cdef void invalidate(self, const unsigned char *key, uint64_t now) noexcept:
        if self.segment.base is NULL:
            return
        cdef tg_shard_view *shard = self.shard(key)
        # The first makes sure of it, lock or no lock; the second gives the space back if that can be had at once.
        shard_expire(shard, key)
        if not shard_lock(shard, self.token, now, self.stripe):
            return
        if shard_remove(shard, key) < 0:
            shard_reset(shard)
            tg_add(&self.stripe.corrupt, 1)
        shard_unlock(shard)

    cdef uint32_t changes_of(self, const unsigned char *key) noexcept:
        return 0 if self.segment.base is NULL else tg_load32(&self.changes[tg_key_flight(key) & self.generation_mask])

    cdef void change(self, const unsigned char *key, uint64_t now) noexcept:
        if self.segment.base is not NULL:
            tg_fetch_add32(&self.changes[tg_key_flight(key) & self.generation_mask], 1)
            self.invalidate(key, now)

    cdef bint contains(self, const unsigned char *key, uint64_t now) noexcept:
        return self.segment.base is not NULL and shard_has(self.shard(key), key, now)

    cdef uint32_t slot(self, const char *tag, size_t n) noexcept:
        # Keyed: nobody outside can choose a tag that purges another's.
        return <uint32_t> hash64_keyed(tag, n, self.segment.header.cache_secret) & self.generation_mask

    cdef int begin(self, tg_fill *fill, const uint32_t *slots, uint32_t n) noexcept:
        cdef uint32_t i
        memset(fill, 0, sizeof(tg_fill))
        fill.count = <uint16_t> min(n, <uint32_t> TG_TAGS + 1)
        if n > TG_TAGS:
            return -1
        for i in range(n):
            fill.tags[i].slot = slots[i] & self.generation_mask
            fill.tags[i].generation = tg_load32(&self.generations[fill.tags[i].slot])
        return 0

    cdef bint holds(self, const tg_fill *fill) noexcept:
        return self.segment.base is not NULL and tg_tags_hold(
            self.generations, self.generation_mask, fill.tags, fill.count)

    cdef void purge_slot(self, uint32_t slot) noexcept:
        tg_fetch_add32(&self.generations[slot & self.generation_mask], 1)
        tg_add(&self.stripe.purges, 1)

    cdef bint tier_is_behind(self, const tg_fill *fill) noexcept:
        cdef uint32_t i, slot
        if self.segment.base is NULL:
            return True
        for i in range(min(fill.count, <uint32_t> TG_TAGS)):
            slot = fill.tags[i].slot
            if tg_load64(&self.purging[tg_purging_word(slot)]) & tg_purging_bit(slot):
                return True
        return False

    cdef bint claim(self, const unsigned char *key, uint64_t now, uint64_t lease) noexcept:
        return self.segment.base is not NULL and claim_take(self.claims, key, now, lease)

    cdef void settle(self, const unsigned char *key, uint64_t now, uint64_t pause, bint failed) noexcept:
        if self.segment.base is not NULL:
            claim_settle(self.claims, key, now, pause, failed)

    cdef bint failing(self, const unsigned char *key) noexcept:
        return self.segment.base is not NULL and claim_failing(self.claims, key)

    # Python level

    cdef int check(self, key) except -1:
        self.segment.check_open()
        if len(key) != 32:
            raise ValueError(f"a cache key has 32 bytes, not {len(key)}")
        return 0

    def has(self, bytes key, now: int) -> bool:
        """Whether a fresh object is under `key`; counts nothing."""
        self.check(key)
        return self.contains(<const unsigned char *> <const char *> key, now)

    def drop(self, bytes key, now: int) -> None:
        """Invalidate `key`."""
        self.check(key)
        self.invalidate(<const unsigned char *> <const char *> key, now)

    def purge(self, tag: bytes) -> None:
        """Invalidate whatever carries `tag`, and whatever is being made that will carry it."""
        self.segment.check_open()
        self.purge_slot(self.slot(<const char *> tag, len(tag)))

    def mark_purging(self, tags: Iterable[bytes]) -> None:
        """These are the tags whose purges a cache tier does not know yet, and no others. For the master alone, before
        it purges them here, and when the tier knows."""
        self.segment.check_open()
        cdef uint64_t words[TG_PURGING_WORDS]
        cdef uint32_t slot, i
        memset(words, 0, sizeof(words))
        for tag in tags:
            slot = self.slot(<const char *> <bytes> tag, <size_t> len(tag))
            words[tg_purging_word(slot)] |= tg_purging_bit(slot)
        for i in range(TG_PURGING_WORDS):
            if tg_load64_relaxed(&self.purging[i]) != words[i]:
                tg_store64(&self.purging[i], words[i])

    def is_purging(self, tag: bytes) -> bool:
        """Whether `mark_purging` said so of the tag, or of one that shares its mark."""
        self.segment.check_open()
        cdef uint32_t slot = self.slot(<const char *> tag, len(tag))
        return tg_load64(&self.purging[tg_purging_word(slot)]) & tg_purging_bit(slot) != 0

    def purge_all(self) -> None:
        """Invalidate whatever carries a tag, and whatever is being made that will carry one: one increment for each of
        the 65,536 counters at most. `purge_shard` takes what carries none."""
        cdef uint32_t slot
        self.segment.check_open()
        for slot in range(self.generation_mask + 1):
            tg_fetch_add32(&self.generations[slot], 1)
        tg_add(&self.stripe.purges, 1)

    def purge_shard(self, shard: int) -> None:
        """Invalidate whatever is in a shard, with tags or without. A shard at a time, so that the caller can do other
        things in between. Raises ValueError."""
        self.segment.check_open()
        if not 0 <= shard < self.shard_count:
            raise ValueError(f"there is no shard {shard}")
        cdef tg_shard_view *view = &self.shards[<uint32_t> shard]
        cdef uint32_t id
        for id in range(1, min(tg_load32_relaxed(&view.state.fresh), view.count) + 1):
            # An entry that takes the node's place meanwhile is lost early: a miss.
            if tg_load32_relaxed(&view.nodes[id].sequence) & 1:
                tg_store64_relaxed(&view.nodes[id].expires_ns, 0)

    def slot_of(self, tag: bytes) -> int:
        """The slot of a tag, as `top` names those of an entry."""
        self.segment.check_open()
        return self.slot(<const char *> tag, len(tag))

    def top(self, shard: int, most: int, now: int) -> list[dict[str, Any]]:
        """The entries of a shard with the most requests of late, of as many with the highest cost first; `most` is at
        least 1. A shard at a time, so that the caller can do other things in between.

        [{key, requests (15: that or more), bytes: of memory, size, age_ns, fresh_ns, cost_us, negative, slots: of its
        tags, start: its first bytes}]. Raises ValueError.
        """
        self.segment.check_open()
        if not 0 <= shard < self.shard_count or not 1 <= most <= 10_000:
            raise ValueError(f"no {most} entries of shard {shard}")
        cdef uint64_t at = now
        cdef uint32_t count, i, tag
        cdef tg_counted *found
        cdef tg_counted *best = <tg_counted *> calloc(<size_t> most + 1, sizeof(tg_counted))
        if best is NULL:
            raise MemoryError
        try:
            count = shard_census(&self.shards[<uint32_t> shard], at, best, <uint32_t> most, 0)
            entries = []
            for i in range(count):
                found = &best[i]
                entries.append({
                    "key": found.entry.key[:32],
                    "requests": found.requests,
                    "bytes": found.memory,
                    "size": found.entry.size,
                    "age_ns": at - found.entry.stored_ns if at > found.entry.stored_ns else 0,
                    "fresh_ns": found.entry.fresh_until - at if found.entry.fresh_until > at else 0,
                    "cost_us": found.entry.cost_us,
                    "negative": bool(found.entry.flags & TG_NEGATIVE),
                    "slots": [found.entry.tags[tag].slot for tag in range(found.entry.count)],
                    "start": found.start[:found.copied],
                })
            return entries
        finally:
            free(best)

    def entries(self, shard: int, now: int) -> list[dict[str, Any]]:
        """All that is in a shard and of use, verified, for `restore`: {key, value, age_ns, what is left of fresh_ns,
        stale_ns and error_ns, cost_us, flags, slots}. Raises ValueError."""
        found = []
        for id in self.ids(shard):
            entry = self.entry(shard, id, now)
            if entry is not None:
                found.append(entry)
        return found

    def ids(self, shard: int) -> range:
        """The numbers that entries of a shard may have. Raises ValueError."""
        self.segment.check_open()
        if not 0 <= shard < self.shard_count:
            raise ValueError(f"there is no shard {shard}")
        cdef tg_shard_view *view = &self.shards[<uint32_t> shard]
        return range(1, <int64_t> min(tg_load32_relaxed(&view.state.fresh), view.count) + 1)

    def entry(self, shard: int, id: int, now: int) -> dict[str, Any] | None:
        """What `entries` gives of one of `ids`; None where there is nothing of use. Raises ValueError."""
        self.segment.check_open()
        if not 0 <= shard < self.shard_count:
            raise ValueError(f"there is no shard {shard}")
        cdef tg_shard_view *view = &self.shards[<uint32_t> shard]
        if not 1 <= id <= view.count:
            raise ValueError(f"there is no entry {id}")
        cdef uint64_t at = now
        cdef uint32_t tag
        cdef tg_counted counted
        cdef tg_found found
        cdef tg_buffer value
        memset(&value, 0, sizeof(value))
        try:
            if not read_counted(view, id, at, &counted):
                return None
            if shard_read(view, counted.entry.key, at, True, &value, &found) < 0:
                return None
            return {
                "key": counted.entry.key[:32],
                "value": tg_buffer_head(&value)[:tg_buffer_size(&value)] if tg_buffer_size(&value) else b"",
                "age_ns": found.age_ns, "fresh_ns": found.fresh_ns, "stale_ns": found.stale_ns,
                "error_ns": found.error_ns, "cost_us": found.cost_us, "flags": found.flags,
                "slots": [counted.entry.tags[tag].slot for tag in range(counted.entry.count)],
            }
        finally:
            tg_buffer_free(&value)

    def restore(
        self, key: bytes, value: bytes, now: int, age_ns: int, fresh_ns: int, stale_ns: int, error_ns: int,
        cost_us: int, flags: int, slots: Sequence[int]
    ) -> bool:
        """Keep what `entries` gave, of a cache with the same secret and as many slots; whether it was taken. Its tags
        count from now on."""
        self.check(key)
        cdef uint32_t places[TG_TAGS]
        cdef tg_fill fill
        cdef uint32_t i
        cdef uint64_t age = min(age_ns, now)
        if len(slots) > TG_TAGS:
            return False
        for i in range(<uint32_t> len(slots)):
            places[i] = slots[i]
        self.begin(&fill, places, <uint32_t> len(slots))
        # As of the time when it was stored; what is stale has been so from now on.
        fill.fresh_ns = max(age + <uint64_t> fresh_ns, <uint64_t> 1)
        fill.stale_ns = <uint64_t> max(stale_ns - fresh_ns, 0)
        fill.error_ns = <uint64_t> max(error_ns - fresh_ns, 0)
        fill.cost_us = cost_us
        fill.flags = flags
        return self.put(
            <const unsigned char *> <const char *> key, <const char *> value, <size_t> len(value),
            <uint64_t> now - age, &fill) == 1

    def generation(self, slot: int) -> int:
        """How often tags of the slot were purged."""
        self.segment.check_open()
        return tg_load32(&self.generations[<uint32_t> slot & self.generation_mask])

    def change_count(self, key: bytes) -> int:
        """Changes of the URI with this key of 32 bytes, and of those that share its counter, since the start."""
        return self.changes_of(<const unsigned char *> <const char *> key)

    def count_disk(self, name: str, by: int) -> None:
        """Count what happens on disk, by a name in `DISK`, under the interpreter's lock. Raises ValueError."""
        self.segment.check_open()
        tg_add(&self.stripe.disk[<uint32_t> DISK.index(name)], <uint64_t> <int64_t> by)

    def set_disk(self, name: str, value: int) -> None:
        """What is so on disk now, likewise. Raises ValueError."""
        self.segment.check_open()
        tg_store64_relaxed(&self.stripe.disk[<uint32_t> DISK.index(name)], <uint64_t> value)

    @property
    def slots(self) -> int:
        """Number of slots that tags have."""
        return self.generation_mask + 1

    def recover(self, now: int) -> int:
        """Take the locks of dead processes at once, emptying their shards, instead of when the next put meets them.

        For the master, when a worker has died. Returns how many were broken.
        """
        self.segment.check_open()
        cdef uint64_t before = self.stripe.broken_locks
        cdef uint32_t i
        for i in range(self.shard_count):
            if tg_load64_relaxed(&self.shards[i].state.lock) and shard_lock(
                &self.shards[i], self.token, now, self.stripe
            ):
                shard_unlock(&self.shards[i])
        return self.stripe.broken_locks - before

    def release_flights(self, worker: int) -> None:
        """What a dead worker leads is another's to take at once, instead of when its lease ends.

        For the master, when a worker has died; the other workers are to be woken then. Raises IndexError.
        """
        self.segment.check_open()
        if not 0 <= worker < self.segment.header.workers:
            raise IndexError(f"worker {worker} is not in 0 to {self.segment.header.workers - 1}")
        tg_store64(&self.flight_workers[worker].lease_until, 0)

    def stats(self) -> dict[str, int]:
        """Totals over all processes. `bytes` and `capacity` are memory, in whole chunks; `entries` includes stale ones
        and purged ones not yet reclaimed; `evictions` are of fresh entries, `expired` of stale and purged ones.
        `hits` found a fresh entry, `stale` one that is not; `saved_us` is the time that making what they found took.
        `flights_…`: flights that a worker followed in another, took over from a dead or hung one, ended without an
        answer to share, and had for itself since the table was full. `disk_…`: as `DISK` has them."""
        self.segment.check_open()
        cdef uint64_t used = 0
        cdef uint64_t chunks = 0
        cdef uint64_t entries = 0
        cdef uint32_t i, k
        cdef tg_cache_stripe *stripe
        cdef tg_flight_worker *part
        for i in range(self.shard_count):
            entries += tg_load32_relaxed(&self.shards[i].state.entries)
            used += tg_load32_relaxed(&self.shards[i].state.used)
            chunks += self.shards[i].count
        totals = dict.fromkeys(
            ("hits", "misses", "stored", "rejected_busy", "rejected_size", "evictions", "expired", "broken_locks",
             "corrupt", "purges", "rejected_purged", "stale", "saved_us",
             "rejected_value", "flights_followed", "flights_promoted", "flights_unshared", "flights_full",
             *[f"disk_{name}" for name in DISK]), 0)
        for i in range(self.segment.header.workers + 1):
            stripe = &self.stripes[i]
            totals["hits"] += tg_load64_relaxed(&stripe.hits)
            totals["misses"] += tg_load64_relaxed(&stripe.misses)
            totals["stored"] += tg_load64_relaxed(&stripe.stored)
            totals["rejected_busy"] += tg_load64_relaxed(&stripe.rejected_busy)
            totals["rejected_size"] += tg_load64_relaxed(&stripe.rejected_size)
            totals["evictions"] += tg_load64_relaxed(&stripe.evictions)
            totals["expired"] += tg_load64_relaxed(&stripe.expired)
            totals["broken_locks"] += tg_load64_relaxed(&stripe.broken_locks)
            totals["corrupt"] += tg_load64_relaxed(&stripe.corrupt)
            totals["purges"] += tg_load64_relaxed(&stripe.purges)
            totals["rejected_purged"] += tg_load64_relaxed(&stripe.rejected_purged)
            totals["stale"] += tg_load64_relaxed(&stripe.stale)
            totals["saved_us"] += tg_load64_relaxed(&stripe.saved_us)
            totals["rejected_value"] += tg_load64_relaxed(&stripe.rejected_value)
            for k in range(TG_DISK_COUNTS):
                totals[f"disk_{DISK[k]}"] += tg_load64_relaxed(&stripe.disk[k])
        for i in range(self.segment.header.workers):
            part = &self.flight_workers[i]
            totals["flights_followed"] += tg_load64_relaxed(&part.followed)
            totals["flights_promoted"] += tg_load64_relaxed(&part.promoted)
            totals["flights_unshared"] += tg_load64_relaxed(&part.unshared)
            totals["flights_full"] += tg_load64_relaxed(&part.full)
        return {"entries": entries, "bytes": used * TG_CHUNK, "capacity": chunks * TG_CHUNK, **totals}

    def __repr__(self):
        return f"<ResultCache shards={self.shard_count} max_object={self.max_object}>"
