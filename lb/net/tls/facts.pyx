"""What a TLS connection of a client has agreed on, as text: see facts.pxd."""

from lb.net.tls.openssl cimport (
    SSL_get0_alpn_selected, SSL_get_cipher_name, SSL_get_servername, SSL_get_version, TLSEXT_NAMETYPE_host_name,
)
from lb.net.tls.session cimport Tls


cdef const char *version_text(Tls tls) noexcept:
    return SSL_get_version(tls.ssl)


cdef const char *cipher_text(Tls tls) noexcept:
    return SSL_get_cipher_name(tls.ssl)


cdef const char *server_name(Tls tls) noexcept:
    return SSL_get_servername(tls.ssl, TLSEXT_NAMETYPE_host_name)


cdef const char *alpn_text(Tls tls, size_t *n) noexcept:
    cdef const unsigned char *name = NULL
    cdef unsigned int size = 0
    SSL_get0_alpn_selected(tls.ssl, &name, &size)
    n[0] = size
    return <const char *>name if size else NULL
