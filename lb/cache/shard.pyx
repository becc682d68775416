"""Changing a shard of the result cache, under its lock (docs/adr/result-cache.md; lookup.pyx for the readers' side).

Writers, too, check the numbers they follow: the segment is shared, and damage in it must cost a shard, not a process.
"""

from libc.math cimport HUGE_VAL
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from lb.cache.layout cimport (
    TG_CHUNK,
    tg_cache_stripe,
    tg_chunk,
    tg_chunks_for,
    tg_entry,
    tg_head_size,
    tg_key_tag,
    tg_node,
    tg_shard,
    tg_shard_view,
    tg_sketch_add,
    tg_sketch_count,
    tg_sketch_halve,
    tg_tags_hold,
)
from lb.cache.owner cimport owner_is_dead
from lb.shared.atomics cimport (
    tg_cas64,
    tg_fence_release,
    tg_load32_relaxed,
    tg_load64,
    tg_load64_relaxed,
    tg_pause,
    tg_store32,
    tg_store32_relaxed,
    tg_store64,
    tg_store64_relaxed,
)
from lb.shared.segment cimport tg_add

cdef enum:
    # About as long as a small insertion. On a single core waiting longer would only delay the owner.
    LOCK_SPINS = 100
    # Entries looked at for staleness per eviction. More than one, or the newcomers would outrun the broom.
    BROOM_LOOKS = 3
    # Visited entries that the hand spares per eviction: a bound of the work under the lock. Readers may go on setting
    # bits, so that without a bound there would be no end.
    HAND_LOOKS = 64
    # The sketch is halved after so many requests for each entry that is held, and a few more: a shard with few entries
    # would forget at once. Measured: docs/adr/result-cache.md.
    SKETCH_AGE = 10
    SKETCH_LEAST = 64

# How long an owner that was found alive is left alone before it is looked up again.
cdef uint64_t HOLDER_NS = 10_000_000


cdef bint shard_lock(tg_shard_view *v, uint64_t token, uint64_t now, tg_cache_stripe *counters) noexcept nogil:
    cdef uint64_t *lock = &v.state.lock
    cdef uint64_t owner = 0
    cdef int _
    for _ in range(LOCK_SPINS):
        owner = tg_load64_relaxed(lock)
        if owner == 0 and tg_cas64(lock, 0, token):
            return True
        tg_pause()
    owner = tg_load64(lock)
    if owner == 0 or owner == token or (owner == v.holder and now < v.holder_known_until):
        return False
    if not owner_is_dead(owner):
        v.holder = owner
        v.holder_known_until = now + HOLDER_NS
        return False
    # No living process can hold a dead one's token: the exchange takes it from the dead and from nobody else. If we die
    # before the shard is empty, the next owner finds our token and starts over.
    if not tg_cas64(lock, owner, token):
        return False
    shard_reset(v)
    tg_add(&counters.broken_locks, 1)
    return True


cdef void shard_unlock(tg_shard_view *v) noexcept nogil:
    tg_store64(&v.state.lock, 0)


cdef void shard_reset(tg_shard_view *v) noexcept nogil:
    """Empty the shard. Sequences go on counting, so that a reader in the middle of an old object notices."""
    cdef tg_shard *state = v.state
    cdef uint32_t id
    for id in range(1, v.count + 1):
        if v.nodes[id].sequence & 1:
            tg_store32_relaxed(&v.nodes[id].sequence, v.nodes[id].sequence + 1)
    tg_fence_release()
    memset(v.buckets, 0, (<size_t> v.mask + 1) * sizeof(uint32_t))
    state.fresh = state.free = state.free_count = 0
    state.newest = state.oldest = state.hand = state.broom = 0
    tg_store32_relaxed(&state.entries, 0)
    tg_store32_relaxed(&state.used, 0)


cdef inline bint valid(const tg_shard_view *v, uint32_t id) noexcept nogil:
    return 0 < id <= v.count


cdef int unlink_bucket(tg_shard_view *v, uint32_t id) noexcept nogil:
    cdef uint32_t *at = &v.buckets[v.nodes[id].tag & v.mask]
    cdef uint32_t _
    for _ in range(v.count):
        if at[0] == id:
            tg_store32(at, v.nodes[id].chain)
            return 0
        if not valid(v, at[0]):
            return -1
        at = &v.nodes[at[0]].chain
    return -1


