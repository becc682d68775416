"""Tensors in a digest: see data_digest.pxd. OpenSSL computes GHASH, as the tag of AES-256-GCM over additional data
alone with a fixed nonce. A nonce that repeats gives away the keys to those who see tags, and nobody does."""

from libc.stdint cimport uint64_t
from libc.string cimport memcmp, memcpy
from lb.shared.hashing cimport tg_digest, tg_digest_final, tg_digest_init, tg_digest_update

cdef extern from "<openssl/evp.h>" nogil:
    ctypedef struct EVP_CIPHER:
        pass
    ctypedef struct EVP_CIPHER_CTX:
        pass
    enum:
        EVP_CTRL_AEAD_GET_TAG
    const EVP_CIPHER *EVP_aes_256_gcm() noexcept
    EVP_CIPHER_CTX *EVP_CIPHER_CTX_new() noexcept
    int EVP_EncryptInit_ex(EVP_CIPHER_CTX *context, const EVP_CIPHER *cipher, void *engine, const unsigned char *key,
                           const unsigned char *nonce) noexcept
    int EVP_EncryptUpdate(EVP_CIPHER_CTX *context, unsigned char *out, int *out_size, const unsigned char *data,
                          int size) noexcept
    int EVP_EncryptFinal_ex(EVP_CIPHER_CTX *context, unsigned char *out, int *out_size) noexcept
    int EVP_CIPHER_CTX_ctrl(EVP_CIPHER_CTX *context, int what, int size, void *value) noexcept

cdef enum:
    HASHES = 2
    TAG = 16                          # bytes
    MOST = 1 << 30                    # bytes that OpenSSL takes at once
    KEPT = 8                          # secrets whose keys are at hand, one for each pool


cdef struct Keys:
    unsigned char secret[32]
    bint made
    EVP_CIPHER_CTX *hashes[HASHES]

cdef Keys[KEPT] kept
cdef bytes PURPOSE = b"tidegate GHASH key "
cdef unsigned char[12] NONCE


cdef int make(Keys *keys, const unsigned char *secret) noexcept:
    cdef tg_digest state
    cdef unsigned char key[32]
    cdef unsigned char number
    cdef int i
    keys.made = False
    for i in range(HASHES):
        number = <unsigned char>i
        if (tg_digest_init(&state, secret) < 0
                or tg_digest_update(&state, <const char *>PURPOSE, <size_t>len(PURPOSE)) < 0
                or tg_digest_update(&state, &number, 1) < 0
                or tg_digest_final(&state, key) < 0):
            return -1
        if keys.hashes[i] == NULL:
            keys.hashes[i] = EVP_CIPHER_CTX_new()
            if keys.hashes[i] == NULL:
                return -1
        if EVP_EncryptInit_ex(keys.hashes[i], EVP_aes_256_gcm(), NULL, key, NONCE) != 1:
            return -1
    memcpy(keys.secret, secret, sizeof(keys.secret))
    keys.made = True
    return 0


cdef int ghash(EVP_CIPHER_CTX *context, const unsigned char *data, size_t n, unsigned char *tag) noexcept:
    cdef unsigned char rest[TAG]
    cdef size_t part
    cdef int size
    if EVP_EncryptInit_ex(context, NULL, NULL, NULL, NONCE) != 1:
        return -1
    while n:
        part = min(n, <size_t>MOST)
        if EVP_EncryptUpdate(context, NULL, &size, data, <int>part) != 1:
            return -1
        data += part
        n -= part
    if EVP_EncryptFinal_ex(context, rest, &size) != 1:
        return -1
    return 0 if EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, TAG, tag) == 1 else -1


cdef int tg_digest_data(tg_digest *digest, const unsigned char *secret, const void *data, size_t n) noexcept:
    cdef uint64_t size = n
    cdef Keys *keys
    cdef unsigned char tags[HASHES * TAG]
    cdef int i
    if tg_digest_update(digest, &size, sizeof(size)) < 0:
        return -1
    if n < LARGE:                             # the length says which of the two it is
        return tg_digest_update(digest, data, n)
    keys = &kept[secret[0] % KEPT]
    if (not keys.made or memcmp(keys.secret, secret, sizeof(keys.secret)) != 0) and make(keys, secret) < 0:
        return -1
    for i in range(HASHES):
        if ghash(keys.hashes[i], <const unsigned char *>data, n, tags + i * TAG) < 0:
            return -1
    return tg_digest_update(digest, tags, sizeof(tags))
