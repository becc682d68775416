"""Certificates and keys in PEM (RFC 7468): see certificate.pxd.

The master checks with this module what it sends to workers, and workers load with it: what passes the check is what is
loaded.
"""

from lb.net.tls.openssl cimport (
    ASN1_STRING, ASN1_TIME, BIO, EVP_MAX_MD_SIZE, EVP_PKEY, GEN_DNS, GEN_URI, GENERAL_NAME, GENERAL_NAMES, SSL_CTX,
    X509, X509_NAME, X509_STORE, XN_FLAG_RFC2253, ASN1_STRING_get0_data, ASN1_STRING_length, ASN1_TIME_to_tm, BIO_free,
    BIO_get_mem_data, BIO_new, BIO_s_mem, ERR_clear_error, EVP_PKEY_free, EVP_sha256, GENERAL_NAME_get0_value,
    GENERAL_NAMES_free, NID_subject_alt_name, SSL_CTX_add0_chain_cert, SSL_CTX_add_client_CA,
    SSL_CTX_check_private_key, SSL_CTX_get_cert_store, SSL_CTX_use_certificate, SSL_CTX_use_PrivateKey,
    X509_check_private_key, X509_digest, X509_free, X509_get0_notAfter, X509_get0_notBefore, X509_get_ext_d2i,
    X509_get_issuer_name, X509_get_subject_name, X509_NAME_print_ex, X509_STORE_add_cert, sk_GENERAL_NAME_num,
    sk_GENERAL_NAME_value, timegm, tm,
)
from lb.net.tls.pem cimport PemReader, openssl_error, read_key, read_pem

cdef extern from "<openssl/x509.h>" nogil:
    ctypedef struct X509_NAME_ENTRY:
        pass
    int X509_NAME_get_index_by_NID(const X509_NAME *name, int nid, int after)
    X509_NAME_ENTRY *X509_NAME_get_entry(const X509_NAME *name, int index)
    ASN1_STRING *X509_NAME_ENTRY_get_data(const X509_NAME_ENTRY *entry)
    int ASN1_STRING_to_UTF8(unsigned char **into, const ASN1_STRING *text)

cdef extern from "<openssl/objects.h>" nogil:
    enum:
        NID_commonName

cdef extern from "<openssl/crypto.h>" nogil:
    void OPENSSL_free(void *address)


cdef int use_pair(SSL_CTX *ctx, bytes chain, bytes key) except -1:
    cdef PemReader reader = read_pem(chain)
    cdef X509 *certificate
    cdef EVP_PKEY *private
    while True:
        certificate = reader.certificate()
        if certificate == NULL:
            break
        if reader.found == 1:
            taken = SSL_CTX_use_certificate(ctx, certificate) == 1     # which counts a reference of its own
            X509_free(certificate)
            if not taken:
                raise ValueError(f"the certificate cannot be used: {openssl_error('refused by OpenSSL')}")
        elif SSL_CTX_add0_chain_cert(ctx, certificate) != 1:
            X509_free(certificate)
            raise ValueError(f"the chain cannot be used: {openssl_error('refused by OpenSSL')}")
    if not reader.found:
        raise ValueError("holds no certificate in PEM")
    private = read_key(key)
    taken = SSL_CTX_use_PrivateKey(ctx, private) == 1 and SSL_CTX_check_private_key(ctx) == 1
    EVP_PKEY_free(private)
    if not taken:
        ERR_clear_error()
        raise ValueError("the key does not belong to the certificate")
    return 0


cdef int use_authorities(SSL_CTX *ctx, bytes pem, bint announce) except -1:
    cdef PemReader reader = read_pem(pem)
    cdef X509_STORE *store = SSL_CTX_get_cert_store(ctx)
    cdef X509 *certificate
    while True:
        certificate = reader.certificate()
        if certificate == NULL:
            break
        taken = X509_STORE_add_cert(store, certificate) == 1
        if taken and announce:
            taken = SSL_CTX_add_client_CA(ctx, certificate) == 1
        X509_free(certificate)
        if not taken:
            raise ValueError(f"an authority cannot be used: {openssl_error('refused by OpenSSL')}")
    if not reader.found:
        raise ValueError("holds no certificate in PEM")
    return 0


cdef str name_of(X509_NAME *name):
    """A distinguished name as RFC 2253 writes it, which is what Envoy forwards."""
    cdef BIO *bio = BIO_new(BIO_s_mem())
    cdef char *data = NULL
    cdef long size
    if bio == NULL:
        raise MemoryError
    if X509_NAME_print_ex(bio, name, 0, XN_FLAG_RFC2253) < 0:
        ERR_clear_error()
    size = BIO_get_mem_data(bio, &data)
    # Everything but ASCII is escaped by this format.
    text = data[:size].decode("ascii", "replace") if size > 0 else ""
    BIO_free(bio)
    return text


