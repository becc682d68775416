"""What TLS connections of clients begin from: see context.pxd.

Defaults are Mozilla's "intermediate" (https://wiki.mozilla.org/Security/Server_Side_TLS, version 5.7): TLS 1.2 and 1.3,
forward secrecy and AEAD only, the client's order of ciphers. Its DHE suites are left out: they cost a server ten times
what ECDHE does, and whoever speaks TLS 1.2 has ECDHE. The groups are Mozilla's, too, and X25519MLKEM768 where OpenSSL
has it: OpenSSL's own list lets a client choose P-521, X448 and finite fields, which cost a server many times X25519.
"""

import hashlib
from itertools import zip_longest

from libc.string cimport memcmp, memcpy, strlen
from lb.net.tls.certificate cimport use_authorities, use_pair
from lb.net.tls.openssl cimport (
    EVP_CIPHER_CTX, EVP_MAC_CTX, EVP_MAX_IV_LENGTH, OSSL_MAC_PARAM_DIGEST, OSSL_MAC_PARAM_KEY, OSSL_PARAM, SSL,
    SSL_CTX, SSL_METHOD, SSL_MODE_RELEASE_BUFFERS, SSL_OP_NO_COMPRESSION, SSL_OP_NO_RENEGOTIATION, SSL_OP_NO_TICKET,
    SSL_SESS_CACHE_OFF, SSL_TLSEXT_ERR_ALERT_FATAL, SSL_TLSEXT_ERR_NOACK, SSL_TLSEXT_ERR_OK,
    SSL_VERIFY_FAIL_IF_NO_PEER_CERT, SSL_VERIFY_NONE, SSL_VERIFY_PEER, TLS1_2_VERSION, TLS1_3_VERSION,
    TLSEXT_NAMETYPE_host_name, X509_V_FLAG_PARTIAL_CHAIN, ERR_clear_error, EVP_aes_256_cbc, EVP_DecryptInit_ex,
    EVP_EncryptInit_ex, EVP_MAC_CTX_set_params, OSSL_PARAM_construct_end, OSSL_PARAM_construct_octet_string,
    OSSL_PARAM_construct_utf8_string, RAND_bytes, SSL_CTX_free, SSL_CTX_get_cert_store, SSL_CTX_get_ex_data,
    SSL_CTX_new, SSL_CTX_set1_groups_list, SSL_CTX_set_alpn_select_cb, SSL_CTX_set_cipher_list, SSL_CTX_set_ex_data,
    SSL_CTX_set_max_early_data,
    SSL_CTX_set_min_proto_version, SSL_CTX_set_mode, SSL_CTX_set_num_tickets, SSL_CTX_set_options,
    SSL_CTX_set_read_ahead, SSL_CTX_set_session_cache_mode, SSL_CTX_set_session_id_context, SSL_CTX_set_timeout,
    SSL_CTX_set_tlsext_servername_callback, SSL_CTX_set_tlsext_ticket_key_evp_cb, SSL_CTX_set_verify, SSL_free,
    SSL_get_ex_data, SSL_get_servername, SSL_get_SSL_CTX, SSL_new, SSL_set_accept_state, SSL_set_ex_data,
    SSL_set_SSL_CTX, SSL_version, TLS_server_method, X509_STORE_set_flags, OPENSSL_memdup, SSL_CTX_set_tlsext_status_cb,
    SSL_set_tlsext_status_ocsp_resp, time,
)
from lb.net.tls.pem cimport openssl_error
from lb.net.tls.revocation cimport use_revocations

CIPHERS = (
    b"ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:"
    b"ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"
)

# As OpenSSL 3.5 writes a list that prefers the first group even where that takes the client another round trip; and
# what those before it take.
GROUPS = (b"X25519MLKEM768/X25519:prime256v1/secp384r1", b"X25519:prime256v1:secp384r1")

cdef enum:
    TICKET_NAME = 16
    TICKET_AES = 32
    TICKET_HMAC = 32
    # A ticket is good for 12 hours; the master changes the keys every 8 and two old ones stay (lb.control.tickets).
    SESSION_SECONDS = 12 * 3600
    HOST_MAX = 255

cdef dict VERSIONS = {"tls1.2": TLS1_2_VERSION, "tls1.3": TLS1_3_VERSION}
cdef dict VERIFY = {
    "none": SSL_VERIFY_NONE, "optional": SSL_VERIFY_PEER, "required": SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT,
}


