"""Requests whose bodies are decompressed on their way to the endpoint."""

from libc.stdint cimport uint64_t
from lb.http.head cimport Scan
from lb.net.buffer cimport tg_buffer
from lb.proxy.client.relay cimport Relay
from lb.proxy.exchange.exchange cimport BodySource, Exchange
from lb.proxy.routing.decompression cimport DecompressionRules


cdef class RequestDecoder(Relay):
    """Between the client and the exchange: keeps what was not decoded yet, and decodes it in pieces, as fast as the
    endpoint takes them and with the turns of others in between."""
    cdef DecompressionRules rules
    cdef object decoder               # of lb.http.decoders
    cdef tg_buffer rest               # bytes that were not decoded yet
    cdef bint ending                  # they are the last
    cdef bint blocked                 # the attempt takes no more for now
    cdef uint64_t taken               # bytes that were put into the decoder
    cdef uint64_t given               # bytes that came out

    # Decodes up to a turn's bytes, and tells the client to go on or to wait.
    cdef void go(self, Exchange exchange) noexcept
    # What comes out next goes to the attempt. False: nothing does for now.
    cdef bint decode(self, Exchange exchange) except -1
    cdef void fail_body(self, Exchange exchange, int kind, str why) noexcept


cdef class DecodedBody(BodySource):
    cdef RequestDecoder decoder


# A request is about to ask an endpoint: its body is decoded, if its coding is one that the route decodes. False: the
# exchange has failed.
cdef bint decode_request(Exchange exchange, Scan *scan) noexcept
