"""Revocation lists and OCSP responses: see revocation.pxd.

As with certificates, the master checks with this module what it sends to workers, and workers load with it.
"""

from libc.limits cimport INT_MAX
from lb.net.tls.certificate cimport unix_time
from lb.net.tls.openssl cimport (
    ASN1_GENERALIZEDTIME, ASN1_OBJECT, ASN1_TIME, EVP_MD, OCSP_BASICRESP, OCSP_CERTID, OCSP_RESPONSE,
    OCSP_RESPONSE_STATUS_SUCCESSFUL, OCSP_SINGLERESP, SSL_CTX, V_OCSP_CERTSTATUS_GOOD, V_OCSP_CERTSTATUS_REVOKED, X509,
    X509_CRL, X509_STACK, X509_STORE, X509_V_FLAG_CRL_CHECK, X509_V_FLAG_CRL_CHECK_ALL, X509_V_FLAG_PARTIAL_CHAIN,
    X509_V_OK, ERR_clear_error, EVP_get_digestbyobj, OCSP_BASICRESP_free, OCSP_basic_verify, OCSP_cert_to_id,
    OCSP_CERTID_free, OCSP_id_cmp, OCSP_id_get0_info, OCSP_resp_count, OCSP_resp_get0, OCSP_response_get1_basic,
    OCSP_response_status, OCSP_RESPONSE_free, OCSP_single_get0_status, OCSP_SINGLERESP_get0_id, SSL_CTX_get_cert_store,
    X509_check_issued, X509_CRL_free, X509_CRL_get0_nextUpdate, X509_free, X509_STORE_add_cert, X509_STORE_add_crl,
    X509_STORE_free, X509_STORE_new, X509_STORE_set_flags, d2i_OCSP_RESPONSE, sk_X509_free, sk_X509_new_null,
    sk_X509_push, time,
)
from lb.net.tls.pem cimport PemReader, openssl_error, read_pem

cdef long FOREVER = <long>1 << 62     # where nothing says when the next one comes


cdef int use_revocations(SSL_CTX *ctx, bytes pem) except -1:
    cdef PemReader reader = read_pem(pem)
    cdef X509_STORE *store = SSL_CTX_get_cert_store(ctx)
    cdef X509_CRL *revocations
    while True:
        revocations = reader.revocations()
        if revocations == NULL:
            break
        taken = X509_STORE_add_crl(store, revocations) == 1      # which counts a reference of its own
        X509_CRL_free(revocations)
        if not taken:
            raise ValueError(f"a revocation list cannot be used: {openssl_error('refused by OpenSSL')}")
    if not reader.found:
        raise ValueError("holds no revocation list in PEM")
    if X509_STORE_set_flags(store, X509_V_FLAG_CRL_CHECK | X509_V_FLAG_CRL_CHECK_ALL) != 1:
        raise ValueError(openssl_error("revocation lists were refused"))
    return 0


def revocations_until(bytes pem not None) -> int:
    """When the first of the lists in `pem` is due for a newer one, in Unix seconds. Raises ValueError where there is
    none, or a broken one."""
    cdef PemReader reader = read_pem(pem)
    cdef X509_CRL *revocations
    cdef const ASN1_TIME *due
    cdef long until = FOREVER
    while True:
        revocations = reader.revocations()
        if revocations == NULL:
            break
        due = X509_CRL_get0_nextUpdate(revocations)
        if due != NULL:
            until = min(until, unix_time(due))
        X509_CRL_free(revocations)
    if not reader.found:
        raise ValueError("holds no revocation list in PEM")
    return until


cdef int verify_signature(OCSP_BASICRESP *basic, X509 *issuer) except -1:
    """By the issuer, or by whom it has charged with it."""
    cdef X509_STORE *store = X509_STORE_new()
    cdef X509_STACK *stack = sk_X509_new_null()
    cdef bint good = False
    if store != NULL and stack != NULL and X509_STORE_add_cert(store, issuer) == 1 and sk_X509_push(stack, issuer) > 0:
        X509_STORE_set_flags(store, X509_V_FLAG_PARTIAL_CHAIN)
        good = OCSP_basic_verify(basic, stack, store, 0) == 1
    sk_X509_free(stack)                   # the stack alone; both take NULL
    X509_STORE_free(store)
    if not good:
        raise ValueError(f"is not signed for the certificate's issuer: {openssl_error('the signature is wrong')}")
    return 0


