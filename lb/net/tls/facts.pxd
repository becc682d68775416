"""What a TLS connection of a client has agreed on, as text."""

from lb.net.tls.session cimport Tls


# The version as OpenSSL names it: TLSv1.2, TLSv1.3.
cdef const char *version_text(Tls tls) noexcept
# The cipher suite, as OpenSSL names it.
cdef const char *cipher_text(Tls tls) noexcept
# The name that the client asked for (RFC 6066 section 3); NULL = none.
cdef const char *server_name(Tls tls) noexcept
# The protocol of ALPN (RFC 7301), of `n` bytes; NULL = none was agreed on.
cdef const char *alpn_text(Tls tls, size_t *n) noexcept