cdef bytes alpn_wire(names):
    """Protocol names as RFC 7301 writes them: each behind its length."""
    wire = b""
    for name in names:
        encoded = name.encode("ascii")
        if not 0 < len(encoded) < 256:
            raise ValueError(f"{name!r} cannot be the name of a protocol")
        wire += bytes((len(encoded),)) + encoded
    return wire


cdef SSL_CTX *new_context(const SSL_METHOD *method, str min_version) except NULL:
    cdef SSL_CTX *ctx = SSL_CTX_new(method)
    if ctx == NULL:
        raise MemoryError
    # A renegotiation costs the server more than the client, and nothing needs one.
    SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION)
    # An idle connection gives its two buffers of 16 KiB back.
    SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS)
    # One recv for what is there, instead of one for a record's head and one for its body.
    SSL_CTX_set_read_ahead(ctx, 1)
    if SSL_CTX_set_min_proto_version(ctx, <int>VERSIONS[min_version]) != 1:
        SSL_CTX_free(ctx)
        raise ValueError(f"min_version: {openssl_error('refused by OpenSSL')}")
    return ctx


# Callbacks: below SSL_do_handshake, with the GIL.

cdef int on_server_name(SSL *ssl, int *alert, void *data) noexcept:
    """The certificate for the name in the ClientHello (RFC 6066 section 3); without a match the first one stays."""
    cdef void *context = SSL_get_ex_data(ssl, 0)
    cdef const char *name = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name)
    cdef Identity found
    cdef size_t n
    if name == NULL or context == NULL:
        return SSL_TLSEXT_ERR_NOACK
    n = strlen(name)
    if n > HOST_MAX:
        return SSL_TLSEXT_ERR_NOACK
    found = (<ServerContext>context).find(name[:n])
    if found is None:
        return SSL_TLSEXT_ERR_NOACK
    if SSL_set_SSL_CTX(ssl, found.ctx) == NULL:
        return SSL_TLSEXT_ERR_ALERT_FATAL
    return SSL_TLSEXT_ERR_OK


cdef int on_alpn(SSL *ssl, const unsigned char **out, unsigned char *out_size, const unsigned char *offered,
                 unsigned int offered_size, void *data) noexcept:
    """Our first protocol that the client offers, too; none in common ends the handshake (RFC 7301 section 3.2)."""
    cdef Identity identity = <Identity>data
    cdef const unsigned char *ours = <const unsigned char *><const char *>identity.alpn
    cdef size_t size = <size_t>len(identity.alpn), i = 0, k
    while i < size:
        k = 0
        while k < offered_size and k + offered[k] < offered_size:
            if offered[k] == ours[i] and memcmp(offered + k + 1, ours + i + 1, ours[i]) == 0:
                out[0] = offered + k + 1
                out_size[0] = offered[k]
                return SSL_TLSEXT_ERR_OK
            k += <size_t>offered[k] + 1
        i += <size_t>ours[i] + 1
    return SSL_TLSEXT_ERR_ALERT_FATAL


cdef int on_status(SSL *ssl, void *data) noexcept:
    """The certificate's OCSP response for a client that asks (RFC 6066 section 8), while it is good."""
    cdef void *found = SSL_CTX_get_ex_data(SSL_get_SSL_CTX(ssl), 0)
    cdef Identity identity
    cdef unsigned char *copy
    if found == NULL:
        return SSL_TLSEXT_ERR_NOACK
    identity = <Identity>found
    if not identity.staple or <long>time(NULL) >= identity.staple_until:
        return SSL_TLSEXT_ERR_NOACK
    copy = <unsigned char *>OPENSSL_memdup(<const char *>identity.staple, <size_t>len(identity.staple))
    if copy == NULL:
        return SSL_TLSEXT_ERR_NOACK
    SSL_set_tlsext_status_ocsp_resp(ssl, copy, <long>len(identity.staple))     # which frees it
    return SSL_TLSEXT_ERR_OK


