/* Memory in small blocks for one thread (or under one lock), from free lists by size: what nghttp2 takes and gives back
   several times for each request. A block costs a handful of instructions instead of a call of malloc and one of free. */
#ifndef TIDEGATE_BLOCKS_H
#define TIDEGATE_BLOCKS_H

#include <nghttp2/nghttp2.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum {
    TG_BLOCK_UNIT = 16,          /* sizes are multiples of it, and blocks aligned to it */
    TG_BLOCK_LARGEST = 1024,     /* what is larger comes from malloc and goes back there */
    TG_BLOCKS_KEPT = 1024 * 1024 /* bytes on all free lists together */
};

/* What stands before a block. On a free list `next` is used, of a larger block nothing but `size`. */
typedef union tg_block {
    struct {
        union tg_block *next;
        size_t size; /* of the block behind it: a multiple of the unit */
    };
    max_align_t aligned;
    char room[TG_BLOCK_UNIT];
} tg_block;

_Static_assert(sizeof(tg_block) % TG_BLOCK_UNIT == 0, "a block is aligned");

static tg_block *tg_blocks_free[TG_BLOCK_LARGEST / TG_BLOCK_UNIT + 1];
static size_t tg_blocks_kept;

static void *tg_block_take(size_t size, void *user_data) {
    (void)user_data;
    if (size > SIZE_MAX / 2)
        return NULL;
    size = (size + TG_BLOCK_UNIT - 1) & ~(size_t)(TG_BLOCK_UNIT - 1);
    tg_block *block;
    if (size <= TG_BLOCK_LARGEST && (block = tg_blocks_free[size / TG_BLOCK_UNIT])) {
        tg_blocks_free[size / TG_BLOCK_UNIT] = block->next;
        tg_blocks_kept -= size;
        return block + 1;
    }
    block = (tg_block *)malloc(sizeof(tg_block) + size);
    if (!block)
        return NULL;
    block->size = size;
    return block + 1;
}

static void tg_block_give(void *memory, void *user_data) {
    (void)user_data;
    if (!memory)
        return;
    tg_block *block = (tg_block *)memory - 1;
    size_t size = block->size;
    if (size > TG_BLOCK_LARGEST || tg_blocks_kept + size > TG_BLOCKS_KEPT) {
        free(block);
        return;
    }
    block->next = tg_blocks_free[size / TG_BLOCK_UNIT];
    tg_blocks_free[size / TG_BLOCK_UNIT] = block;
    tg_blocks_kept += size;
}

static void *tg_block_take_zeroed(size_t count, size_t size, void *user_data) {
    if (size && count > SIZE_MAX / size)
        return NULL;
    void *memory = tg_block_take(count * size, user_data);
    if (memory)
        memset(memory, 0, count * size);
    return memory;
}

static void *tg_block_resize(void *memory, size_t size, void *user_data) {
    if (!memory)
        return tg_block_take(size, user_data);
    size_t old = ((tg_block *)memory - 1)->size;
    if (size <= old)
        return memory;
    void *larger = tg_block_take(size, user_data);
    if (!larger)
        return NULL;
    memcpy(larger, memory, old);
    tg_block_give(memory, user_data);
    return larger;
}

/* For a session of nghttp2. NULL, which is malloc and free, under a sanitizer: it can only see what each of them does. */
static inline nghttp2_mem *tg_blocks(void) {
#ifdef __SANITIZE_ADDRESS__
    return NULL;
#else
    static nghttp2_mem blocks = {NULL, tg_block_take, tg_block_give, tg_block_take_zeroed, tg_block_resize};
    return &blocks;
#endif
}

#endif
