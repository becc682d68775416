"""Frames that wait to be sent (RFC 9113 section 4): queued whole, in the order in which they are written."""

from libc.stdint cimport int32_t, uint8_t, uint32_t
from lb.net.buffer cimport tg_buffer
from lb.http.http2.hpack cimport hpack_encoder
from lb.http.http2.nghttp2 cimport nghttp2_nv


cdef class Http2Queue:
    cdef bint over                    # nothing is sent any more but what is queued, and nothing is read
    cdef hpack_encoder encoder
    cdef tg_buffer control            # whole frames, to be sent before any body
    cdef uint32_t replies             # frames among them that the peer called forth
    cdef bint choked                  # too many of these wait: the peer does not read. The session is beyond use.

    # Queues a frame and gives its payload to be filled in; NULL: no memory.
    cdef uint8_t *frame(self, uint32_t length, uint8_t kind, uint8_t flags, int32_t id) noexcept
    # The fields, those of `block` before the one at `place` (see Http2Sender.submit); in several frames if they have to
    # be. 0 or -1.
    cdef int headers(self, int32_t id, const nghttp2_nv *fields, size_t count, const tg_buffer *block, size_t place,
                     bint last) noexcept
    cdef int split(self, size_t at, size_t size, int32_t id, uint8_t flags) noexcept
    cdef int reset_frame(self, int32_t id, uint32_t code) noexcept
    # As `frame`, for an answer to a frame of the peer. NULL too when too many wait, which ends the session: `choked`.
    cdef uint8_t *reply(self, uint32_t length, uint8_t kind, uint8_t flags, int32_t id) noexcept
    # As `reset_frame`, for a frame of the peer that does not fit.
    cdef int reset_reply(self, int32_t id, uint32_t code) noexcept
