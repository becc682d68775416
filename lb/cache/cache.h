/* Layout of the result cache's region of the shared segment (docs/adr/result-cache.md).
 *
 *   first page    geometry, decided once by whoever comes first; the second quarter has a bit for each purge that a cache tier
 *                 does not know yet, the upper half the claims on refreshes
 *   stripes       counters, one stripe per worker and one for the master, each with a single writer
 *   generations   a counter of purges for each slot of tags; a power of two of them
 *   changes       a counter for each slot of keys: what is being made under a key is worthless once it has moved; as many as those
 *   flights       a line for each worker, then the flights of all workers, in sets (shared_flights.pyx)
 *   shards        state, hash buckets, sketch, nodes and chunks; a power of two of them, all alike
 *
 * A region of zero bytes is a valid empty cache. Chunk numbers start at 1; 0 means none.
 */
#ifndef TIDEGATE_CACHE_H
#define TIDEGATE_CACHE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "atomics.h"

#define TG_CACHE_MAGIC 0x54474337ull /* "TGC7": the upper half of the geometry word; the lower is the number of shards */
#define TG_CHUNK 512u
#define TG_CACHE_PAGE 4096u
#define TG_TAGS 10u /* of an entry, at most: 8 that an answer of HTTP names, its URL, its pool */
#define TG_PURGING_AT 1024u /* within the first page */
#define TG_PURGING 8192u    /* bits; slots of tags share them */
#define TG_PURGING_WORDS (TG_PURGING / 64u)
#define TG_CLAIMS_AT 2048u /* within the first page */
#define TG_CLAIMS 256u     /* words of 8 bytes */

/* Counters only grow. */
typedef struct {
    uint64_t hits;
    uint64_t misses;
    uint64_t stored;
    uint64_t rejected_busy; /* another process held the shard */
    uint64_t rejected_size; /* larger than an object may be */
    uint64_t evictions;     /* fresh entries pushed out */
    uint64_t expired;       /* stale entries that the hand met */
    uint64_t broken_locks;  /* locks taken from the dead */
    uint64_t corrupt;       /* entries or shards found damaged */
    uint64_t purges;        /* of a tag each */
    uint64_t rejected_purged; /* a tag of the answer was purged while the answer was made */
    uint64_t stale;         /* reads that found an answer past its freshness */
    uint64_t saved_us;      /* what the answers found had cost */
    uint64_t rejected_value; /* worth less than what would have had to go */
    uint64_t reserved[2];
    uint64_t disk[8];       /* of the tier on disk, as lb.cache.store.DISK has them; this process's own, of whatever thread */
} tg_cache_stripe;

#define TG_DISK_COUNTS 8u

/* One per chunk, apart from the chunks, so that a word that readers check or set is never an object's bytes. */
typedef struct {
    uint32_t sequence; /* odd: the first chunk of a complete object; counts up at every change */
    uint32_t visited;  /* SIEVE's bit, set by readers without the lock */
    uint32_t link;     /* next chunk of the object, or of the free list */
    uint32_t chain;    /* next entry of the bucket */
    uint32_t newer;    /* neighbours in the eviction queue */
    uint32_t older;
    uint32_t chunks;
    uint32_t tag; /* 32 bits of the key; its low bits choose the bucket */
    uint64_t expires_ns; /* nobody has a use for it from then on */
} tg_node;

/* A tag of an entry: where its generation is counted, and the generation from before the answer was made. */
typedef struct {
    uint32_t slot;
    uint32_t generation;
} tg_tag;

/* Flags of an entry. */
#define TG_NEGATIVE 1u /* the answer is an error */
#define TG_EARLY 2u    /* to be made anew before it is stale, where it is asked for often */
#define TG_AWAITED 0x8000u /* a flag of a fill alone: other workers wait for the answer, which is kept whatever it is worth */

/* What goes with an answer into the cache. Zeroes: no tags, and no time to live. */
typedef struct {
    uint64_t fresh_ns; /* time to live */
    uint64_t stale_ns; /* after it: stale-while-revalidate (RFC 5861, 3) */
    uint64_t error_ns; /* after it: stale-if-error (RFC 5861, 4); may be shorter or longer than the other */
    uint32_t cost_us;  /* time that making the answer took */
    uint16_t flags;
    uint16_t count; /* of tags; more than TG_TAGS: the answer cannot be kept */
    tg_tag tags[TG_TAGS];
} tg_fill;

enum {
    TG_FRESH = 1,
    TG_STALE = 2,      /* good to answer with, while it is made anew */
    TG_LAST_RESORT = 3 /* good only in the place of an error */
};