cdef str common_name_of(X509_NAME *name):
    """With what is no UTF-8 replaced."""
    cdef int index = X509_NAME_get_index_by_NID(name, NID_commonName, -1)
    cdef unsigned char *text = NULL
    cdef int n
    if index < 0:
        return ""
    n = ASN1_STRING_to_UTF8(&text, X509_NAME_ENTRY_get_data(X509_NAME_get_entry(name, index)))
    if n < 0:
        ERR_clear_error()
        return ""
    try:
        return (<char *>text)[:n].decode("utf-8", "replace")
    finally:
        OPENSSL_free(text)


cdef long unix_time(const ASN1_TIME *when) noexcept:
    cdef tm parts
    if ASN1_TIME_to_tm(when, &parts) != 1:
        ERR_clear_error()
        return 0
    return <long>timegm(&parts)


cdef class CertificateInfo:
    """What a certificate says. Times are Unix seconds; `fingerprint` is the SHA-256 of its DER form in lower hex."""

    cdef int fill(self, X509 *certificate) except -1:
        cdef unsigned char digest[EVP_MAX_MD_SIZE]
        cdef unsigned int size = 0
        cdef GENERAL_NAMES *names
        cdef GENERAL_NAME *name
        cdef ASN1_STRING *text
        cdef int i, kind
        self.subject = name_of(X509_get_subject_name(certificate))
        self.common_name = common_name_of(X509_get_subject_name(certificate))
        self.issuer = name_of(X509_get_issuer_name(certificate))
        self.not_before = unix_time(X509_get0_notBefore(certificate))
        self.not_after = unix_time(X509_get0_notAfter(certificate))
        if X509_digest(certificate, EVP_sha256(), digest, &size) != 1:
            raise MemoryError
        self.fingerprint = (<char *>digest)[:size].hex()
        self.dns = []
        self.uris = []
        names = <GENERAL_NAMES *>X509_get_ext_d2i(certificate, NID_subject_alt_name, NULL, NULL)
        if names == NULL:
            ERR_clear_error()
            return 0
        for i in range(sk_GENERAL_NAME_num(names)):
            name = sk_GENERAL_NAME_value(names, i)
            kind = -1
            text = <ASN1_STRING *>GENERAL_NAME_get0_value(name, &kind)
            if kind != GEN_DNS and kind != GEN_URI:
                continue
            value = (<const char *>ASN1_STRING_get0_data(text))[:ASN1_STRING_length(text)].decode("ascii", "replace")
            if kind == GEN_DNS:
                self.dns.append(value)
            else:
                self.uris.append(value)
        GENERAL_NAMES_free(names)
        return 0

    def __repr__(self):
        return f"<CertificateInfo {self.subject} until {self.not_after}>"


cdef CertificateInfo info_of(X509 *certificate):
    cdef CertificateInfo info = CertificateInfo.__new__(CertificateInfo)
    info.fill(certificate)
    return info


def inspect(bytes chain not None, bytes key=None) -> CertificateInfo:
    """What the first certificate in `chain` says. Raises ValueError when it cannot be read, or when `key` is not its.

    The message never shows anything of the key.
    """
    cdef PemReader reader = read_pem(chain)
    cdef X509 *certificate = NULL
    cdef X509 *further
    cdef EVP_PKEY *private
    try:
        certificate = reader.certificate()
        if certificate == NULL:
            raise ValueError("holds no certificate in PEM")
        while True:                       # the rest of the chain has to be readable, too
            further = reader.certificate()
            if further == NULL:
                break
            X509_free(further)
        if key is not None:
            private = read_key(key)
            matches = X509_check_private_key(certificate, private) == 1
            EVP_PKEY_free(private)
            if not matches:
                ERR_clear_error()
                raise ValueError("the key does not belong to the certificate")
        return info_of(certificate)
    finally:
        X509_free(certificate)            # which takes NULL


def count_authorities(bytes pem not None) -> int:
    """How many certificates `pem` holds. Raises ValueError when there is none, or a broken one."""
    cdef PemReader reader = read_pem(pem)
    cdef X509 *certificate
    while True:
        certificate = reader.certificate()
        if certificate == NULL:
            break
        X509_free(certificate)
    if not reader.found:
        raise ValueError("holds no certificate in PEM")
    return reader.found
