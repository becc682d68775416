"""Frames in a queue: see queue.pxd."""

from libc.stdint cimport int32_t, uint8_t, uint32_t
from libc.string cimport memmove
from lb.net.buffer cimport (
    tg_buffer, tg_buffer_free, tg_buffer_head, tg_buffer_reserve, tg_buffer_size, tg_buffer_tail,
)
from lb.http.http2.hpack cimport hpack_encode, hpack_encode_more, hpack_free
from lb.http.http2.frames cimport (
    FLAG_END_HEADERS, FLAG_END_STREAM, FRAME_CONTINUATION, FRAME_HEADER, FRAME_HEADERS, FRAME_MOST, FRAME_RST_STREAM,
    put_frame, put_u32,
)
from lb.http.http2.nghttp2 cimport nghttp2_nv

cdef enum:
    # Most answers to a peer's frames that wait to be written, as nghttp2 has it (CVE-2019-9512, CVE-2019-9515). They
    # are written after every turn of reading, so that only who does not read gets there.
    REPLIES = 1000


cdef class Http2Queue:

    def __dealloc__(self):
        hpack_free(&self.encoder)
        tg_buffer_free(&self.control)

    cdef uint8_t *frame(self, uint32_t length, uint8_t kind, uint8_t flags, int32_t id) noexcept:
        cdef uint8_t *at
        if tg_buffer_reserve(&self.control, FRAME_HEADER + length) < 0:
            return NULL
        at = <uint8_t *>tg_buffer_tail(&self.control)
        put_frame(at, length, kind, flags, id)
        self.control.end += FRAME_HEADER + length
        return at + FRAME_HEADER

    cdef uint8_t *reply(self, uint32_t length, uint8_t kind, uint8_t flags, int32_t id) noexcept:
        self.replies += 1
        if self.replies > REPLIES:
            self.choked = True
            self.over = True
            return NULL
        return self.frame(length, kind, flags, id)

    cdef int headers(self, int32_t id, const nghttp2_nv *fields, size_t count, const tg_buffer *block, size_t place,
                     bint last) noexcept:
        """The block is written at once: the order in which blocks are encoded is that in which they are sent."""
        cdef size_t at = tg_buffer_size(&self.control)
        cdef size_t size
        cdef uint8_t flags = FLAG_END_STREAM if last else 0
        if self.frame(0, FRAME_HEADERS, flags, id) == NULL:
            return -1
        if block == NULL:
            place = count
        if hpack_encode(&self.encoder, &self.control, fields, place) < 0 or (block != NULL and (
                hpack_encode_more(&self.encoder, &self.control, tg_buffer_head(block), tg_buffer_size(block)) < 0
                or hpack_encode(&self.encoder, &self.control, fields + place, count - place) < 0)):
            self.over = True                 # the peer's table is not what our encoder believes
            self.control.end = self.control.start + at
            return -1
        size = tg_buffer_size(&self.control) - at - FRAME_HEADER
        if size > FRAME_MOST:
            return self.split(at, size, id, flags)
        flags |= FLAG_END_HEADERS
        put_frame(<uint8_t *>tg_buffer_head(&self.control) + at, <uint32_t>size, FRAME_HEADERS, flags, id)
        return 0

    cdef int split(self, size_t at, size_t size, int32_t id, uint8_t flags) noexcept:
        """Makes frames of the block of `size` bytes behind the frame header at `at`, the last bytes first."""
        cdef size_t i, n, more = (size - 1) // FRAME_MOST
        cdef uint8_t *first
        cdef uint8_t *header
        if tg_buffer_reserve(&self.control, more * FRAME_HEADER) < 0:
            self.over = True
            self.control.end = self.control.start + at
            return -1
        first = <uint8_t *>tg_buffer_head(&self.control) + at
        for i in range(more, 0, -1):
            n = min(<size_t>FRAME_MOST, size - i * FRAME_MOST)
            header = first + i * (FRAME_HEADER + FRAME_MOST)
            memmove(header + FRAME_HEADER, first + FRAME_HEADER + i * FRAME_MOST, n)
            put_frame(header, <uint32_t>n, FRAME_CONTINUATION, FLAG_END_HEADERS if i == more else 0, id)
        put_frame(first, FRAME_MOST, FRAME_HEADERS, flags, id)
        self.control.end += more * FRAME_HEADER
        return 0

    cdef int reset_frame(self, int32_t id, uint32_t code) noexcept:
        cdef uint8_t *at = self.frame(4, FRAME_RST_STREAM, 0, id)
        if at == NULL:
            return -1
        put_u32(at, code)
        return 0

    cdef int reset_reply(self, int32_t id, uint32_t code) noexcept:
        cdef uint8_t *at = self.reply(4, FRAME_RST_STREAM, 0, id)
        if at == NULL:
            return -1
        put_u32(at, code)
        return 0
