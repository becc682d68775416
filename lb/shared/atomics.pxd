"""Atomic access to words shared between processes (atomics.h): loads acquire, stores release, unless `_relaxed`."""

from libc.stdint cimport int32_t, uint32_t, uint64_t


cdef extern from "atomics.h" nogil:
    uint32_t tg_load32(const uint32_t *p) noexcept
    uint32_t tg_load32_relaxed(const uint32_t *p) noexcept
    void tg_store32(uint32_t *p, uint32_t v) noexcept
    void tg_store32_relaxed(uint32_t *p, uint32_t v) noexcept
    uint32_t tg_fetch_add32(uint32_t *p, uint32_t v) noexcept
    bint tg_cas32(uint32_t *p, uint32_t expected, uint32_t desired) noexcept
    uint64_t tg_load64(const uint64_t *p) noexcept
    uint64_t tg_load64_relaxed(const uint64_t *p) noexcept
    void tg_store64(uint64_t *p, uint64_t v) noexcept
    void tg_store64_relaxed(uint64_t *p, uint64_t v) noexcept
    uint64_t tg_fetch_add64(uint64_t *p, uint64_t v) noexcept
    uint64_t tg_fetch_or64(uint64_t *p, uint64_t v) noexcept
    uint64_t tg_fetch_and64(uint64_t *p, uint64_t v) noexcept
    uint64_t tg_exchange64(uint64_t *p, uint64_t v) noexcept
    bint tg_cas64(uint64_t *p, uint64_t expected, uint64_t desired) noexcept
    double tg_load_double_relaxed(const uint64_t *p) noexcept      # the word holds a double's bits
    void tg_store_double_relaxed(uint64_t *p, double v) noexcept
    int32_t tg_load_i32(const int32_t *p) noexcept
    int32_t tg_load_i32_relaxed(const int32_t *p) noexcept
    void tg_store_i32_relaxed(int32_t *p, int32_t v) noexcept
    void tg_fence_acquire() noexcept
    void tg_fence_release() noexcept
    void tg_fence_full() noexcept
    void tg_pause() noexcept
