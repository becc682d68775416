/* Sessions by flow, and how many each client has: hash tables whose chains run through the entries.
 *
 * Clients choose their addresses and ports, and forged ones are free: the hash has to be keyed with a secret, or somebody
 * puts everything into one chain. The caller computes it (lb/core/hashing). A table never grows on its own; it is given
 * its size when the limits are known.
 */
#ifndef TIDEGATE_FLOWS_H
#define TIDEGATE_FLOWS_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "datagram.h"

#define TG_FLOWS_LEAST 64u

/* Part of a session, which owns it. */
typedef struct tg_flow {
    struct tg_flow *next;
    uint64_t hash;
    void *owner;
    tg_flow_key key;
} tg_flow;

typedef struct {
    tg_flow **buckets; /* NULL until reserved */
    size_t size;       /* a power of two */
    size_t count;
} tg_flows;

/* Room for `expected` entries at no more than one a bucket on average; never gets smaller. 0, or -1 when memory is out, with
 * the table as it was. */
static inline int tg_flows_reserve(tg_flows *t, size_t expected) {
    size_t size = t->size ? t->size : TG_FLOWS_LEAST;
    while (size < expected)
        size *= 2;
    if (size == t->size)
        return 0;
    tg_flow **buckets = (tg_flow **)calloc(size, sizeof(*buckets));
    if (!buckets)
        return -1;
    for (size_t i = 0; i < t->size; i++) {
        for (tg_flow *flow = t->buckets[i], *next; flow; flow = next) {
            next = flow->next;
            flow->next = buckets[flow->hash & (size - 1)];
            buckets[flow->hash & (size - 1)] = flow;
        }
    }
    free(t->buckets);
    t->buckets = buckets;
    t->size = size;
    return 0;
}

static inline void tg_flows_free(tg_flows *t) {
    free(t->buckets);
    memset(t, 0, sizeof(*t));
}

static inline tg_flow *tg_flows_find(const tg_flows *t, const tg_flow_key *key, uint64_t hash) {
    tg_flow *flow = t->buckets[hash & (t->size - 1)];
    while (flow && (flow->hash != hash || !tg_flow_same(&flow->key, key)))
        flow = flow->next;
    return flow;
}

/* Its hash and key are set; no other entry has the key. */
static inline void tg_flows_add(tg_flows *t, tg_flow *flow) {
    tg_flow **bucket = &t->buckets[flow->hash & (t->size - 1)];
    flow->next = *bucket;
    *bucket = flow;
    t->count++;
}

/* Nothing happens when it is not there. */
static inline void tg_flows_remove(tg_flows *t, tg_flow *flow) {
    tg_flow **at = &t->buckets[flow->hash & (t->size - 1)];
    while (*at && *at != flow)
        at = &(*at)->next;
    if (*at) {
        *at = flow->next;
        flow->next = NULL;
        t->count--;
    }
}

/* Sessions of one client's address (tg_source_of). */
typedef struct tg_source {
    struct tg_source *next;
    uint64_t hash;
    unsigned char address[16];
    uint32_t count;
} tg_source;

typedef struct {
    tg_source **buckets;
    size_t size;
    size_t count;
} tg_sources;

static inline int tg_sources_reserve(tg_sources *t, size_t expected) {
    size_t size = t->size ? t->size : TG_FLOWS_LEAST;
    while (size < expected)
        size *= 2;
    if (size == t->size)
        return 0;
    tg_source **buckets = (tg_source **)calloc(size, sizeof(*buckets));
    if (!buckets)
        return -1;
    for (size_t i = 0; i < t->size; i++) {
        for (tg_source *source = t->buckets[i], *next; source; source = next) {
            next = source->next;
            source->next = buckets[source->hash & (size - 1)];
            buckets[source->hash & (size - 1)] = source;
        }
    }
    free(t->buckets);
    t->buckets = buckets;
    t->size = size;
    return 0;
}

/* One more of this address: its entry, or NULL when memory is out. */
static inline tg_source *tg_sources_enter(tg_sources *t, const unsigned char address[16], uint64_t hash) {
    tg_source **bucket = &t->buckets[hash & (t->size - 1)];
    for (tg_source *source = *bucket; source; source = source->next) {
        if (source->hash == hash && !memcmp(source->address, address, 16)) {
            source->count++;
            return source;
        }
    }
    tg_source *source = (tg_source *)malloc(sizeof(*source));
    if (!source)
        return NULL;
    memcpy(source->address, address, 16);
    source->hash = hash;
    source->count = 1;
    source->next = *bucket;
    *bucket = source;
    t->count++;
    return source;
}

/* One less; the last one's entry is freed. */
static inline void tg_sources_leave(tg_sources *t, tg_source *source) {
    if (--source->count)
        return;
    tg_source **at = &t->buckets[source->hash & (t->size - 1)];
    while (*at != source)
        at = &(*at)->next;
    *at = source->next;
    t->count--;
    free(source);
}

/* Also frees the entries that are left. */
static inline void tg_sources_free(tg_sources *t) {
    for (size_t i = 0; i < t->size; i++) {
        for (tg_source *source = t->buckets[i], *next; source; source = next) {
            next = source->next;
            free(source);
        }
    }
    free(t->buckets);
    memset(t, 0, sizeof(*t));
}

#endif
