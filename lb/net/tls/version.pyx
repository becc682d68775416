"""The version of TLS of a connection: see version.pxd."""

from lb.net.tls.openssl cimport SSL_version
from lb.net.tls.session cimport Tls


cdef int tls_version(Tls tls) noexcept:
    return SSL_version(tls.ssl)