cdef int unlink_queue(tg_shard_view *v, uint32_t id) noexcept nogil:
    cdef tg_shard *state = v.state
    cdef uint32_t newer = v.nodes[id].newer
    cdef uint32_t older = v.nodes[id].older
    if newer > v.count or older > v.count:
        return -1
    if state.hand == id:
        state.hand = newer
    if state.broom == id:
        state.broom = newer
    if newer:
        v.nodes[newer].older = older
    else:
        state.newest = older
    if older:
        v.nodes[older].newer = newer
    else:
        state.oldest = newer
    return 0


cdef int discard(tg_shard_view *v, uint32_t id) noexcept nogil:
    """Take an entry out and free its chunks."""
    cdef tg_shard *state = v.state
    cdef tg_node *node = &v.nodes[id]
    cdef uint32_t last = id
    cdef uint32_t _
    if not node.sequence & 1 or state.entries == 0 or state.used > v.count or not 0 < node.chunks <= state.used:
        return -1
    tg_store32_relaxed(&node.sequence, node.sequence + 1)
    tg_fence_release()  # readers see that before they see anything of what follows
    if unlink_bucket(v, id) or unlink_queue(v, id):
        return -1
    for _ in range(1, node.chunks):
        last = v.nodes[last].link
        if not valid(v, last):
            return -1
    tg_store32_relaxed(&v.nodes[last].link, state.free)
    state.free = id
    state.free_count += node.chunks
    tg_store32_relaxed(&state.used, state.used - node.chunks)
    tg_store32_relaxed(&state.entries, state.entries - 1)
    return 0


cdef uint32_t sweep(tg_shard_view *v, uint64_t now) noexcept nogil:
    """A stale or purged entry, if one is at the broom's next few places; 0 if not. The broom goes round and round.

    The hand does not look for purged entries, since it would have to read the head of each: nobody visits them, so that
    it takes them anyway.
    """
    cdef tg_shard *state = v.state
    cdef const tg_entry *entry
    cdef uint32_t id
    cdef int _
    for _ in range(BROOM_LOOKS):
        id = state.broom if state.broom else state.oldest
        if not valid(v, id):
            return 0
        if now >= tg_load64_relaxed(&v.nodes[id].expires_ns):
            return id
        entry = <const tg_entry *> tg_chunk(v, id)
        if not tg_tags_hold(v.generations, v.generation_mask, entry.tags, entry.count):
            return id
        state.broom = v.nodes[id].newer
    return 0


cdef void count(tg_shard_view *v, uint32_t tag) noexcept nogil:
    """Count a request for an entry. All counters are halved now and then, so that what was popular once makes way."""
    tg_sketch_add(v.sketch, v.mask, tag)
    v.state.counted += 1
    if v.state.counted >= SKETCH_AGE * <uint64_t> v.state.entries + SKETCH_LEAST:
        v.state.counted = 0
        tg_sketch_halve(v.sketch, v.mask)


cdef inline double worth(const tg_shard_view *v, uint32_t tag, uint32_t cost_us, uint32_t chunks) noexcept nogil:
    """The time that an entry is expected to save, per chunk. A cost of 0 is not known, and taken as the least."""
    return <double> tg_sketch_count(v.sketch, v.mask, tag) * <double> max(cost_us, <uint32_t> 1) / <double> chunks


cdef int evict(tg_shard_view *v, uint64_t now, double newcomer, tg_cache_stripe *counters) noexcept nogil:
    """SIEVE (Zhang et al., NSDI 2024): the hand goes from the oldest to the newest, spares an entry once for a visit,
    and stops at the first that has none. That one goes, unless it is worth more than the newcomer: then 1 is returned,
    and the hand has passed it. 0 = an entry has gone; -1 = damage.

    A stale entry goes before any other. The hand alone would not do: while nothing is visited it moves as fast as
    newcomers come, and what it once spared stays behind it for ever. Hence the broom.
    """
    cdef tg_shard *state = v.state
    cdef uint32_t id = sweep(v, now)
    if id:
        tg_add(&counters.expired, 1)
        return discard(v, id)
    id = state.hand if state.hand else state.oldest
    cdef uint32_t looks = HAND_LOOKS
    cdef tg_node *node
    while True:
        if not valid(v, id):
            return -1
        node = &v.nodes[id]
        if now >= tg_load64_relaxed(&node.expires_ns):
            tg_add(&counters.expired, 1)
            break
        if not tg_load32_relaxed(&node.visited) or looks == 0:
            if node.chunks == 0:
                return -1
            if newcomer < worth(v, node.tag, (<const tg_entry *> tg_chunk(v, id)).cost_us, node.chunks):
                state.hand = node.newer
                return 1
            tg_add(&counters.evictions, 1)
            break
        tg_store32_relaxed(&node.visited, 0)
        count(v, node.tag)
        looks -= 1
        id = node.newer if node.newer else state.oldest
    state.hand = id
    return discard(v, id)


