"""The fields of a request that goes on over HTTP/2: what the client sent, and what this hop adds."""

from lb.core.head cimport Scan
from lb.proxy.forward_http2 cimport Http2Exchange


# Into the call's block, without :scheme and grpc-timeout, which are known when the stream is opened. 0, or not 0 (no
# memory).
cdef int request_fields(Http2Exchange exchange, Scan *scan) noexcept