cdef int on_ticket(SSL *ssl, unsigned char *name, unsigned char *iv, EVP_CIPHER_CTX *cipher, EVP_MAC_CTX *mac,
                   int encrypting) noexcept:
    """Seals or opens a ticket: AES-256-CBC, then HMAC-SHA-256 (RFC 5077 section 4).

    -1 fails the handshake, 0 makes it a full one, 1 resumes, 2 resumes and asks for a new ticket. TLS 1.3 always gets a
    new one: a ticket used twice lets an observer link the two connections (RFC 8446 appendix C.4).
    """
    cdef void *data = SSL_CTX_get_ex_data(SSL_get_SSL_CTX(ssl), 0)
    cdef tuple keys
    cdef bytes key
    cdef unsigned char *part
    cdef OSSL_PARAM params[3]
    cdef Py_ssize_t i
    if data == NULL:
        return -1
    keys = (<Identity>data).tickets.keys
    if encrypting:
        if not keys:
            return 0                      # no ticket then
        i = 0
        key = <bytes>keys[0]
        memcpy(name, <const char *>key, TICKET_NAME)
        if RAND_bytes(iv, EVP_MAX_IV_LENGTH) != 1:
            return -1
    else:
        for i in range(len(keys)):
            key = <bytes>keys[i]
            if memcmp(<const char *>key, name, TICKET_NAME) == 0:
                break
        else:
            return 0
    part = <unsigned char *><char *>key + TICKET_NAME
    if encrypting:
        if EVP_EncryptInit_ex(cipher, EVP_aes_256_cbc(), NULL, part, iv) != 1:
            return -1
    elif EVP_DecryptInit_ex(cipher, EVP_aes_256_cbc(), NULL, part, iv) != 1:
        return -1
    params[0] = OSSL_PARAM_construct_octet_string(OSSL_MAC_PARAM_KEY, part + TICKET_AES, TICKET_HMAC)
    params[1] = OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, b"SHA256", 0)
    params[2] = OSSL_PARAM_construct_end()
    if EVP_MAC_CTX_set_params(mac, params) != 1:
        return -1
    if encrypting or (i == 0 and SSL_version(ssl) != TLS1_3_VERSION):
        return 1
    return 2


cdef class TicketKeys:
    """`keys`: 80 random bytes each, the first seals. None: no tickets. Raises ValueError."""

    def __init__(self, keys: Sequence[bytes] = ()):
        self.update(keys)

    def update(self, keys: Sequence[bytes]) -> None:
        """Take over the master's keys, also for connections under way."""
        made = tuple(bytes(key) for key in keys)
        if any(len(key) != TICKET_NAME + TICKET_AES + TICKET_HMAC for key in made):
            raise ValueError("a ticket key has 80 bytes")
        self.keys = made

    def __repr__(self):
        return f"<TicketKeys {len(self.keys)}>"


cdef class Identity:

    def __dealloc__(self):
        SSL_CTX_free(self.ctx)            # which takes NULL; connections hold references of their own


