"""The version of TLS of a connection: see tls_version.pxd."""

from lb.core.openssl cimport SSL_version
from lb.core.tls cimport Tls


cdef int tls_version(Tls tls) noexcept:
    return SSL_version(tls.ssl)
