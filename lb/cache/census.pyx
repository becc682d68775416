"""What is in a shard of the result cache, looked at beside its readers and writers (docs/adr/result-cache.md).

The walk goes over the nodes, not over a list: no link is followed, so that no change can lead it astray. An entry is
believed as a reader believes one: its head is copied, and the sequence has not moved meanwhile.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy, memmove

from lb.cache.layout cimport (
    TG_CHUNK,
    TG_TAGS,
    tg_chunk,
    tg_chunks_for,
    tg_entry,
    tg_head_size,
    tg_node,
    tg_shard_view,
    tg_sketch_count,
    tg_tags_hold,
)
from lb.shared.atomics cimport tg_fence_acquire, tg_load32, tg_load32_relaxed, tg_load64_relaxed

cdef enum:
    MOST_REQUESTS = 15


cdef inline bint less(const tg_counted *a, const tg_counted *b) noexcept nogil:
    """By requests, and of as many by what making the answer costs."""
    if a.requests != b.requests:
        return a.requests < b.requests
    return a.entry.cost_us < b.entry.cost_us


cdef bint read_counted(const tg_shard_view *v, uint32_t id, uint64_t now, tg_counted *found) noexcept nogil:
    cdef tg_node *node = &v.nodes[id]
    cdef uint32_t sequence = tg_load32(&node.sequence)
    cdef uint32_t tag, chunks
    cdef size_t head
    if not sequence & 1 or now >= tg_load64_relaxed(&node.expires_ns):
        return False
    tag = tg_load32_relaxed(&node.tag)
    chunks = tg_load32_relaxed(&node.chunks)
    found.requests = tg_sketch_count(v.sketch, v.mask, tag)
    if tg_load32_relaxed(&node.visited) and found.requests < MOST_REQUESTS:
        found.requests += 1
    memcpy(&found.entry, tg_chunk(v, id), sizeof(tg_entry))
    if found.entry.count > TG_TAGS or chunks > v.count:
        return False
    head = tg_head_size(found.entry.count)
    if tg_chunks_for(head, found.entry.size) != chunks:
        return False
    found.memory = chunks * TG_CHUNK
    found.copied = <uint32_t> min(min(found.entry.size, <uint64_t> (TG_CHUNK - head)), <uint64_t> CENSUS_BYTES)
    memcpy(found.start, tg_chunk(v, id) + head, found.copied)
    tg_fence_acquire()
    return (tg_load32_relaxed(&node.sequence) == sequence
            and tg_tags_hold(v.generations, v.generation_mask, found.entry.tags, found.entry.count))


cdef uint32_t shard_census(
    const tg_shard_view *v, uint64_t now, tg_counted *best, uint32_t most, uint32_t count
) noexcept nogil:
    cdef tg_counted found
    cdef uint32_t id, place
    # Chunks above this one have never been in use. Damage in it costs time, no more.
    cdef uint32_t last = min(tg_load32_relaxed(&v.state.fresh), v.count)
    for id in range(1, last + 1):
        if not read_counted(v, id, now, &found):
            continue
        if count == most:
            if not less(&best[count - 1], &found):
                continue
            count -= 1
        place = count
        while place and less(&best[place - 1], &found):
            place -= 1
        memmove(&best[place + 1], &best[place], (count - place) * sizeof(tg_counted))
        best[place] = found
        count += 1
    return count
