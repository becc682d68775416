"""An exchange of a gRPC-Web client with a pool that speaks gRPC (grpc/grpc: doc/PROTOCOL-WEB.md)."""

from lb.net.buffer cimport tg_buffer
from lb.http.head cimport Scan
from lb.proxy.exchange.forward_http2 cimport Http2Exchange
from lb.http.grpc.web cimport tg_web_decoder


cdef class WebExchange(Http2Exchange):
    cdef tg_web_decoder decoder
    cdef tg_buffer piece              # a piece of a body in its other form
    cdef tg_buffer type               # a content type in its other form

    # Puts `prefix` and what the type of the scan has behind `known` bytes into the scan. 0 or -1.
    cdef bint text(self) noexcept
    cdef int retype(self, Scan *scan, const char *prefix, size_t known) noexcept


# What a request's content type names: WEB_NONE and its like.
cdef int web_kind_of(Scan *scan) noexcept
