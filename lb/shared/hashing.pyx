"""Hashes for affinity and for cache keys (libsodium).

`hash64` is SipHash-2-4 (Aumasson and Bernstein, 2012) under the fixed key below. The key is public on purpose: the hash
chooses an endpoint, must give the same answer everywhere and for ever, and promises nothing against an adversary. Cache
keys are digests under the segment's random secret, keyed BLAKE2b-256 (RFC 7693): nobody outside can make two collide.
"""

from libc.stdint cimport uint64_t, uintptr_t

from lb.errors import StartError

cdef extern from "sodium.h" nogil:
    """
    _Static_assert(sizeof(crypto_generichash_blake2b_state) + 64 <= sizeof(tg_digest), "tg_digest is too small");
    """
    ctypedef struct crypto_generichash_blake2b_state:
        pass
    int sodium_init() noexcept
    int crypto_shorthash_siphash24(
        unsigned char *out, const unsigned char *data, unsigned long long n, const unsigned char *key) noexcept
    int crypto_shorthash_siphashx24(
        unsigned char *out, const unsigned char *data, unsigned long long n, const unsigned char *key) noexcept
    int crypto_generichash_blake2b_init(
        crypto_generichash_blake2b_state *state, const unsigned char *key, size_t key_size, size_t out_size) noexcept
    int crypto_generichash_blake2b_update(
        crypto_generichash_blake2b_state *state, const unsigned char *data, unsigned long long n) noexcept
    int crypto_generichash_blake2b_final(
        crypto_generichash_blake2b_state *state, unsigned char *out, size_t out_size) noexcept

# Changing it moves every client of every consistent-hash pool.
cdef const unsigned char *AFFINITY_KEY = b"tidegate-hash-01"

# Also chooses the vectorised BLAKE2b; without it the library uses the portable one.
if sodium_init() < 0:
    raise StartError("libsodium cannot be initialised")


cdef inline crypto_generichash_blake2b_state *aligned(tg_digest *digest) noexcept nogil:
    return <crypto_generichash_blake2b_state *> ((<uintptr_t> digest + 63) & ~(<uintptr_t> 63))


cdef uint64_t hash64(const void *data, size_t n) noexcept nogil:
    return hash64_keyed(data, n, AFFINITY_KEY)


cdef uint64_t hash64_keyed(const void *data, size_t n, const unsigned char *key) noexcept nogil:
    cdef unsigned char out[8]
    crypto_shorthash_siphash24(out, <const unsigned char *> data, n, key)
    # Little-endian by definition, whatever the machine.
    cdef uint64_t value = 0
    cdef int i
    for i in range(8):
        value |= <uint64_t> out[i] << (8 * i)
    return value


cdef void hash128_keyed(const void *data, size_t n, const unsigned char key[16], unsigned char out[16]) noexcept nogil:
    crypto_shorthash_siphashx24(out, <const unsigned char *> data, n, key)


cdef int tg_digest_init(tg_digest *digest, const unsigned char key[32]) noexcept nogil:
    return -1 if crypto_generichash_blake2b_init(aligned(digest), key, 32, 32) else 0


cdef int tg_digest_update(tg_digest *digest, const void *data, size_t n) noexcept nogil:
    return -1 if crypto_generichash_blake2b_update(aligned(digest), <const unsigned char *> data, n) else 0


cdef int tg_digest_final(tg_digest *digest, unsigned char out[32]) noexcept nogil:
    return -1 if crypto_generichash_blake2b_final(aligned(digest), out, 32) else 0


def hash64_bytes(data: bytes) -> int:
    """`hash64` of a bytes object, as an int of 64 bits."""
    cdef const unsigned char[::1] view = data
    return hash64(&view[0] if view.shape[0] else NULL, view.shape[0])