/* What a read found beside the bytes. Times that are left are 0 when they are over. */
typedef struct {
    uint64_t age_ns;
    uint64_t fresh_ns;
    uint64_t stale_ns;
    uint64_t error_ns;
    uint64_t late_ns; /* since it was fresh */
    uint32_t cost_us;
    uint16_t flags;
    uint16_t state; /* TG_FRESH, TG_STALE or TG_LAST_RESORT */
    uint32_t tags;  /* how many it carries */
} tg_found;

/* Precedes the bytes in an object's first chunk, with as many tags as the entry has. */
typedef struct {
    unsigned char key[32];
    uint64_t stored_ns;
    uint64_t checksum; /* over the other fields and the bytes */
    uint64_t size;
    uint64_t fresh_until;
    uint64_t stale_until; /* as late as the one before, or later; so is the next */
    uint64_t error_until;
    uint32_t cost_us;
    uint16_t flags;
    uint16_t count; /* of tags */
    tg_tag tags[TG_TAGS];
} tg_entry;

typedef struct {
    _Alignas(64) uint64_t lock; /* 0, or the owner's token; everything below belongs to the owner */
    _Alignas(64) uint32_t fresh; /* chunks up to this number have been handed out at least once */
    uint32_t free;               /* list of chunks given back */
    uint32_t free_count;
    uint32_t entries;
    uint32_t used; /* chunks in objects */
    uint32_t newest, oldest; /* ends of the eviction queue */
    uint32_t hand;           /* SIEVE's place in it, 0 = at the oldest */
    uint32_t broom;          /* where stale entries are looked for, likewise */
    uint32_t counted;        /* by the sketch since it was halved */
} tg_shard;

/* A process's own idea of where a shard is. */
typedef struct {
    tg_shard *state;
    uint32_t *buckets;
    uint64_t *sketch; /* TG_ROWS rows of as many 4-bit counters as there are buckets */
    tg_node *nodes; /* 1..count */
    char *chunks;
    uint32_t mask;  /* of buckets */
    uint32_t count; /* of chunks */
    const uint32_t *generations; /* the table of the whole cache */
    uint32_t generation_mask;
    uint64_t holder; /* owner of the lock found alive, not asked about again before this time */
    uint64_t holder_known_until;
} tg_shard_view;

/* A flight of all workers. One word says that there is a flight, of which request, and who leads it, so that one instruction
 * begins, ends or takes over a flight, and a process that is killed leaves one of these three. */
typedef struct {
    uint64_t claim;      /* tg_claim_of, 0 = free */
    uint64_t unshared;   /* the last claim here that ended without an answer to share */
    uint64_t waiting[2]; /* a bit for each worker that follows */
} tg_flight;

#define TG_FLIGHT_WAYS 4u
typedef struct {
    _Alignas(64) tg_flight ways[TG_FLIGHT_WAYS];
} tg_flight_set;

/* A worker's part in the flights. Only its process writes here, and the master when that is dead. */
typedef struct {
    _Alignas(64) uint64_t lease_until; /* CLOCK_MONOTONIC ns: what it claims is another's to take from then on */
    uint64_t incarnation;              /* of the worker's process; that of a claim differs when its process is gone */
    uint64_t followed;                 /* flights of other workers that it waited for */
    uint64_t promoted;                 /* flights that it took over from the dead or hung */
    uint64_t unshared;                 /* flights that it led, and that ended without an answer to share */
    uint64_t full;                     /* flights of its own alone, since the set had no room */
    uint64_t reserved[2];
} tg_flight_worker;

_Static_assert(sizeof(tg_flight_set) == 128, "a set of flights is two cache lines");
_Static_assert(sizeof(tg_flight_worker) == 64, "a worker's line of the flights is one cache line");

_Static_assert(sizeof(tg_cache_stripe) == 192, "a stripe is three cache lines");
_Static_assert(sizeof(tg_node) == 40, "a node has 40 bytes");
_Static_assert(sizeof(tg_entry) == 168, "a head has 88 bytes and 8 for each tag");
_Static_assert(sizeof(tg_shard) == 128, "a shard's state is two cache lines");

#define TG_ROWS 4u
#define TG_COUNTERS 16u /* in a word of the sketch */
#define TG_COUNT_MOST 15u

/* The sketch of frequencies (TinyLFU: Einziger, Friedman, Manes, ACM ToS 2017): for each row the counter of an entry, by its
 * tag and double hashing (Kirsch, Mitzenmacher 2006). Whatever bytes are in it are a valid sketch. */
static inline uint32_t tg_sketch_place(uint32_t tag, uint32_t row, uint32_t mask) {
    uint64_t first = tag * 0x9e3779b97f4a7c15ull, step = (tag ^ 0x5bd1e995u) * 0xc2b2ae3d27d4eb4full | 1u;
    return (uint32_t)((first + row * step) >> 32) & mask;
}

