"""The authority of a request (RFC 3986 section 3.2, RFC 9110 section 4.2.1): a host, and perhaps a port."""

# Whether it is one; then *host_length is that of the host, without the port. A host is a name, an IPv4 address, or an
# IPv6 (or later) address in brackets; a port is a number up to 65535, or nothing behind its colon. Refused are user
# information, which HTTP has not, and percent-encoding, which no name of the DNS has and one server would decode where
# another compares. The empty text is one: HTTP/1.1 has an empty Host where the target has no authority.
cdef bint read_authority(const char *text, size_t n, size_t *host_length) noexcept nogil
