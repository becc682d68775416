"""Certificates and keys in PEM: into an SSL_CTX, and what they say about themselves."""

from lb.net.tls.openssl cimport ASN1_TIME, SSL_CTX, X509


cdef class CertificateInfo:
    cdef readonly str subject
    cdef readonly str common_name     # the subject's first; "" = it has none
    cdef readonly str issuer
    cdef readonly list dns            # type: list[str]
    cdef readonly list uris           # type: list[str]
    cdef readonly long not_before
    cdef readonly long not_after
    cdef readonly str fingerprint

    cdef int fill(self, X509 *certificate) except -1


# The certificate, its chain and its key. Raises ValueError, which never shows anything of the key.
cdef int use_pair(SSL_CTX *ctx, bytes chain, bytes key) except -1
# Certificates that are trusted as issuers; `announce` also names them to clients. Raises ValueError.
cdef int use_authorities(SSL_CTX *ctx, bytes pem, bint announce) except -1
cdef long unix_time(const ASN1_TIME *when) noexcept
cdef CertificateInfo info_of(X509 *certificate)
