"""What is used of OpenSSL's C API (libssl and libcrypto), as of 3.0.

Setters of callbacks stand in the block that is not `nogil`: the callbacks here run with the GIL, which the caller of
the function that calls them back holds.
"""

from libc.stdint cimport uint32_t, uint64_t


cdef extern from "<time.h>" nogil:
    ctypedef long time_t
    struct tm:
        int tm_year
    time_t timegm(tm *when)
    time_t time(time_t *into)

cdef extern from "<openssl/err.h>" nogil:
    enum:
        ERR_LIB_PEM
    void ERR_clear_error()
    unsigned long ERR_get_error()
    unsigned long ERR_peek_error()
    unsigned long ERR_peek_last_error()
    int ERR_GET_REASON(unsigned long code)
    int ERR_GET_LIB(unsigned long code)
    const char *ERR_reason_error_string(unsigned long code)

cdef extern from "<openssl/bio.h>" nogil:
    ctypedef struct BIO:
        pass
    ctypedef struct BIO_METHOD:
        pass
    enum:
        BIO_TYPE_SOURCE_SINK
        BIO_CTRL_EOF
        BIO_CTRL_FLUSH
    BIO *BIO_new(const BIO_METHOD *method)
    BIO *BIO_new_mem_buf(const void *data, int size)
    const BIO_METHOD *BIO_s_mem()
    long BIO_get_mem_data(BIO *bio, char **data)
    int BIO_free(BIO *bio)
    void BIO_set_data(BIO *bio, void *data)
    void *BIO_get_data(BIO *bio)
    void BIO_set_init(BIO *bio, int init)
    void BIO_set_retry_read(BIO *bio)
    void BIO_clear_retry_flags(BIO *bio)
    int BIO_get_new_index()
    BIO_METHOD *BIO_meth_new(int kind, const char *name)

cdef extern from "<openssl/bio.h>":
    int BIO_meth_set_write_ex(BIO_METHOD *method, int (*write)(BIO *, const char *, size_t, size_t *) noexcept)
    int BIO_meth_set_read_ex(BIO_METHOD *method, int (*read)(BIO *, char *, size_t, size_t *) noexcept)
    int BIO_meth_set_ctrl(BIO_METHOD *method, long (*ctrl)(BIO *, int, long, void *) noexcept)

cdef extern from "<openssl/evp.h>" nogil:
    ctypedef struct EVP_MD:
        pass
    ctypedef struct EVP_PKEY:
        pass
    ctypedef struct EVP_CIPHER:
        pass
    ctypedef struct ENGINE:
        pass
    ctypedef struct EVP_CIPHER_CTX:
        pass
    ctypedef struct EVP_MAC_CTX:
        pass
    enum:
        EVP_MAX_MD_SIZE
        EVP_MAX_IV_LENGTH
    const EVP_MD *EVP_sha256()
    const EVP_CIPHER *EVP_aes_256_cbc()
    void EVP_PKEY_free(EVP_PKEY *key)
    int EVP_EncryptInit_ex(EVP_CIPHER_CTX *ctx, const EVP_CIPHER *kind, ENGINE *engine, const unsigned char *key,
                           const unsigned char *iv)
    int EVP_DecryptInit_ex(EVP_CIPHER_CTX *ctx, const EVP_CIPHER *kind, ENGINE *engine, const unsigned char *key,
                           const unsigned char *iv)
    int EVP_MAC_CTX_set_params(EVP_MAC_CTX *ctx, const OSSL_PARAM *params)

cdef extern from "<openssl/params.h>" nogil:
    ctypedef struct OSSL_PARAM:
        pass
    OSSL_PARAM OSSL_PARAM_construct_octet_string(const char *key, void *value, size_t size)
    OSSL_PARAM OSSL_PARAM_construct_utf8_string(const char *key, char *value, size_t size)
    OSSL_PARAM OSSL_PARAM_construct_end()

cdef extern from "<openssl/core_names.h>" nogil:
    const char *OSSL_MAC_PARAM_KEY
    const char *OSSL_MAC_PARAM_DIGEST

cdef extern from "<openssl/rand.h>" nogil:
    int RAND_bytes(unsigned char *into, int size)

