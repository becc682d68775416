"""What TLS connections to endpoints begin from: trust and identity for a pool, name and session for an endpoint."""

from lb.net.tls.openssl cimport SSL, SSL_CTX, SSL_SESSION


cdef class ClientContext:
    cdef SSL_CTX *ctx
    cdef readonly bint verify
    cdef readonly str server_name


cdef class Peer:
    """TLS to one endpoint: the name it must prove, and the session to resume with it."""
    cdef readonly ClientContext context
    cdef readonly str name            # host name or IP address that is checked; "" with verification off
    cdef str label                    # of the endpoint, for the log
    cdef bytes server_name            # sent as SNI; empty: none
    cdef bint by_address
    cdef SSL_SESSION *session
    cdef str reported                 # the failure that was logged last
    cdef unsigned long long quiet_until

    # A new client side without a BIO; NULL: no memory.
    cdef SSL *new_ssl(self) noexcept
    # Log what went wrong with TLS: one reason once a minute.
    cdef void report(self, str reason, unsigned long long now) noexcept
