"""Layout of the result cache's region of the shared segment (cache.h)."""

from libc.stdint cimport uint16_t, uint32_t, uint64_t


cdef extern from "cache.h" nogil:
    enum:
        TG_CHUNK
        TG_CACHE_PAGE
        TG_TAGS
        TG_DISK_COUNTS
        TG_NEGATIVE
        TG_AWAITED
        TG_EARLY
        TG_PURGING_AT
        TG_PURGING_WORDS
        TG_CLAIMS_AT
        TG_CLAIMS
        TG_FRESH
        TG_STALE
        TG_LAST_RESORT
        TG_FLIGHT_WAYS
    const uint64_t TG_CACHE_MAGIC
    ctypedef struct tg_cache_stripe:
        uint64_t hits
        uint64_t misses
        uint64_t stored
        uint64_t rejected_busy
        uint64_t rejected_size
        uint64_t evictions
        uint64_t expired
        uint64_t broken_locks
        uint64_t corrupt
        uint64_t purges
        uint64_t rejected_purged
        uint64_t stale
        uint64_t saved_us
        uint64_t rejected_value
        uint64_t disk[8]
    ctypedef struct tg_node:
        uint32_t sequence
        uint32_t visited
        uint32_t link
        uint32_t chain
        uint32_t newer
        uint32_t older
        uint32_t chunks
        uint32_t tag
        uint64_t expires_ns
    ctypedef struct tg_tag:
        uint32_t slot
        uint32_t generation
    ctypedef struct tg_fill:
        uint64_t fresh_ns
        uint64_t stale_ns
        uint64_t error_ns
        uint32_t cost_us
        uint16_t flags
        uint16_t count
        tg_tag tags[10]
    ctypedef struct tg_found:
        uint64_t age_ns
        uint64_t fresh_ns
        uint64_t stale_ns
        uint64_t error_ns
        uint64_t late_ns
        uint32_t cost_us
        uint16_t flags
        uint16_t state
        uint32_t tags
    ctypedef struct tg_entry:
        unsigned char key[32]
        uint64_t stored_ns
        uint64_t checksum
        uint64_t size
        uint64_t fresh_until
        uint64_t stale_until
        uint64_t error_until
        uint32_t cost_us
        uint16_t flags
        uint16_t count
        tg_tag tags[10]
    ctypedef struct tg_shard:
        uint64_t lock
        uint32_t fresh
        uint32_t free
        uint32_t free_count
        uint32_t entries
        uint32_t used
        uint32_t newest
        uint32_t oldest
        uint32_t hand
        uint32_t broom
        uint32_t counted
    ctypedef struct tg_shard_view:
        tg_shard *state
        uint32_t *buckets
        uint64_t *sketch
        tg_node *nodes
        char *chunks
        uint32_t mask
        uint32_t count
        const uint32_t *generations
        uint32_t generation_mask
        uint64_t holder
        uint64_t holder_known_until
    ctypedef struct tg_flight:
        uint64_t claim
        uint64_t unshared
        uint64_t waiting[2]
    ctypedef struct tg_flight_set:
        tg_flight ways[4]
    ctypedef struct tg_flight_worker:
        uint64_t lease_until
        uint64_t incarnation
        uint64_t followed
        uint64_t promoted
        uint64_t unshared
        uint64_t full
    char *tg_chunk(const tg_shard_view *v, uint32_t id) noexcept
    uint32_t tg_sketch_count(const uint64_t *sketch, uint32_t mask, uint32_t tag) noexcept
    void tg_sketch_add(uint64_t *sketch, uint32_t mask, uint32_t tag) noexcept
    void tg_sketch_halve(uint64_t *sketch, uint32_t mask) noexcept
    uint64_t tg_head_size(uint64_t count) noexcept
    uint64_t tg_chunks_for(uint64_t head, uint64_t size) noexcept
    uint32_t tg_generations_for(uint64_t region) noexcept
    bint tg_tags_hold(const uint32_t *generations, uint32_t mask, const tg_tag *tags, uint64_t count) noexcept
    uint32_t tg_purging_word(uint32_t slot) noexcept
    uint64_t tg_purging_bit(uint32_t slot) noexcept
    uint32_t tg_key_tag(const unsigned char *key) noexcept
    uint32_t tg_key_shard(const unsigned char *key) noexcept
    uint32_t tg_shard_place(tg_shard_view *v, char *base, uint64_t size) noexcept
    uint64_t tg_checksum(const tg_entry *e, const char *data, size_t n) noexcept
    uint32_t tg_flight_sets_for(uint64_t region) noexcept
    uint64_t tg_claim_of(uint32_t check, uint64_t count, uint64_t incarnation, uint32_t worker) noexcept
    uint32_t tg_claim_check(uint64_t claim) noexcept
    uint32_t tg_claim_incarnation(uint64_t claim) noexcept
    uint32_t tg_claim_worker(uint64_t claim) noexcept
    uint32_t tg_key_flight(const unsigned char *key) noexcept
    uint32_t tg_flight_check(const unsigned char *flight, size_t n) noexcept
