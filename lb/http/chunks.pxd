"""A body in HTTP/1.1's chunks (RFC 9112 section 7.1), as it is queued for a peer.

Pieces that come one after another become one chunk for as long as none of it has gone out: whoever sends a body byte by
byte does not make its receiver read it chunk by chunk.
"""

from libc.stdint cimport uint32_t
from lb.net.buffer cimport tg_buffer
from lb.net.iovec cimport iovec


cdef enum:
    GATHERED = 16 * 1024              # bytes of a body from which on a piece goes out as it is, without a copy

# A piece of `size` bytes, none of them part of the last chunk's end, goes behind `out`: into the chunk of `last[0]`
# bytes that ends there, where `unsent` bytes of `out` hold all of it, else into a new one. `last` is for the next call;
# 0: there is no chunk to go on with. 0, or -1: no memory.
cdef int append_chunk(tg_buffer *out, uint32_t *last, size_t unsent, const iovec *spans, int count,
                      size_t size) noexcept nogil
