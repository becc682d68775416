/* A growable byte queue: bytes are appended at the end and consumed from the start. Zero-initialise to make an empty one. */
#ifndef TIDEGATE_BUFFER_H
#define TIDEGATE_BUFFER_H

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    char *data;
    size_t start, end, capacity;
} tg_buffer;

static inline size_t tg_buffer_size(const tg_buffer *b) { return b->end - b->start; }
static inline char *tg_buffer_head(const tg_buffer *b) { return b->data + b->start; }
static inline char *tg_buffer_tail(const tg_buffer *b) { return b->data + b->end; }

/* Forget the content, keep the memory. */
static inline void tg_buffer_clear(tg_buffer *b) { b->start = b->end = 0; }

static inline void tg_buffer_free(tg_buffer *b) {
    free(b->data);
    b->data = NULL;
    b->start = b->end = b->capacity = 0;
}

/* Make room for n more bytes at the tail. 0, or -1 when memory is out (the content is kept). */
static inline int tg_buffer_reserve(tg_buffer *b, size_t n) {
    if (n <= b->capacity - b->end)
        return 0;
    size_t size = b->end - b->start;
    if (n > (size_t)-1 / 2 - size)
        return -1;
    if (b->start && n <= b->capacity - size && size <= b->start) {
        memcpy(b->data, b->data + b->start, size); /* no overlap: size <= start */
    } else {
        size_t capacity = b->capacity ? b->capacity : 512;
        while (capacity < size + n)
            capacity *= 2;
        char *data;
        if (b->start || !b->data) {
            data = (char *)malloc(capacity);
            if (!data)
                return -1;
            if (size)
                memcpy(data, b->data + b->start, size);
            free(b->data);
        } else {
            /* A large block moves by its pages, without a copy. */
            data = (char *)realloc(b->data, capacity);
            if (!data)
                return -1;
        }
        b->data = data;
        b->capacity = capacity;
    }
    b->start = 0;
    b->end = size;
    return 0;
}

static inline int tg_buffer_append(tg_buffer *b, const void *bytes, size_t n) {
    if (!n)
        return 0;
    if (tg_buffer_reserve(b, n))
        return -1;
    memcpy(b->data + b->end, bytes, n);
    b->end += n;
    return 0;
}

/* Drop n bytes from the start; an emptied buffer starts over at offset 0. */
static inline void tg_buffer_consume(tg_buffer *b, size_t n) {
    b->start += n;
    if (b->start >= b->end)
        b->start = b->end = 0;
}

#endif
