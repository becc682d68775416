"""Reading a shard of the result cache, without its lock (docs/adr/result-cache.md).

Readers run against writers by the rules of a sequence lock: an entry's sequence is odd while it is whole; a writer
makes it even before it touches anything the entry owns; a reader copies first and believes the copy only if the
sequence has not moved and the checksum holds. Whatever a reader follows meanwhile may be rubbish: every number is
checked against the shard's bounds and every walk is limited.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from lb.cache.layout cimport (
    TG_CHUNK,
    tg_checksum,
    tg_chunk,
    tg_chunks_for,
    tg_entry,
    tg_found,
    tg_head_size,
    tg_key_tag,
    tg_node,
    tg_shard_view,
    tg_tags_hold,
    TG_FRESH,
    TG_LAST_RESORT,
    TG_STALE,
    TG_TAGS,
)
from lb.shared.atomics cimport (
    tg_fence_acquire,
    tg_load32,
    tg_load32_relaxed,
    tg_load64_relaxed,
    tg_store32_relaxed,
    tg_store64_relaxed,
)
from lb.net.buffer cimport tg_buffer, tg_buffer_reserve, tg_buffer_tail

cdef enum:
    # Buckets are as many as chunks, keys are digests: a chain of 64 does not happen, and costs misses if it does.
    READ_WALK = 64


cdef tg_node *find(
    const tg_shard_view *v, const unsigned char *key, tg_entry *entry, uint32_t *id, uint32_t *sequence
) noexcept nogil:
    """A key's whole entry, with a copy of its head and the sequence at which that was true; NULL when there is none."""
    cdef uint32_t tag = tg_key_tag(key)
    cdef uint32_t at = tg_load32(&v.buckets[tag & v.mask])
    cdef tg_node *node
    cdef int _
    for _ in range(READ_WALK):
        if at == 0 or at > v.count:
            return NULL
        node = &v.nodes[at]
        if tg_load32_relaxed(&node.tag) == tag:
            sequence[0] = tg_load32(&node.sequence)
            if sequence[0] & 1:
                # With room for all tags: behind those that it has are bytes of the object, which are not looked at.
                memcpy(entry, tg_chunk(v, at), sizeof(tg_entry))
                tg_fence_acquire()
                if tg_load32_relaxed(&node.sequence) == sequence[0] and memcmp(entry.key, key, 32) == 0:
                    id[0] = at
                    return node
        at = tg_load32(&node.chain)
    return NULL


cdef inline uint64_t left(uint64_t since, uint64_t until) noexcept nogil:
    return until - since if until > since else 0


cdef inline bint holds(const tg_shard_view *v, const tg_entry *entry) noexcept nogil:
    return tg_tags_hold(v.generations, v.generation_mask, entry.tags, entry.count)


cdef bint copy_out(const tg_shard_view *v, uint32_t id, size_t head, char *target, size_t size) noexcept nogil:
    """Copy an object's bytes, neighbouring chunks in one go; False when its chain leads nowhere."""
    cdef uint32_t first
    cdef size_t piece = min(size, TG_CHUNK - head)
    if piece == 0:
        return True  # an empty object; there may be no target either
    memcpy(target, tg_chunk(v, id) + head, piece)
    target += piece
    size -= piece
    id = tg_load32_relaxed(&v.nodes[id].link)
    while size:
        if id == 0 or id > v.count:
            return False
        first = id
        piece = TG_CHUNK
        id = tg_load32_relaxed(&v.nodes[id].link)
        while piece < size and id == first + piece // TG_CHUNK and id <= v.count:
            piece += TG_CHUNK
            id = tg_load32_relaxed(&v.nodes[id].link)
        piece = min(piece, size)
        memcpy(target, tg_chunk(v, first), piece)
        target += piece
        size -= piece
    return True


cdef Py_ssize_t shard_read(
    const tg_shard_view *v, const unsigned char *key, uint64_t now, bint last_resort, tg_buffer *into, tg_found *found
) noexcept nogil:
    cdef tg_entry entry
    cdef uint32_t id = 0
    cdef uint32_t sequence = 0
    cdef tg_node *node = find(v, key, &entry, &id, &sequence)
    if node is NULL:
        return READ_MISS
    cdef uint64_t expires = tg_load64_relaxed(&node.expires_ns)
    cdef uint32_t chunks = tg_load32_relaxed(&node.chunks)
    if now >= expires or (now >= entry.stale_until and not last_resort):
        return READ_MISS
    # All before the size is used as one: a length that does not fit its chunks is damage, or an entry gone meanwhile.
    cdef bint whole = chunks <= v.count and entry.size <= <uint64_t> chunks * TG_CHUNK and entry.count <= TG_TAGS
    cdef size_t head = tg_head_size(entry.count) if whole else 0
    whole = whole and tg_chunks_for(head, entry.size) == chunks
    if whole and not holds(v, &entry):
        # Nobody needs to find this out again; a stranger who has the node by now is lost early: a miss.
        tg_store64_relaxed(&node.expires_ns, 0)
        return READ_MISS
    if whole:
        if tg_buffer_reserve(into, entry.size):
            return READ_MISS
        whole = copy_out(v, id, head, tg_buffer_tail(into), entry.size)
    tg_fence_acquire()
    if tg_load32_relaxed(&node.sequence) != sequence:
        return READ_MISS
    if not whole or tg_checksum(&entry, tg_buffer_tail(into), entry.size) != entry.checksum:
        # Nobody needs to find this out again; the hand will take it away.
        tg_store64_relaxed(&node.expires_ns, 0)
        return READ_CORRUPT
    # A look before the store keeps the line shared among the readers of a popular object. If the node has changed hands
    # since, a stranger gets a second chance it did not earn.
    if not tg_load32_relaxed(&node.visited):
        tg_store32_relaxed(&node.visited, 1)
    into.end += entry.size
    found.age_ns = left(entry.stored_ns, now)
    found.tags = entry.count
    found.fresh_ns = left(now, entry.fresh_until)
    found.stale_ns = left(now, entry.stale_until)
    found.error_ns = left(now, entry.error_until)
    found.late_ns = left(entry.fresh_until, now)
    found.cost_us = entry.cost_us
    found.flags = entry.flags
    found.state = TG_FRESH if found.fresh_ns else TG_STALE if found.stale_ns else TG_LAST_RESORT
    return <Py_ssize_t> entry.size


cdef bint shard_has(const tg_shard_view *v, const unsigned char *key, uint64_t now) noexcept nogil:
    cdef tg_entry entry
    cdef uint32_t id = 0
    cdef uint32_t sequence = 0
    cdef tg_node *node = find(v, key, &entry, &id, &sequence)
    return (node is not NULL and now < tg_load64_relaxed(&node.expires_ns) and now < entry.fresh_until
            and holds(v, &entry))


cdef void shard_expire(const tg_shard_view *v, const unsigned char *key) noexcept nogil:
    cdef tg_entry entry
    cdef uint32_t id = 0
    cdef uint32_t sequence = 0
    cdef tg_node *node = find(v, key, &entry, &id, &sequence)
    if node is not NULL:
        # If the node has changed hands since, a stranger is lost early: a miss.
        tg_store64_relaxed(&node.expires_ns, 0)
