"""What TLS connections of clients begin from: certificates by server name.

Made once per plan from what the master read; connections hold what they began with, so a reload disturbs none.
"""

from lb.net.tls.openssl cimport SSL, SSL_CTX, SSL_METHOD


cdef enum:
    ALPN_NONE = 0                     # nothing was agreed on
    ALPN_HTTP1
    ALPN_H2
    ALPN_OTHER


cdef class TicketKeys:
    """The keys of session tickets (RFC 5077, RFC 8446 4.6.1), newest first; the same in every worker."""
    cdef tuple keys                   # of bytes: name (16), AES key (32), HMAC key (32)


cdef class Identity:
    """One certificate with its key, ready to serve."""
    cdef SSL_CTX *ctx
    cdef TicketKeys tickets
    cdef bytes staple                 # an OCSP response in DER; b"" = none
    cdef long staple_until            # Unix seconds
    cdef bytes alpn                   # what is offered, in wire format and our order of preference; empty: any or none


cdef class ServerContext:
    cdef readonly tuple identities
    cdef dict exact                   # name in lower case -> Identity
    cdef dict wildcard                # "example.org" for "*.example.org" -> Identity
    cdef dict made                    # everything an Identity is made of -> Identity
    cdef readonly bint client_auth

    cdef Identity find(self, bytes name)
    # A new server side without a BIO; NULL: no memory.
    cdef SSL *new_ssl(self) noexcept


# Protocol names as RFC 7301 writes them: each behind its length. Raises ValueError.
cdef bytes alpn_wire(names)
# With what is common to both sides. Raises ValueError.
cdef SSL_CTX *new_context(const SSL_METHOD *method, str min_version) except NULL
