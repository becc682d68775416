"""The memory that nghttp2's sessions take and give back (blocks.h)."""

from lb.core.nghttp2 cimport nghttp2_mem


cdef extern from "blocks.h" nogil:
    nghttp2_mem *tg_blocks() noexcept
    void *tg_block_take(size_t size, void *user_data) noexcept
    void tg_block_give(void *memory, void *user_data) noexcept
    void *tg_block_take_zeroed(size_t count, size_t size, void *user_data) noexcept
    void *tg_block_resize(void *memory, size_t size, void *user_data) noexcept
    size_t tg_blocks_kept
