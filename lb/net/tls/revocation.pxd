"""What authorities have taken back: revocation lists (CRLs, RFC 5280), and OCSP responses to staple (RFC 6960)."""

from lb.net.tls.openssl cimport SSL_CTX


# Certificates that the lists in `pem` name are refused, and those of authorities without a list that is still good.
# Raises ValueError.
cdef int use_revocations(SSL_CTX *ctx, bytes pem) except -1
