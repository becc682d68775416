"""What a header of the PROXY protocol says of the client's TLS (2.2.1, 2.2.2 and 2.2.6)."""

from lb.net.buffer cimport tg_buffer
from lb.net.tls.openssl cimport SSL
from lb.net.proxy_header cimport tg_tlvs


# Sets the fields of a client that has finished its handshake with us: SSL, and authority and ALPN where it has named
# one. They point into `ssl` and into `room`, which is empty before. 0, or -1 without memory.
cdef int proxy_tls(SSL *ssl, tg_buffer *room, tg_tlvs *tlvs) noexcept nogil
