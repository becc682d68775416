"""The PROXY protocol towards an endpoint: the header that tells it who the client is."""

from lb.net.buffer cimport tg_buffer
from lb.net.stream cimport Stream
from lb.proxy.accept.first_bytes cimport FirstBytes
from lb.upstream.pool cimport Pool


# Appends the header that the endpoints of `pool` expect. `client` is the client's connection, behind its TLS handshake;
# `first_bytes` what the connection began with, or None. 0, or -1 (no memory, or the socket is gone).
cdef int write_proxy_header(tg_buffer *out, Pool pool, Stream client, FirstBytes first_bytes) noexcept
