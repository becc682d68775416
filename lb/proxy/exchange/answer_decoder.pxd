"""Answers that are decompressed on their way to clients that do not take their coding."""

from libc.stdint cimport uint64_t
from lb.http.codings cimport tg_accepted
from lb.http.head cimport Scan
from lb.net.buffer cimport tg_buffer
from lb.proxy.client.relay cimport Relay
from lb.proxy.exchange.exchange cimport Exchange
from lb.proxy.routing.decompression cimport DecompressionRules


cdef class AnswerDecoder(Relay):
    """Between an exchange, or its cache, and the client, or its compressor. What comes is decoded in pieces, with the
    turns of others in between; a client that is slow holds its endpoint back."""
    cdef DecompressionRules rules
    cdef tg_accepted accepted         # what the client says
    cdef bint headless                # the answer has no body: it is to a HEAD
    cdef bint weak                    # the client has an answer with a weak ETag
    cdef object decoder               # of lb.http.decoders; None: the answer passes as it is
    cdef tg_buffer rest               # bytes that were not decoded yet
    cdef bint ending                  # the answer is complete; it ends when `rest` is empty
    cdef uint64_t taken               # bytes that were put into the decoder
    cdef uint64_t given               # bytes that came out

    # Whether the answer's coding is one that is decoded, and that the client does not take.
    cdef bint is_wanted(self, const Scan *scan) noexcept
    cdef bint change_head(self, Scan *scan) noexcept
    # Decodes up to a turn's bytes, and ends the answer behind the last of them.
    cdef void go(self) noexcept
    cdef bint has_more(self)
    # What comes out next goes to the client. False: nothing does for now.
    cdef bint decode(self) except -1
    # The answer is damaged, too large or cannot be decoded: the client is cut off, as nobody can tell it otherwise.
    cdef void fail(self, int kind, str why) noexcept


# A request is about to ask an endpoint, or a cache: its answer may be decoded.
cdef void decode_answer(Exchange exchange, const Scan *scan) noexcept
