"""Certificates, keys and revocation lists as they come: PEM (RFC 7468) in memory, read with OpenSSL."""

from lb.net.tls.openssl cimport BIO, EVP_PKEY, X509, X509_CRL


cdef class PemReader:
    cdef BIO *bio
    cdef bytes text                   # which the BIO reads from
    cdef int found                    # how many it has given

    # The next certificate, or the next list: the caller frees it. NULL at the end. ValueError: it is broken.
    cdef X509 *certificate(self) except? NULL
    cdef X509_CRL *revocations(self) except? NULL


# Raises ValueError when there is too much of it.
cdef PemReader read_pem(bytes text)
# Raises ValueError, which never shows anything of the key.
cdef EVP_PKEY *read_key(bytes text) except NULL
# Why OpenSSL's last call failed; empties its queue of errors.
cdef str openssl_error(str otherwise)
