"""Reading PEM: see pem.pxd."""

from libc.limits cimport INT_MAX
from lb.net.tls.openssl cimport (
    ERR_LIB_PEM, EVP_PKEY, PEM_R_NO_START_LINE, X509, X509_CRL, BIO_free, BIO_new_mem_buf, ERR_clear_error,
    ERR_GET_LIB, ERR_GET_REASON, ERR_get_error, ERR_peek_last_error, ERR_reason_error_string, PEM_read_bio_PrivateKey,
    PEM_read_bio_X509, PEM_read_bio_X509_CRL,
)


cdef str openssl_error(str otherwise):
    cdef unsigned long code = ERR_get_error()
    cdef const char *reason = NULL
    if code:
        reason = ERR_reason_error_string(code)
    ERR_clear_error()
    return otherwise if reason == NULL else (<bytes>reason).decode("ascii", "replace")


cdef int no_password(char *into, int size, int writing, void *data) noexcept:
    """OpenSSL's own would ask on the terminal."""
    return -1


cdef bint at_the_end() noexcept:
    """Whether a reader stopped because nothing more was there, rather than at something broken."""
    cdef unsigned long code = ERR_peek_last_error()
    if ERR_GET_LIB(code) != ERR_LIB_PEM or ERR_GET_REASON(code) != PEM_R_NO_START_LINE:
        return False
    ERR_clear_error()
    return True


cdef class PemReader:
    """What PEM holds, one after another."""

    def __dealloc__(self):
        BIO_free(self.bio)                # which takes NULL

    cdef X509 *certificate(self) except? NULL:
        cdef X509 *found
        ERR_clear_error()
        found = PEM_read_bio_X509(self.bio, NULL, no_password, NULL)
        if found == NULL and not at_the_end():
            raise ValueError(f"holds a broken certificate: {openssl_error('not X.509')}")
        self.found += found != NULL
        return found

    cdef X509_CRL *revocations(self) except? NULL:
        cdef X509_CRL *found
        ERR_clear_error()
        found = PEM_read_bio_X509_CRL(self.bio, NULL, no_password, NULL)
        if found == NULL and not at_the_end():
            raise ValueError(f"holds a broken revocation list: {openssl_error('not a CRL')}")
        self.found += found != NULL
        return found


cdef PemReader read_pem(bytes text):
    cdef PemReader reader = PemReader.__new__(PemReader)
    if len(text) > INT_MAX:
        raise ValueError("is too large")
    reader.text = text
    reader.bio = BIO_new_mem_buf(<const char *>text, <int>len(text))
    if reader.bio == NULL:
        raise MemoryError
    return reader


cdef EVP_PKEY *read_key(bytes text) except NULL:
    cdef PemReader reader = read_pem(text)
    cdef EVP_PKEY *found
    ERR_clear_error()
    found = PEM_read_bio_PrivateKey(reader.bio, NULL, no_password, NULL)
    if found == NULL:
        ERR_clear_error()     # its reasons are about encodings, and help nobody
        if b"ENCRYPTED" in text:
            raise ValueError("the key is encrypted; store it without a passphrase, readable by its owner only")
        raise ValueError("holds no private key in PEM that can be read")
    return found
