"""Answers that are compressed on their way to the client."""

from lb.http.head cimport Field, Scan
from lb.net.buffer cimport tg_buffer
from lb.proxy.client.relay cimport Relay
from lb.proxy.exchange.exchange cimport Exchange
from lb.proxy.routing.compression cimport CompressionRules


cdef class Compressor(Relay):
    """Between an exchange, or its cache, and the client. What comes is compressed in pieces, with the turns of others
    in between; what an encoder holds back goes out when the endpoint pauses."""
    cdef CompressionRules rules
    cdef int coding                   # index of the rules' codings; -1 = the client wants none of them
    cdef object encoder               # of lb.http.encoders; None: the answer passes as it is
    cdef tg_buffer rest               # bytes that were not compressed yet
    cdef bint weak                    # the client has an answer with a weak ETag
    cdef bint streams                 # the answer's length is not known: it may pause at any time
    cdef bint holding                 # the encoder may hold something back
    cdef bint ending                  # the answer is complete; it ends when `rest` is empty

    # Compresses up to a piece, `size` bytes at most, and passes it on. False: the answer was cut off.
    cdef bint put(self, const char *data, size_t size) noexcept
    # Passes on what the encoder holds back, with the end of the coding where the answer is complete. False likewise.
    cdef bint flush(self, bint finish) noexcept
    cdef bint pass_on(self, bytes data) noexcept
    cdef bint change_head(self, Scan *scan, const tg_buffer *extra) noexcept
    cdef void finish(self) noexcept
    # No memory, or the encoder fails: nobody can decode the rest.
    cdef void fail(self) noexcept


# Whether a field is about the bytes that were: their length, digests and ranges (RFC 9530, RFC 9110 section 14.3).
cdef bint is_of_bytes(const Field *field) noexcept nogil
# Makes a strong ETag a weak one: the same by its meaning, and not byte for byte (RFC 9110 section 8.8.1). 0 or -1 (no
# memory).
cdef int weaken(Scan *scan) noexcept
# Whether the client has an answer with a weak ETag, as those have whose bytes were changed on their way.
cdef bint names_weak(const Scan *request) noexcept nogil
# Whether an answer says that it depends on Accept-Encoding.
cdef bint varies(const Scan *scan) noexcept nogil
# A request is about to ask an endpoint, or a cache: its answer may be compressed.
cdef void compress(Exchange exchange, const Scan *scan) noexcept
