/* Sessions by flow: a hash table whose chains run through the entries.
 *
 * Clients choose their addresses and ports, and forged ones are free: the hash has to be keyed with a secret, or somebody
 * puts everything into one chain. The caller computes it (lb/shared/hashing). A table never grows on its own; it is given
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

#endif
