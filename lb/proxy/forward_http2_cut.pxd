"""gRPC answers that break off."""

from lb.proxy.forward_http2 cimport Http2Exchange


# Ends an answer that has begun by a gRPC status, for what would be the HTTP `status`: a stream that is reset says
# INTERNAL, whatever the reason was (gRPC over HTTP2, "Errors").
cdef void end_in_trailers(Http2Exchange exchange, int status, const char *reason, str message) noexcept
