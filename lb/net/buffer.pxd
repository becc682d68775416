"""A growable byte queue (buffer.h)."""


cdef extern from "buffer.h" nogil:
    ctypedef struct tg_buffer:
        char *data
        size_t start
        size_t end
        size_t capacity
    size_t tg_buffer_size(const tg_buffer *b) noexcept
    char *tg_buffer_head(const tg_buffer *b) noexcept
    char *tg_buffer_tail(const tg_buffer *b) noexcept
    void tg_buffer_clear(tg_buffer *b) noexcept
    void tg_buffer_free(tg_buffer *b) noexcept
    int tg_buffer_reserve(tg_buffer *b, size_t n) noexcept
    int tg_buffer_append(tg_buffer *b, const void *data, size_t n) noexcept
    void tg_buffer_consume(tg_buffer *b, size_t n) noexcept