static inline uint32_t tg_sketch_count(const uint64_t *sketch, uint32_t mask, uint32_t tag) {
    uint32_t least = TG_COUNT_MOST, width = (mask + 1) / TG_COUNTERS;
    for (uint32_t row = 0; row < TG_ROWS; row++) {
        uint32_t at = tg_sketch_place(tag, row, mask);
        uint32_t count = sketch[row * (size_t)width + at / TG_COUNTERS] >> (at % TG_COUNTERS * 4) & TG_COUNT_MOST;
        least = count < least ? count : least;
    }
    return least;
}

static inline void tg_sketch_add(uint64_t *sketch, uint32_t mask, uint32_t tag) {
    uint32_t width = (mask + 1) / TG_COUNTERS;
    for (uint32_t row = 0; row < TG_ROWS; row++) {
        uint32_t at = tg_sketch_place(tag, row, mask), shift = at % TG_COUNTERS * 4;
        uint64_t *word = &sketch[row * (size_t)width + at / TG_COUNTERS];
        if ((*word >> shift & TG_COUNT_MOST) < TG_COUNT_MOST)
            *word += 1ull << shift;
    }
}

static inline void tg_sketch_halve(uint64_t *sketch, uint32_t mask) {
    size_t words = TG_ROWS * (size_t)((mask + 1) / TG_COUNTERS);
    for (size_t i = 0; i < words; i++)
        sketch[i] = sketch[i] >> 1 & 0x7777777777777777ull;
}

static inline char *tg_chunk(const tg_shard_view *v, uint32_t id) { return v->chunks + (size_t)(id - 1u) * TG_CHUNK; }

/* Bytes in front of the object's own; `count` of tags is at most TG_TAGS. */
static inline uint64_t tg_head_size(uint64_t count) { return offsetof(tg_entry, tags) + count * sizeof(tg_tag); }

static inline uint64_t tg_chunks_for(uint64_t head, uint64_t size) { return (head + size + TG_CHUNK - 1u) / TG_CHUNK; }

/* A table's size follows from the region's size alone, so that all processes find the same. One counter for each KiB of the
 * region, within 4 and 256 KiB: fewer tags than that are in use at once, and the table stays in the processor's cache. */
static inline uint32_t tg_generations_for(uint64_t region) {
    uint32_t count = 1024;
    while (count < 65536u && count < region / 1024)
        count *= 2;
    return count;
}

/* Sets of flights: one for each 16 KiB of the region, within 16 and 4,096. Less than one per cent of the memory, and room for
 * as many flights as workers have at once. */
static inline uint32_t tg_flight_sets_for(uint64_t region) {
    uint32_t count = 16;
    while (count < 4096u && count < region / 16384)
        count *= 2;
    return count;
}

/* A claim: 32 bits of the flight's name, 12 of a count of the worker's claims, 12 of the worker's incarnation, and 8 of the worker's number
 * from 1 on. Two flights with the same bits wait for each other in vain, which costs time, and are answered by their whole keys. */
static inline uint64_t tg_claim_of(uint32_t check, uint64_t count, uint64_t incarnation, uint32_t worker) {
    return (uint64_t)check << 32 | (count & 0xfffu) << 20 | (incarnation & 0xfffu) << 8 | (worker + 1u);
}
static inline uint32_t tg_claim_check(uint64_t claim) { return (uint32_t)(claim >> 32); }
static inline uint32_t tg_claim_incarnation(uint64_t claim) { return (uint32_t)(claim >> 8) & 0xfffu; }
static inline uint32_t tg_claim_worker(uint64_t claim) { return ((uint32_t)claim & 0xffu) - 1u; }

/* Whether no tag was purged since the generations were read. Acquires: what a purge announces is seen by whoever sees the
 * purge. A count above TG_TAGS is damage, or a fill with too many tags. */
static inline int tg_tags_hold(const uint32_t *generations, uint32_t mask, const tg_tag *tags, uint64_t count) {
    if (count > TG_TAGS)
        return 0;
    for (uint64_t i = 0; i < count; i++)
        if (tg_load32(&generations[tags[i].slot & mask]) != tags[i].generation)
            return 0;
    return 1;
}

/* The word, and the bit in it, that says of a slot whether a purge of its tags has yet to come to the tier. */
static inline uint32_t tg_purging_word(uint32_t slot) { return slot % TG_PURGING / 64u; }
static inline uint64_t tg_purging_bit(uint32_t slot) { return 1ull << (slot % 64u); }

/* Which of the buckets and shards: the key is a keyed digest, so that any of its bits will do. */
static inline uint32_t tg_key_tag(const unsigned char *key) {
    uint32_t tag;
    memcpy(&tag, key, sizeof tag);
    return tag;
}
static inline uint32_t tg_key_shard(const unsigned char *key) {
    uint32_t shard;
    memcpy(&shard, key + 4, sizeof shard);
    return shard;
}

