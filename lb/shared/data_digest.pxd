"""Tensors in a digest, at tens of gigabytes a second.

BLAKE2b reads about 1 GB/s. Data of LARGE bytes and more is therefore hashed by two GHASHes first, under secret keys of
their own, and their 32 bytes take its place. GHASH (NIST SP 800-38D, 6.4) is a universal hash: two texts of L blocks of
16 bytes, chosen by somebody who does not know the key, have the same hash with a probability of L / 2^128, and the same
two hashes with that squared. The hashes themselves are seen by nobody: they go through BLAKE2b, keyed by the secret.
"""

from lb.shared.hashing cimport tg_digest

cdef enum:
    LARGE = 512                       # bytes: below, what the calls of the library take is more

# Adds the length and the data. `secret` is the digest's key. 0, or -1 for a failure of a library. Holds the GIL.
cdef int tg_digest_data(tg_digest *digest, const unsigned char *secret, const void *data, size_t n) noexcept
