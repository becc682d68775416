"""TLS to endpoints: see peer.pxd."""

import ipaddress
import logging

from lb.net.tls.certificate cimport use_authorities, use_pair
from lb.net.tls.openssl cimport (
    SSL, SSL_SESS_CACHE_CLIENT, SSL_SESS_CACHE_NO_INTERNAL, SSL_SESSION, SSL_VERIFY_NONE, SSL_VERIFY_PEER,
    X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS, X509_V_FLAG_PARTIAL_CHAIN, X509_VERIFY_PARAM, ERR_clear_error, SSL_CTX_free,
    SSL_CTX_get_cert_store, SSL_CTX_sess_set_new_cb, SSL_CTX_set_alpn_protos, SSL_CTX_set_default_verify_paths,
    SSL_CTX_set_session_cache_mode, SSL_CTX_set_verify, SSL_free, SSL_get0_param, SSL_get_ex_data, SSL_new,
    SSL_SESSION_free, SSL_SESSION_is_resumable, SSL_set_connect_state, SSL_set_ex_data, SSL_set_session,
    SSL_set_tlsext_host_name, TLS_client_method, X509_STORE_set_flags, X509_VERIFY_PARAM_set1_host,
    X509_VERIFY_PARAM_set1_ip_asc, X509_VERIFY_PARAM_set_hostflags,
)
from lb.net.tls.pem cimport openssl_error
from lb.net.tls.revocation cimport use_revocations
from lb.net.tls.context cimport alpn_wire, new_context

log = logging.getLogger("tidegate.tls")

cdef enum:
    QUIET_NS = 60_000_000_000


cdef int on_new_session(SSL *ssl, SSL_SESSION *session) noexcept:
    """An endpoint gave a session: the newest is kept. 1: the reference is ours now."""
    cdef void *data = SSL_get_ex_data(ssl, 0)
    cdef Peer peer
    if data == NULL or not SSL_SESSION_is_resumable(session):
        return 0
    peer = <Peer>data
    if peer.session != NULL:
        SSL_SESSION_free(peer.session)
    peer.session = session
    return 1


cdef class ClientContext:
    """Trust and identity towards a pool. Raises ValueError.

    `ca`: who is trusted (PEM); empty: the system's authorities. `crl`: which of their certificates are not (PEM).
    `server_name` is checked and sent for every endpoint; empty: each endpoint's own name. `verify=False` takes any
    certificate: the connection is then private against listeners only, not against those in the middle.
    """

    def __init__(self, *, bytes ca=b"", bytes crl=b"", bytes certificate=b"", bytes key=b"", str server_name="",
                 min_version="tls1.2", alpn=(), verify=True):
        cdef bytes wire = alpn_wire(alpn)
        self.verify = verify
        self.server_name = server_name
        self.ctx = new_context(TLS_client_method(), min_version)
        # The newest session of each endpoint is kept by its Peer.
        SSL_CTX_set_session_cache_mode(self.ctx, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL)
        SSL_CTX_sess_set_new_cb(self.ctx, on_new_session)
        if verify:
            SSL_CTX_set_verify(self.ctx, SSL_VERIFY_PEER, NULL)
            if ca:
                # Whoever stands in the file is trusted, root or not.
                X509_STORE_set_flags(SSL_CTX_get_cert_store(self.ctx), X509_V_FLAG_PARTIAL_CHAIN)
                use_authorities(self.ctx, ca, False)
            elif SSL_CTX_set_default_verify_paths(self.ctx) != 1:
                raise ValueError(f"the system's authorities: {openssl_error('cannot be read')}")
            if crl:
                use_revocations(self.ctx, crl)
        else:
            SSL_CTX_set_verify(self.ctx, SSL_VERIFY_NONE, NULL)
        if certificate:
            use_pair(self.ctx, certificate, key)
        # 0 is success here, unlike everywhere else.
        if wire and SSL_CTX_set_alpn_protos(
                self.ctx, <const unsigned char *><const char *>wire, <unsigned int>len(wire)):
            raise ValueError("alpn: refused by OpenSSL")

    def __dealloc__(self):
        SSL_CTX_free(self.ctx)


cdef class Peer:
    """TLS to one endpoint that must prove to be `name`: a host name or an IP address. `label` names it in the log.

    The context's own `server_name` goes before it. Raises ValueError when there is nothing to check against.
    """

    def __init__(self, ClientContext context not None, str name, str label=""):
        self.context = context
        self.label = label or name
        self.name = context.server_name or name
        self.reported = ""
        try:
            ipaddress.ip_address(self.name)
        except ValueError:
            self.by_address = False
        else:
            self.by_address = True        # which is never sent: RFC 6066 section 3
        self.server_name = b"" if self.by_address else self.name.encode("ascii")
        if context.verify and not self.name:
            raise ValueError("an endpoint that has no host name or address needs server_name, to be checked against")

    def __dealloc__(self):
        if self.session != NULL:
            SSL_SESSION_free(self.session)

    def __repr__(self):
        return f"<Peer {self.name}>"

    cdef SSL *new_ssl(self) noexcept:
        cdef SSL *ssl
        cdef X509_VERIFY_PARAM *param
        cdef bytes address
        cdef int ok = 1
        ERR_clear_error()
        ssl = SSL_new(self.context.ctx)
        if ssl == NULL:
            return NULL
        if self.server_name:
            ok = SSL_set_tlsext_host_name(ssl, self.server_name) == 1
        if ok and self.context.verify:
            param = SSL_get0_param(ssl)
            if self.by_address:
                address = self.name.encode()
                ok = X509_VERIFY_PARAM_set1_ip_asc(param, address) == 1
            else:
                X509_VERIFY_PARAM_set_hostflags(param, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS)
                ok = X509_VERIFY_PARAM_set1_host(param, self.server_name, <size_t>len(self.server_name)) == 1
        if ok:
            ok = SSL_set_ex_data(ssl, 0, <void *>self) == 1
        if not ok:                        # without its checks it must not be used
            SSL_free(ssl)
            return NULL
        if self.session != NULL:
            SSL_set_session(ssl, self.session)     # a session that does not fit only costs a full handshake
        SSL_set_connect_state(ssl)
        return ssl

    cdef void report(self, str reason, unsigned long long now) noexcept:
        if reason == self.reported and now < self.quiet_until:
            return
        self.reported = reason
        self.quiet_until = now + QUIET_NS
        log.warning("%s: TLS: %s", self.label, reason)
