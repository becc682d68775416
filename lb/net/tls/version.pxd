"""The version of TLS that two parties have agreed on."""

from lb.net.tls.session cimport Tls


# As on the wire: 0x0303 = TLS 1.2, 0x0304 = TLS 1.3.
cdef int tls_version(Tls tls) noexcept