cdef extern from "<openssl/x509v3.h>" nogil:
    ctypedef struct X509:
        pass
    ctypedef struct X509_NAME:
        pass
    ctypedef struct X509_STORE:
        pass
    ctypedef struct X509_VERIFY_PARAM:
        pass
    ctypedef struct ASN1_TIME:
        pass
    ctypedef struct ASN1_STRING:
        pass
    ctypedef struct GENERAL_NAME:
        pass
    ctypedef struct GENERAL_NAMES:
        pass
    ctypedef struct X509_CRL:
        pass
    ctypedef struct X509_STACK "struct stack_st_X509":
        pass
    enum:
        NID_subject_alt_name
        GEN_DNS
        GEN_URI
        XN_FLAG_RFC2253
        X509_V_OK
        X509_V_FLAG_PARTIAL_CHAIN
        X509_V_FLAG_CRL_CHECK
        X509_V_FLAG_CRL_CHECK_ALL
        X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS
    void X509_free(X509 *certificate)
    X509_NAME *X509_get_subject_name(const X509 *certificate)
    X509_NAME *X509_get_issuer_name(const X509 *certificate)
    int X509_NAME_print_ex(BIO *out, const X509_NAME *name, int indent, unsigned long flags)
    const ASN1_TIME *X509_get0_notBefore(const X509 *certificate)
    const ASN1_TIME *X509_get0_notAfter(const X509 *certificate)
    int ASN1_TIME_to_tm(const ASN1_TIME *when, tm *into)
    int X509_digest(const X509 *certificate, const EVP_MD *kind, unsigned char *into, unsigned int *size)
    int X509_check_private_key(const X509 *certificate, const EVP_PKEY *key)
    void *X509_get_ext_d2i(const X509 *certificate, int nid, int *critical, int *index)
    int sk_GENERAL_NAME_num(const GENERAL_NAMES *names)
    GENERAL_NAME *sk_GENERAL_NAME_value(const GENERAL_NAMES *names, int index)
    void GENERAL_NAMES_free(GENERAL_NAMES *names)
    void *GENERAL_NAME_get0_value(const GENERAL_NAME *name, int *kind)
    const unsigned char *ASN1_STRING_get0_data(const ASN1_STRING *text)
    int ASN1_STRING_length(const ASN1_STRING *text)
    int X509_check_issued(X509 *issuer, X509 *subject)
    void X509_CRL_free(X509_CRL *revocations)
    const ASN1_TIME *X509_CRL_get0_nextUpdate(const X509_CRL *revocations)
    X509_STACK *sk_X509_new_null()
    int sk_X509_push(X509_STACK *stack, X509 *certificate)
    void sk_X509_free(X509_STACK *stack)
    X509_STORE *X509_STORE_new()
    void X509_STORE_free(X509_STORE *store)
    int X509_STORE_add_crl(X509_STORE *store, X509_CRL *revocations)
    int X509_STORE_add_cert(X509_STORE *store, X509 *certificate)
    int X509_STORE_set_flags(X509_STORE *store, unsigned long flags)
    int X509_VERIFY_PARAM_set1_host(X509_VERIFY_PARAM *param, const char *name, size_t size)
    int X509_VERIFY_PARAM_set1_ip_asc(X509_VERIFY_PARAM *param, const char *address)
    void X509_VERIFY_PARAM_set_hostflags(X509_VERIFY_PARAM *param, unsigned int flags)
    const char *X509_verify_cert_error_string(long code)

cdef extern from "<openssl/pem.h>" nogil:
    enum:
        PEM_R_NO_START_LINE