/* The same for flights, by other bits. */
static inline uint32_t tg_key_flight(const unsigned char *key) {
    uint32_t set;
    memcpy(&set, key + 8, sizeof set);
    return set;
}
/* Place `count` chunks with their nodes and buckets into `size` bytes at `base`: the largest count that fits, 0 if none. */
static inline uint32_t tg_shard_place(tg_shard_view *v, char *base, uint64_t size) {
    uint64_t per_chunk = TG_CHUNK + sizeof(tg_node) + sizeof(uint32_t), fixed = sizeof(tg_shard) + sizeof(tg_node);
    uint64_t count = size > fixed ? (size - fixed) / per_chunk : 0;
    while (count) {
        uint64_t buckets = TG_COUNTERS; /* at least a word of the sketch for each row */
        while (buckets < count)
            buckets *= 2;
        uint64_t sketch_at = sizeof(tg_shard) + (buckets * sizeof(uint32_t) + 63) / 64 * 64;
        uint64_t nodes_at = sketch_at + (TG_ROWS * buckets / TG_COUNTERS * sizeof(uint64_t) + 63) / 64 * 64;
        uint64_t chunks_at = (nodes_at + (count + 1) * sizeof(tg_node) + 63) / 64 * 64;
        uint64_t end = chunks_at + count * TG_CHUNK;
        if (end <= size && count < UINT32_MAX) {
            v->state = (tg_shard *)base;
            v->buckets = (uint32_t *)(base + sizeof(tg_shard));
            v->sketch = (uint64_t *)(base + sketch_at);
            v->nodes = (tg_node *)(base + nodes_at);
            v->chunks = base + chunks_at;
            v->mask = (uint32_t)(buckets - 1);
            v->count = (uint32_t)count;
            v->holder = v->holder_known_until = 0;
            return v->count;
        }
        /* Buckets and sketch grow by powers of two: the step is what the end is over without overshooting. */
        uint64_t over = end > size ? (end - size) / (per_chunk + 8) : 0;
        count -= over ? over : 1;
    }
    return 0;
}

/* Detects bytes of two objects mixed, or damaged memory. Not a hash against an adversary: the sequence number is what keeps
 * readers and writers apart. Four independent lanes, because one would wait for its own multiplication. Every step is a
 * bijection of the lane for a given word and of the word for a given lane, so that no single changed word goes unseen. */
static inline uint64_t tg_mix(uint64_t lane, uint64_t word) {
    lane ^= word;
    return ((lane << 29) | (lane >> 35)) * 0x9e3779b97f4a7c15ull; /* 2^64 / golden ratio, odd */
}

/* The bits that a claim has of a flight's name: a key, and words of 8 bytes behind it up to `n`. */
static inline uint32_t tg_flight_check(const unsigned char *flight, size_t n) {
    uint32_t check;
    uint64_t word, lane;
    memcpy(&check, flight + 12, sizeof check);
    lane = check;
    for (size_t at = 32; at + sizeof word <= n; at += sizeof word) {
        memcpy(&word, flight + at, sizeof word);
        lane = tg_mix(lane, word);
    }
    return (uint32_t)(lane ^ lane >> 32);
}

/* The entry's count of tags is at most TG_TAGS. */
static inline uint64_t tg_checksum(const tg_entry *e, const char *data, size_t n) {
    uint64_t lanes[4], words[4];
    memcpy(lanes, e->key, sizeof lanes);
    lanes[0] = tg_mix(lanes[0], e->stored_ns);
    lanes[1] = tg_mix(lanes[1], e->size);
    lanes[2] = tg_mix(lanes[2], e->fresh_until);
    lanes[3] = tg_mix(lanes[3], e->stale_until);
    lanes[0] = tg_mix(lanes[0], e->error_until);
    lanes[1] = tg_mix(lanes[1], ((uint64_t)e->cost_us << 32) | ((uint64_t)e->flags << 16) | e->count);
    for (uint64_t i = 0; i < e->count; i++)
        lanes[i & 3] = tg_mix(lanes[i & 3], ((uint64_t)e->tags[i].slot << 32) | e->tags[i].generation);
    while (n >= sizeof words) {
        memcpy(words, data, sizeof words);
        for (int i = 0; i < 4; i++)
            lanes[i] = tg_mix(lanes[i], words[i]);
        data += sizeof words;
        n -= sizeof words;
    }
    if (n) {
        memset(words, 0, sizeof words);
        memcpy(words, data, n);
        for (int i = 0; i < 4; i++)
            lanes[i] = tg_mix(lanes[i], words[i]);
    }
    uint64_t sum = 0;
    for (int i = 0; i < 4; i++)
        sum = tg_mix(sum, lanes[i] ^ (lanes[i] >> 32));
    return sum ^ (sum >> 29);
}

#endif
