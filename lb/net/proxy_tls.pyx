"""The TLS field of the PROXY protocol: see proxy_tls.pxd. The spellings are HAProxy's, whose protocol it is."""

from libc.stdio cimport snprintf
from libc.string cimport strlen
from lb.net.buffer cimport tg_buffer, tg_buffer_append, tg_buffer_head, tg_buffer_size
from lb.net.tls.openssl cimport (
    ASN1_STRING, EVP_PKEY, SSL, TLSEXT_NAMETYPE_host_name, X509, X509_NAME, X509_V_OK, SSL_get0_alpn_selected,
    SSL_get0_peer_certificate, SSL_get_servername, SSL_get_verify_result, SSL_session_reused, X509_get_subject_name,
)
from lb.net.proxy_header cimport tg_tlvs

cdef extern from "<openssl/ssl.h>" nogil:
    ctypedef struct SSL_CIPHER:
        pass
    const char *SSL_get_version(const SSL *ssl)
    const SSL_CIPHER *SSL_get_current_cipher(const SSL *ssl)
    const char *SSL_CIPHER_get_name(const SSL_CIPHER *cipher)
    X509 *SSL_get_certificate(const SSL *ssl)

cdef extern from "<openssl/x509.h>" nogil:
    ctypedef struct X509_NAME_ENTRY:
        pass
    int X509_get_signature_nid(const X509 *certificate)
    EVP_PKEY *X509_get0_pubkey(const X509 *certificate)
    int X509_NAME_get_index_by_NID(const X509_NAME *name, int nid, int after)
    X509_NAME_ENTRY *X509_NAME_get_entry(const X509_NAME *name, int index)
    ASN1_STRING *X509_NAME_ENTRY_get_data(const X509_NAME_ENTRY *entry)
    int ASN1_STRING_to_UTF8(unsigned char **into, const ASN1_STRING *text)

cdef extern from "<openssl/objects.h>" nogil:
    enum:
        NID_commonName
        NID_undef
    const char *OBJ_nid2sn(int nid)

cdef extern from "<openssl/evp.h>" nogil:
    enum:
        EVP_PKEY_RSA
        EVP_PKEY_EC
    int EVP_PKEY_get_base_id(const EVP_PKEY *key)
    int EVP_PKEY_get_bits(const EVP_PKEY *key)

cdef extern from "<openssl/crypto.h>" nogil:
    void OPENSSL_free(void *address)

cdef enum:
    CLIENT_SSL = 0x01                 # the client has connected over TLS
    CLIENT_CERT_CONN = 0x02           # it has shown a certificate on this connection
    CLIENT_CERT_SESS = 0x04           # or on the one whose session this connection resumes
    SUBTYPE_VERSION = 0x21
    SUBTYPE_CN = 0x22
    SUBTYPE_CIPHER = 0x23
    SUBTYPE_SIG_ALG = 0x24            # these two are of our certificate
    SUBTYPE_KEY_ALG = 0x25
    FIXED = 5                         # the flags and the verdict
    PLACE = 3
    TEXT_MAX = 1024                   # of a name: RFC 5280 allows 64 characters, certificates have more


cdef int proxy_tls(SSL *ssl, tg_buffer *room, tg_tlvs *tlvs) noexcept nogil:
    cdef const unsigned char *alpn = NULL
    cdef unsigned int alpn_length = 0
    cdef const char *name = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name)
    SSL_get0_alpn_selected(ssl, &alpn, &alpn_length)
    if alpn_length:
        tlvs.alpn = alpn
        tlvs.alpn_length = alpn_length
    if name != NULL:
        tlvs.authority = <const unsigned char *>name
        tlvs.authority_length = strlen(name)
    if put_secured(room, ssl) < 0:
        return -1
    tlvs.ssl = <const unsigned char *>tg_buffer_head(room)
    tlvs.ssl_length = tg_buffer_size(room)
    return 0


cdef int put_secured(tg_buffer *out, SSL *ssl) noexcept nogil:
    """The value of PP2_TYPE_SSL."""
    cdef unsigned char fixed[FIXED]
    cdef X509 *client = SSL_get0_peer_certificate(ssl)
    cdef const SSL_CIPHER *cipher = SSL_get_current_cipher(ssl)
    fixed[0] = CLIENT_SSL
    fixed[1] = fixed[2] = fixed[3] = 0
    # 0 where the client has shown a certificate and it was verified; any other number where not.
    fixed[4] = 1
    if client != NULL:
        fixed[0] |= CLIENT_CERT_SESS
        if not SSL_session_reused(ssl):
            fixed[0] |= CLIENT_CERT_CONN
        fixed[4] = 0 if SSL_get_verify_result(ssl) == X509_V_OK else 1
    if tg_buffer_append(out, fixed, FIXED) < 0 or put_text(out, SUBTYPE_VERSION, SSL_get_version(ssl)) < 0:
        return -1
    if client != NULL and put_name(out, client) < 0:
        return -1
    if cipher != NULL and put_text(out, SUBTYPE_CIPHER, SSL_CIPHER_get_name(cipher)) < 0:
        return -1
    return put_algorithms(out, SSL_get_certificate(ssl))


cdef int put(tg_buffer *out, int kind, const void *value, size_t n) noexcept nogil:
    cdef unsigned char place[PLACE]
    if n == 0 or n > TEXT_MAX:
        return 0
    place[0] = <unsigned char>kind
    place[1] = <unsigned char>(n >> 8)
    place[2] = <unsigned char>(n & 255)
    if tg_buffer_append(out, place, PLACE) < 0:
        return -1
    return tg_buffer_append(out, value, n)


cdef int put_text(tg_buffer *out, int kind, const char *text) noexcept nogil:
    return 0 if text == NULL else put(out, kind, text, strlen(text))


cdef int put_name(tg_buffer *out, X509 *certificate) noexcept nogil:
    """The first common name of the subject, in UTF-8."""
    cdef X509_NAME *subject = X509_get_subject_name(certificate)
    cdef int index = X509_NAME_get_index_by_NID(subject, NID_commonName, -1)
    cdef unsigned char *text = NULL
    cdef int n, failed
    if index < 0:
        return 0
    n = ASN1_STRING_to_UTF8(&text, X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, index)))
    if n < 0:
        return 0
    failed = put(out, SUBTYPE_CN, text, <size_t>n)
    OPENSSL_free(text)
    return failed


cdef int put_algorithms(tg_buffer *out, X509 *ours) noexcept nogil:
    """How our certificate was signed, such as `RSA-SHA256`, and its key, such as `RSA2048` or `EC256`."""
    cdef EVP_PKEY *key
    cdef char text[32]
    cdef int nid
    if ours == NULL:
        return 0
    nid = X509_get_signature_nid(ours)
    if nid != NID_undef and put_text(out, SUBTYPE_SIG_ALG, OBJ_nid2sn(nid)) < 0:
        return -1
    key = X509_get0_pubkey(ours)
    if key == NULL:
        return 0
    nid = EVP_PKEY_get_base_id(key)
    if nid == EVP_PKEY_RSA:
        snprintf(text, sizeof(text), b"RSA%d", EVP_PKEY_get_bits(key))
    elif nid == EVP_PKEY_EC:
        snprintf(text, sizeof(text), b"EC%d", EVP_PKEY_get_bits(key))
    else:
        return put_text(out, SUBTYPE_KEY_ALG, OBJ_nid2sn(nid)) if nid != NID_undef else 0
    return put_text(out, SUBTYPE_KEY_ALG, text)