cdef uint32_t take_chunks(tg_shard_view *v, uint32_t need) noexcept nogil:
    """A chain of `need` chunks, which are there; 0 when the free list is damaged."""
    cdef tg_shard *state = v.state
    cdef uint32_t first = 0
    cdef uint32_t previous = 0
    cdef uint32_t id
    cdef uint32_t _
    for _ in range(need):
        if state.free_count:
            id = state.free
            if not valid(v, id) or v.nodes[id].sequence & 1:
                return 0
            state.free = v.nodes[id].link
            state.free_count -= 1
        else:
            state.fresh += 1
            id = state.fresh
            if not valid(v, id) or v.nodes[id].sequence & 1:
                return 0
        if previous:
            tg_store32_relaxed(&v.nodes[previous].link, id)
        else:
            first = id
        previous = id
    tg_store32_relaxed(&v.nodes[previous].link, 0)
    return first


cdef int copy_in(tg_shard_view *v, uint32_t id, const tg_entry *entry, const char *data) noexcept nogil:
    cdef size_t left = entry.size
    cdef size_t head = tg_head_size(entry.count)
    cdef size_t piece = min(left, TG_CHUNK - head)
    cdef char *chunk = tg_chunk(v, id)
    memcpy(chunk, entry, head)
    if piece:
        memcpy(chunk + head, data, piece)
    while left > piece:
        data += piece
        left -= piece
        id = v.nodes[id].link
        if not valid(v, id):
            return -1  # the free list had a loop
        piece = min(left, <size_t> TG_CHUNK)
        memcpy(tg_chunk(v, id), data, piece)
    return 0


cdef int shard_insert(
    tg_shard_view *v, const tg_entry *entry, const char *data, uint64_t now, uint64_t expires, bint awaited,
    tg_cache_stripe *counters
) noexcept nogil:
    cdef tg_shard *state = v.state
    cdef uint32_t need = <uint32_t> tg_chunks_for(tg_head_size(entry.count), entry.size)
    cdef uint32_t tag = tg_key_tag(entry.key)
    cdef uint32_t id
    cdef tg_node *node
    cdef int found = shard_remove(v, entry.key)
    if found < 0:
        return -1
    # What takes the place of an older answer, or is waited for by others, need not show its worth.
    count(v, tag)
    cdef double newcomer = HUGE_VAL if found or awaited else worth(v, tag, entry.cost_us, need)
    if state.fresh > v.count or state.free_count > state.fresh:
        return -1
    while state.free_count + (v.count - state.fresh) < need:
        found = evict(v, now, newcomer, counters)
        if found:
            return found
    id = take_chunks(v, need)
    if id == 0 or copy_in(v, id, entry, data):
        return -1

    node = &v.nodes[id]
    tg_store32_relaxed(&node.tag, tag)
    tg_store32_relaxed(&node.chunks, need)
    tg_store32_relaxed(&node.visited, 0)
    tg_store64_relaxed(&node.expires_ns, expires)
    node.newer = 0
    node.older = state.newest
    if state.newest:
        if not valid(v, state.newest):
            return -1
        v.nodes[state.newest].newer = id
    else:
        state.oldest = id
    state.newest = id
    tg_store32_relaxed(&state.entries, state.entries + 1)
    tg_store32_relaxed(&state.used, state.used + need)
    tg_store32_relaxed(&node.chain, v.buckets[tag & v.mask])
    tg_store32(&node.sequence, node.sequence + 1)
    tg_store32(&v.buckets[tag & v.mask], id)
    return 0


cdef int shard_remove(tg_shard_view *v, const unsigned char *key) noexcept nogil:
    cdef uint32_t tag = tg_key_tag(key)
    cdef uint32_t id = v.buckets[tag & v.mask]
    cdef uint32_t _
    for _ in range(v.count):
        if id == 0:
            return 0
        if not valid(v, id):
            return -1
        if v.nodes[id].tag == tag and memcmp((<tg_entry *> tg_chunk(v, id)).key, key, 32) == 0:
            return -1 if discard(v, id) else 1
        id = v.nodes[id].chain
    return -1
