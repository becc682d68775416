"""Hashes for affinity and for cache keys (libsodium)."""

from libc.stdint cimport uint64_t


cdef extern from "hashing.h":
    ctypedef struct tg_digest:
        pass
    # For numbers that are hashes already, or made from them.
    uint64_t tg_mix64(uint64_t x) noexcept nogil

# SipHash-2-4 with a fixed key: the same in every worker, after every restart and on every machine.
cdef uint64_t hash64(const void *data, size_t n) noexcept nogil
# The same under a key of the caller's: for tables whose keys strangers choose.
cdef uint64_t hash64_keyed(const void *data, size_t n, const unsigned char *key) noexcept nogil
# SipHash-2-4 with 128 bits of output: for short texts of strangers that one process tells apart under its own secret.
cdef void hash128_keyed(const void *data, size_t n, const unsigned char key[16], unsigned char out[16]) noexcept nogil

# Keyed BLAKE2b-256 in pieces: init, update any number of times, final once. 0, or -1 for a failure of the library.
cdef int tg_digest_init(tg_digest *digest, const unsigned char key[32]) noexcept nogil
cdef int tg_digest_update(tg_digest *digest, const void *data, size_t n) noexcept nogil
cdef int tg_digest_final(tg_digest *digest, unsigned char out[32]) noexcept nogil
