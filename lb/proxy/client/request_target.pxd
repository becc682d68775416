"""The target of an HTTP/1.1 request, in the forms of RFC 9112 section 3.2."""

from lb.http.head cimport Scan

# Bytes of the head from its target on.
cdef size_t head_size(Scan *scan) noexcept
# Brings the target to origin form and finds the host to route by. False: to be refused.
cdef bint request_target(Scan *scan, const char **host, size_t *host_length) noexcept
