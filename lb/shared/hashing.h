/* An incremental keyed BLAKE2b-256. Opaque, so that users need neither libsodium's headers nor its alignment of 64 bytes. */
#ifndef TIDEGATE_HASHING_H
#define TIDEGATE_HASHING_H

#include <stdint.h>

/* Not to be moved or copied between init and final: the state is aligned inside. */
typedef struct {
    unsigned char opaque[384 + 64];
} tg_digest;

/* A bijection whose every bit depends on all bits of x: splitmix64's (Steele, Lea and Flood 2014). */
static inline uint64_t tg_mix64(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

#endif
