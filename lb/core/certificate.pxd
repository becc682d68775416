"""Certificates and keys in PEM: into an SSL_CTX, and what they say about themselves."""

from lb.core.openssl cimport ASN1_TIME, BIO, EVP_PKEY, SSL_CTX, X509


cdef class CertificateInfo:
    cdef readonly str subject
    cdef readonly str issuer
    cdef readonly list dns
    cdef readonly list uris
    cdef readonly long not_before
    cdef readonly long not_after
    cdef readonly str fingerprint

    cdef int fill(self, X509 *certificate) except -1


# Why OpenSSL's last call failed; empties its queue of errors.
cdef str openssl_error(str otherwise)
# The certificate, its chain and its key. Raises ValueError, which never shows anything of the key.
cdef int use_pair(SSL_CTX *ctx, bytes chain, bytes key) except -1
# Certificates that are trusted as issuers; `announce` also names them to clients. Raises ValueError.
cdef int use_authorities(SSL_CTX *ctx, bytes pem, bint announce) except -1
cdef EVP_PKEY *read_key(bytes key) except NULL
# Reading PEM: from memory that `pem` keeps; the next certificate, NULL at the end; whether a reader just came to it.
cdef BIO *reader_of(bytes pem) except NULL
cdef X509 *read_certificate(BIO *bio) except? NULL
cdef bint at_the_end() noexcept
cdef int no_password(char *into, int size, int writing, void *data) noexcept
cdef long unix_time(const ASN1_TIME *when) noexcept
cdef CertificateInfo info_of(X509 *certificate)