cdef class ServerContext:
    """What a listener's connections begin from. Raises ValueError.

    `certificates`: (chain, key, names) each, in PEM; the first serves clients that name none of the others. `name`
    parts sessions: one is resumed only where the same name was given, with the same `client_auth`, `client_ca` and
    `crl`. `crl` (PEM) names clients' certificates that are not taken any more. `staples`: OCSP responses (DER) and
    until when they are good (Unix seconds), in the order of the certificates; b"" for none.
    What `previous` has and has not changed is taken from there: of a thousand certificates one is renewed at a time.
    """

    def __init__(
        self, certificates: Sequence[tuple[bytes, bytes, Sequence[str]]], TicketKeys tickets not None, *,
        name: str = "", min_version: str = "tls1.2", ciphers: str = "", alpn: Sequence[str] = (),
        client_auth: str = "none", client_ca: bytes = b"", crl: bytes = b"",
        staples: Sequence[tuple[bytes, int]] = (), ServerContext previous=None
    ):
        cdef Identity identity
        self.exact = {}
        self.wildcard = {}
        self.made = {}
        self.client_auth = client_auth != "none"
        identities = []
        settings = (name, min_version, ciphers, tuple(alpn), client_auth, client_ca, crl, bool(tickets.keys))
        # A session that was made without a client's certificate must not get in where one is needed.
        # Nor one of a client whose certificate has been revoked since.
        scope = hashlib.sha256(b"\0".join((name.encode(), client_auth.encode(), client_ca, crl))).digest()
        for (chain, key, names), staple in zip_longest(certificates, staples, fillvalue=(b"", 0)):
            identity = None
            if previous is not None:
                identity = previous.made.get((chain, key, settings, staple))
            if identity is None or identity.tickets is not tickets:
                identity = self.make(chain, key, min_version, ciphers)
                identity.tickets = tickets
                identity.staple, identity.staple_until = staple
                identity.alpn = alpn_wire(alpn)
                self.prepare(identity, scope, VERIFY[client_auth], client_ca, crl)
            self.made[(chain, key, settings, staple)] = identity
            identities.append(identity)
            for one in names:
                one = one.lower().encode("ascii")
                if one.startswith(b"*."):
                    self.wildcard.setdefault(one[2:], identity)
                else:
                    self.exact.setdefault(one, identity)
        if not identities:
            raise ValueError("at least one certificate is needed")
        self.identities = tuple(identities)

    def make(self, bytes chain, bytes key, str min_version, str ciphers):
        cdef Identity identity = Identity.__new__(Identity)
        cdef bytes wanted = ciphers.encode("ascii") if ciphers else CIPHERS
        identity.ctx = new_context(TLS_server_method(), min_version)
        if SSL_CTX_set_cipher_list(identity.ctx, wanted) != 1:
            raise ValueError(f"ciphers: {openssl_error('refused by OpenSSL')}")
        for groups in GROUPS:
            if SSL_CTX_set1_groups_list(identity.ctx, <bytes>groups) == 1:
                break
        else:
            raise ValueError(openssl_error("the groups were refused"))
        ERR_clear_error()
        use_pair(identity.ctx, chain, key)
        return identity

    def prepare(self, Identity identity, bytes scope, int verify, bytes client_ca, bytes crl):
        cdef SSL_CTX *ctx = identity.ctx
        # Callbacks find it here; it lives as long as a ServerContext that has it, and every connection holds its own.
        if SSL_CTX_set_ex_data(ctx, 0, <void *>identity) != 1:
            raise MemoryError
        # Sessions live in tickets alone, which any worker can open.
        SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF)
        SSL_CTX_set_timeout(ctx, SESSION_SECONDS)
        SSL_CTX_set_num_tickets(ctx, 1)
        # Early data can be replayed by anybody who saw it (RFC 8446 section 8): off.
        SSL_CTX_set_max_early_data(ctx, 0)
        if SSL_CTX_set_session_id_context(
                ctx, <const unsigned char *><const char *>scope, <unsigned int>len(scope)) != 1:
            raise ValueError(openssl_error("the session context was refused"))
        if not identity.tickets.keys:
            SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET)
            SSL_CTX_set_num_tickets(ctx, 0)
        elif SSL_CTX_set_tlsext_ticket_key_evp_cb(ctx, on_ticket) != 1:
            raise ValueError(openssl_error("tickets were refused"))
        SSL_CTX_set_verify(ctx, verify, NULL)
        if verify != SSL_VERIFY_NONE:
            X509_STORE_set_flags(SSL_CTX_get_cert_store(ctx), X509_V_FLAG_PARTIAL_CHAIN)
            use_authorities(ctx, client_ca, True)
            if crl:
                use_revocations(ctx, crl)
        if identity.staple and SSL_CTX_set_tlsext_status_cb(ctx, on_status) != 1:
            raise ValueError(openssl_error("stapling was refused"))
        if identity.alpn:
            SSL_CTX_set_alpn_select_cb(ctx, on_alpn, <void *>identity)
        SSL_CTX_set_tlsext_servername_callback(ctx, on_server_name)

    cdef Identity find(self, bytes name):
        """The certificate for `name`; None: no certificate is for it."""
        cdef bytes lower = name.lower().rstrip(b".")
        found = self.exact.get(lower)
        if found is None and self.wildcard:
            # One label, as certificates mean it (RFC 9525 section 6.3).
            found = self.wildcard.get(lower.partition(b".")[2])
        return <Identity>found

    cdef SSL *new_ssl(self) noexcept:
        cdef SSL *ssl
        ERR_clear_error()
        ssl = SSL_new((<Identity>self.identities[0]).ctx)
        if ssl == NULL:
            return NULL
        if SSL_set_ex_data(ssl, 0, <void *>self) != 1:
            SSL_free(ssl)
            return NULL
        SSL_set_accept_state(ssl)
        return ssl

    def stats(self) -> dict[str, int]:
        """Counts for status and tests."""
        return {"certificates": len(self.identities), "names": len(self.exact) + len(self.wildcard)}


def check_ciphers(str ciphers not None) -> None:
    """Raises ValueError when `ciphers` names no cipher suite of TLS 1.2."""
    cdef SSL_CTX *ctx = new_context(TLS_server_method(), "tls1.2")
    wanted = ciphers.encode("ascii", "replace")
    taken = SSL_CTX_set_cipher_list(ctx, <bytes>wanted) == 1
    SSL_CTX_free(ctx)
    if not taken:
        ERR_clear_error()
        raise ValueError(f"{ciphers!r} names no cipher suite that OpenSSL knows")
