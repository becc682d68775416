"""gRPC-Web in front of an endpoint that speaks gRPC (grpc/grpc: doc/PROTOCOL-WEB.md).

Messages are framed alike on both sides. What differs is the content type, base64 in the text form, and the trailers,
which browsers do not show to pages: they follow in the body as one more frame.
"""

from lb.net.buffer cimport tg_buffer
from lb.http.head cimport Scan
from lb.net.stream cimport iovec
from lb.proxy.exchange.exchange cimport Exchange
from lb.http.grpc.web cimport tg_web_decoder


cdef class WebCodec:
    cdef bint text                    # both bodies are in base64
    cdef tg_web_decoder decoder
    cdef tg_buffer piece              # a piece of a body in its other form
    cdef tg_buffer type               # a content type in its other form

    # The request's head, as the endpoint gets it. 0, or -1: out of memory.
    cdef int rewrite_request(self, Scan *scan) noexcept
    # A piece of a text request, which is in `piece` then. False: the exchange has failed.
    cdef bint decode(self, Exchange exchange, const iovec *spans, int count, bint last) noexcept
    # The answer's head, as the client gets it. False: the exchange has failed.
    cdef bint rewrite_answer(self, Exchange exchange, Scan *scan, bint last) noexcept
    # A piece of a text answer, which `part` points to then. False: the exchange has failed.
    cdef bint encode(self, Exchange exchange, iovec *part) noexcept
    # The scan's trailers, as a frame of the answer's body.
    cdef void send_trailers(self, Exchange exchange, Scan *scan) noexcept

    # Puts `prefix` and what the type of the scan has behind `known` bytes into the scan. 0 or -1.
    cdef int retype(self, Scan *scan, const char *prefix, size_t known) noexcept


# What a request's content type names: WEB_NONE and its like.
cdef int web_kind_of(Scan *scan) noexcept