cdef OCSP_SINGLERESP *find_response(OCSP_BASICRESP *basic, X509 *certificate, X509 *issuer) noexcept:
    cdef OCSP_SINGLERESP *single
    cdef OCSP_CERTID *known
    cdef OCSP_CERTID *wanted
    cdef ASN1_OBJECT *kind
    cdef const EVP_MD *digest
    cdef int i
    for i in range(OCSP_resp_count(basic)):
        single = OCSP_resp_get0(basic, i)
        known = <OCSP_CERTID *>OCSP_SINGLERESP_get0_id(single)
        kind = NULL
        if OCSP_id_get0_info(NULL, &kind, NULL, NULL, known) != 1:
            continue
        digest = EVP_get_digestbyobj(kind)
        if digest == NULL:
            continue
        wanted = OCSP_cert_to_id(digest, certificate, issuer)
        if wanted == NULL:
            continue
        same = OCSP_id_cmp(known, wanted) == 0
        OCSP_CERTID_free(wanted)
        if same:
            return single
    return NULL


cdef long check_response(OCSP_BASICRESP *basic, X509 *certificate, X509 *issuer) except -1:
    cdef OCSP_SINGLERESP *single
    cdef ASN1_GENERALIZEDTIME *begin = NULL
    cdef ASN1_GENERALIZEDTIME *end = NULL
    cdef int status
    verify_signature(basic, issuer)
    single = find_response(basic, certificate, issuer)
    if single == NULL:
        raise ValueError("is about another certificate")
    status = OCSP_single_get0_status(single, NULL, NULL, &begin, &end)
    if status == V_OCSP_CERTSTATUS_REVOKED:
        raise ValueError("says that the certificate is revoked")
    if status != V_OCSP_CERTSTATUS_GOOD:
        raise ValueError("says that the certificate is not known")
    if begin == NULL or unix_time(<const ASN1_TIME *>begin) > <long>time(NULL) + 300:
        raise ValueError("is not valid yet")
    return FOREVER if end == NULL else unix_time(<const ASN1_TIME *>end)


def staple_until(bytes der not None, bytes chain not None) -> int:
    """Until when the OCSP response `der` is good for the first certificate in `chain`, in Unix seconds, which may be
    past. Raises ValueError where it is not about that certificate, not signed for its issuer, or says anything but that
    it is good. The issuer has to stand second in `chain`."""
    cdef const unsigned char *at = <const unsigned char *><const char *>der
    cdef PemReader reader = read_pem(chain)
    cdef X509 *certificate = NULL
    cdef X509 *issuer = NULL
    cdef OCSP_RESPONSE *response = NULL
    cdef OCSP_BASICRESP *basic = NULL
    try:
        certificate = reader.certificate()
        if certificate == NULL:
            raise ValueError("is for a file that holds no certificate")
        issuer = reader.certificate()
        if issuer == NULL or X509_check_issued(issuer, certificate) != X509_V_OK:
            raise ValueError("cannot be checked: the issuer's certificate has to stand behind the certificate")
        if len(der) > INT_MAX:
            raise ValueError("is too large")
        response = d2i_OCSP_RESPONSE(NULL, &at, <long>len(der))
        if response == NULL:
            raise ValueError("holds no OCSP response in DER")
        if OCSP_response_status(response) != OCSP_RESPONSE_STATUS_SUCCESSFUL:
            raise ValueError("is the responder's error, not an answer")
        basic = OCSP_response_get1_basic(response)
        if basic == NULL:
            raise ValueError("holds no basic OCSP response")
        return check_response(basic, certificate, issuer)
    finally:
        ERR_clear_error()
        OCSP_BASICRESP_free(basic)        # all of these take NULL
        OCSP_RESPONSE_free(response)
        X509_free(issuer)
        X509_free(certificate)