cdef extern from "<openssl/ocsp.h>" nogil:
    ctypedef struct OCSP_RESPONSE:
        pass
    ctypedef struct OCSP_BASICRESP:
        pass
    ctypedef struct OCSP_SINGLERESP:
        pass
    ctypedef struct OCSP_CERTID:
        pass
    ctypedef struct ASN1_OBJECT:
        pass
    ctypedef struct ASN1_GENERALIZEDTIME:
        pass
    enum:
        OCSP_RESPONSE_STATUS_SUCCESSFUL
        V_OCSP_CERTSTATUS_GOOD
        V_OCSP_CERTSTATUS_REVOKED
    OCSP_RESPONSE *d2i_OCSP_RESPONSE(OCSP_RESPONSE **into, const unsigned char **at, long size)
    void OCSP_RESPONSE_free(OCSP_RESPONSE *response)
    int OCSP_response_status(OCSP_RESPONSE *response)
    OCSP_BASICRESP *OCSP_response_get1_basic(OCSP_RESPONSE *response)
    void OCSP_BASICRESP_free(OCSP_BASICRESP *basic)
    int OCSP_basic_verify(OCSP_BASICRESP *basic, X509_STACK *certificates, X509_STORE *store, unsigned long flags)
    int OCSP_resp_count(OCSP_BASICRESP *basic)
    OCSP_SINGLERESP *OCSP_resp_get0(OCSP_BASICRESP *basic, int index)
    const OCSP_CERTID *OCSP_SINGLERESP_get0_id(const OCSP_SINGLERESP *single)
    int OCSP_single_get0_status(OCSP_SINGLERESP *single, int *reason, ASN1_GENERALIZEDTIME **revoked,
                                ASN1_GENERALIZEDTIME **this_update, ASN1_GENERALIZEDTIME **next_update)
    int OCSP_id_get0_info(void *name_hash, ASN1_OBJECT **kind, void *key_hash, void *serial, OCSP_CERTID *id)
    OCSP_CERTID *OCSP_cert_to_id(const EVP_MD *kind, const X509 *subject, const X509 *issuer)
    int OCSP_id_cmp(const OCSP_CERTID *a, const OCSP_CERTID *b)
    void OCSP_CERTID_free(OCSP_CERTID *id)
    const EVP_MD *EVP_get_digestbyobj(const ASN1_OBJECT *kind)

cdef extern from "<openssl/crypto.h>" nogil:
    void *OPENSSL_memdup(const void *data, size_t size)

cdef extern from "<openssl/pem.h>":
    X509_CRL *PEM_read_bio_X509_CRL(BIO *bio, X509_CRL **into, int (*password)(char *, int, int, void *) noexcept,
                                    void *data)
    X509 *PEM_read_bio_X509(BIO *bio, X509 **into, int (*password)(char *, int, int, void *) noexcept, void *data)
    EVP_PKEY *PEM_read_bio_PrivateKey(BIO *bio, EVP_PKEY **into, int (*password)(char *, int, int, void *) noexcept,
                                      void *data)

