/* Atomic access to words shared between processes, by the GCC __atomic builtins.
 *
 * The names are macros that cast, so that both plain and _Atomic qualified words can be passed: Cython sees the fields of
 * segment.h as plain integers. Every word must be naturally aligned. Without a suffix a load acquires, a store releases and
 * a read-modify-write does both; `_relaxed` orders nothing.
 */
#ifndef TIDEGATE_ATOMICS_H
#define TIDEGATE_ATOMICS_H

#include <stdint.h>
#include <string.h>

#define TG_ATOMICS(bits, type)                                                                                          \
    static inline type tg_load##bits##_f(const type *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }                \
    static inline type tg_load##bits##_relaxed_f(const type *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }        \
    static inline void tg_store##bits##_f(type *p, type v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }                \
    static inline void tg_store##bits##_relaxed_f(type *p, type v) { __atomic_store_n(p, v, __ATOMIC_RELAXED); }        \
    static inline type tg_fetch_add##bits##_f(type *p, type v) { return __atomic_fetch_add(p, v, __ATOMIC_ACQ_REL); }   \
    static inline type tg_fetch_or##bits##_f(type *p, type v) { return __atomic_fetch_or(p, v, __ATOMIC_ACQ_REL); }     \
    static inline type tg_fetch_and##bits##_f(type *p, type v) { return __atomic_fetch_and(p, v, __ATOMIC_ACQ_REL); }   \
    static inline type tg_exchange##bits##_f(type *p, type v) { return __atomic_exchange_n(p, v, __ATOMIC_ACQ_REL); }   \
    static inline int tg_cas##bits##_f(type *p, type expected, type desired) {                                          \
        return __atomic_compare_exchange_n(p, &expected, desired, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);               \
    }

TG_ATOMICS(32, uint32_t)
TG_ATOMICS(64, uint64_t)
TG_ATOMICS(_i32, int32_t)
#undef TG_ATOMICS

#define tg_load32(p) tg_load32_f((const uint32_t *)(p))
#define tg_load32_relaxed(p) tg_load32_relaxed_f((const uint32_t *)(p))
#define tg_store32(p, v) tg_store32_f((uint32_t *)(p), (v))
#define tg_store32_relaxed(p, v) tg_store32_relaxed_f((uint32_t *)(p), (v))
#define tg_fetch_add32(p, v) tg_fetch_add32_f((uint32_t *)(p), (v))
#define tg_cas32(p, expected, desired) tg_cas32_f((uint32_t *)(p), (expected), (desired))

#define tg_load64(p) tg_load64_f((const uint64_t *)(p))
#define tg_load64_relaxed(p) tg_load64_relaxed_f((const uint64_t *)(p))
#define tg_store64(p, v) tg_store64_f((uint64_t *)(p), (v))
#define tg_store64_relaxed(p, v) tg_store64_relaxed_f((uint64_t *)(p), (v))
#define tg_fetch_add64(p, v) tg_fetch_add64_f((uint64_t *)(p), (v))
#define tg_fetch_or64(p, v) tg_fetch_or64_f((uint64_t *)(p), (v))
#define tg_fetch_and64(p, v) tg_fetch_and64_f((uint64_t *)(p), (v))
#define tg_exchange64(p, v) tg_exchange64_f((uint64_t *)(p), (v))
#define tg_cas64(p, expected, desired) tg_cas64_f((uint64_t *)(p), (expected), (desired))

/* The bits of a double in a 64-bit word. */
static inline double tg_load_double_relaxed_f(const uint64_t *p) {
    uint64_t bits = __atomic_load_n(p, __ATOMIC_RELAXED);
    double v;
    memcpy(&v, &bits, sizeof(v));
    return v;
}
static inline void tg_store_double_relaxed_f(uint64_t *p, double v) {
    uint64_t bits;
    memcpy(&bits, &v, sizeof(bits));
    __atomic_store_n(p, bits, __ATOMIC_RELAXED);
}
#define tg_load_double_relaxed(p) tg_load_double_relaxed_f((const uint64_t *)(p))
#define tg_store_double_relaxed(p, v) tg_store_double_relaxed_f((uint64_t *)(p), (v))

#define tg_load_i32(p) tg_load_i32_f((const int32_t *)(p))
#define tg_load_i32_relaxed(p) tg_load_i32_relaxed_f((const int32_t *)(p))
#define tg_store_i32_relaxed(p, v) tg_store_i32_relaxed_f((int32_t *)(p), (v))

static inline void tg_fence_acquire(void) { __atomic_thread_fence(__ATOMIC_ACQUIRE); }
static inline void tg_fence_release(void) { __atomic_thread_fence(__ATOMIC_RELEASE); }
/* Orders a store before a later load, which neither acquire nor release does. */
static inline void tg_fence_full(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

/* Tell the core that this is a spin loop. */
static inline void tg_pause(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield" ::: "memory");
#else
    __asm__ __volatile__("" ::: "memory");
#endif
}

#endif