cdef extern from "<openssl/ssl.h>" nogil:
    ctypedef struct SSL:
        pass
    ctypedef struct SSL_CTX:
        pass
    ctypedef struct SSL_METHOD:
        pass
    ctypedef struct SSL_SESSION:
        pass
    enum:
        TLS1_2_VERSION
        TLS1_3_VERSION
        TLSEXT_NAMETYPE_host_name
        SSL_TLSEXT_ERR_OK
        SSL_TLSEXT_ERR_ALERT_FATAL
        SSL_TLSEXT_ERR_NOACK
        SSL_ERROR_WANT_READ
        SSL_ERROR_ZERO_RETURN
        SSL_FILETYPE_PEM
        SSL_MODE_RELEASE_BUFFERS
        SSL_R_HTTP_REQUEST
        SSL_SESS_CACHE_OFF
        SSL_SESS_CACHE_CLIENT
        SSL_SESS_CACHE_NO_INTERNAL
        SSL_VERIFY_NONE
        SSL_VERIFY_PEER
        SSL_VERIFY_FAIL_IF_NO_PEER_CERT
    const uint64_t SSL_OP_NO_RENEGOTIATION
    const uint64_t SSL_OP_NO_COMPRESSION
    const uint64_t SSL_OP_NO_TICKET
    const SSL_METHOD *TLS_server_method()
    const SSL_METHOD *TLS_client_method()

    SSL_CTX *SSL_CTX_new(const SSL_METHOD *method)
    void SSL_CTX_free(SSL_CTX *ctx)
    uint64_t SSL_CTX_set_options(SSL_CTX *ctx, uint64_t options)
    long SSL_CTX_set_mode(SSL_CTX *ctx, long mode)
    int SSL_CTX_set_min_proto_version(SSL_CTX *ctx, int version)
    int SSL_CTX_set_cipher_list(SSL_CTX *ctx, const char *list)
    long SSL_CTX_set1_groups_list(SSL_CTX *ctx, const char *list)
    void SSL_CTX_set_read_ahead(SSL_CTX *ctx, int on)
    long SSL_CTX_set_session_cache_mode(SSL_CTX *ctx, long mode)
    long SSL_CTX_set_timeout(SSL_CTX *ctx, long seconds)
    int SSL_CTX_set_num_tickets(SSL_CTX *ctx, size_t count)
    int SSL_CTX_set_max_early_data(SSL_CTX *ctx, uint32_t size)
    int SSL_CTX_set_session_id_context(SSL_CTX *ctx, const unsigned char *name, unsigned int size)
    int SSL_CTX_use_certificate(SSL_CTX *ctx, X509 *certificate)
    int SSL_CTX_use_PrivateKey(SSL_CTX *ctx, EVP_PKEY *key)
    int SSL_CTX_check_private_key(const SSL_CTX *ctx)
    long SSL_CTX_add0_chain_cert(SSL_CTX *ctx, X509 *certificate)
    X509_STORE *SSL_CTX_get_cert_store(const SSL_CTX *ctx)
    int SSL_CTX_add_client_CA(SSL_CTX *ctx, X509 *certificate)
    int SSL_CTX_set_default_verify_paths(SSL_CTX *ctx)
    int SSL_CTX_set_alpn_protos(SSL_CTX *ctx, const unsigned char *protocols, unsigned int size)
    int SSL_CTX_set_ex_data(SSL_CTX *ctx, int index, void *data)
    void *SSL_CTX_get_ex_data(const SSL_CTX *ctx, int index)

    SSL *SSL_new(SSL_CTX *ctx)
    void SSL_free(SSL *ssl)
    void SSL_set_accept_state(SSL *ssl)
    void SSL_set_connect_state(SSL *ssl)
    void SSL_set_bio(SSL *ssl, BIO *source, BIO *sink)
    int SSL_set_ex_data(SSL *ssl, int index, void *data)
    void *SSL_get_ex_data(const SSL *ssl, int index)
    SSL_CTX *SSL_get_SSL_CTX(const SSL *ssl)
    SSL_CTX *SSL_set_SSL_CTX(SSL *ssl, SSL_CTX *ctx)
    int SSL_get_error(const SSL *ssl, int result)
    int SSL_version(const SSL *ssl)
    const char *SSL_get_version(const SSL *ssl)
    const char *SSL_get_cipher_name(const SSL *ssl)
    long SSL_set_tlsext_status_ocsp_resp(SSL *ssl, unsigned char *response, long size)
    int SSL_has_pending(const SSL *ssl)
    int SSL_session_reused(const SSL *ssl)
    const char *SSL_get_servername(const SSL *ssl, int kind)
    long SSL_set_tlsext_host_name(SSL *ssl, const char *name)
    X509_VERIFY_PARAM *SSL_get0_param(SSL *ssl)
    X509 *SSL_get0_peer_certificate(const SSL *ssl)
    long SSL_get_verify_result(const SSL *ssl)
    void SSL_get0_alpn_selected(const SSL *ssl, const unsigned char **name, unsigned int *size)
    int SSL_set_session(SSL *ssl, SSL_SESSION *session)
    int SSL_SESSION_is_resumable(const SSL_SESSION *session)
    void SSL_SESSION_free(SSL_SESSION *session)

cdef extern from "<openssl/ssl.h>":
    void SSL_CTX_set_verify(SSL_CTX *ctx, int mode, void *callback)
    void SSL_CTX_set_alpn_select_cb(
        SSL_CTX *ctx, int (*callback)(SSL *, const unsigned char **, unsigned char *, const unsigned char *,
                                      unsigned int, void *) noexcept, void *data)
    long SSL_CTX_set_tlsext_servername_callback(SSL_CTX *ctx, int (*callback)(SSL *, int *, void *) noexcept)
    int SSL_CTX_set_tlsext_ticket_key_evp_cb(
        SSL_CTX *ctx, int (*callback)(SSL *, unsigned char *, unsigned char *, EVP_CIPHER_CTX *, EVP_MAC_CTX *,
                                      int) noexcept)
    long SSL_CTX_set_tlsext_status_cb(SSL_CTX *ctx, int (*callback)(SSL *, void *) noexcept)
    void SSL_CTX_sess_set_new_cb(SSL_CTX *ctx, int (*callback)(SSL *, SSL_SESSION *) noexcept)
    int SSL_do_handshake(SSL *ssl)
    int SSL_read_ex(SSL *ssl, void *into, size_t size, size_t *got)
    int SSL_write_ex(SSL *ssl, const void *data, size_t size, size_t *taken)
    int SSL_shutdown(SSL *ssl)
