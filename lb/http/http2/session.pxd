"""One side of one HTTP/2 connection (RFC 9113): bytes in, events out; no I/O.

Frames, streams and flow control are ours; header blocks are read by nghttp2 (its decoder of RFC 7541 alone). What the
peer sends goes through `feed` and comes out as events; what we send is queued by calls and gathered by `collect`.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t
from lb.net.buffer cimport tg_buffer
from lb.http.http2.blocks cimport Http2Blocks
from lb.http.http2.control cimport (
    H2_BOMB_FRAME, H2_CONTROLS, H2_EMPTY_FRAME, H2_FAULT_FRAME, H2_FAULT_WORK, H2_OTHER_FRAME, H2_PING_FRAME,
    H2_RESET_FRAME, H2_SETTINGS_FRAME, H2_WINDOW_FRAME,
)
from lb.http.http2.frames cimport h2_frame
from lb.http.http2.sender cimport (
    H2_EXHAUSTED, H2_NO_MEMORY, H2_PIECES, h2_field, h2_options, h2_rewind, h2_stream, h2_waiting, h2_whole,
)


cdef class Http2Session(Http2Blocks):
    cdef int preface                  # bytes of a client's that are still to come
    cdef tg_buffer partial            # a frame of which only the beginning is here
    cdef h2_frame data                # the DATA frame that is being read
    cdef uint32_t data_left           # bytes of it that are still to come
    cdef size_t untaken               # bytes of what was fed last that wait for another turn
    cdef int64_t owed                 # bytes on all streams together of which the peer was not told that they are gone

    # `size` bytes that `on_data` gave are dealt with: the peer may send as many more on this stream.
    cdef void consume(self, h2_stream *stream, size_t size) noexcept
    # Parses bytes of the peer, for as long as there is `work` left; the events come from inside. `untaken` tells how
    # many of them are left, to be given again. 0, or -1: the session is beyond use.
    cdef int feed(self, const char *data, size_t size) noexcept

    cdef int take_preface(self, const uint8_t **at, const uint8_t *end) noexcept
    cdef int take_part(self, const uint8_t **at, const uint8_t *end) noexcept
    cdef int take_frame(self, const h2_frame *frame, const uint8_t *payload) noexcept
    cdef void begin_data(self, uint32_t padding) noexcept
    cdef void take_data(self, const char *data, size_t size) noexcept
    cdef void end_data(self) noexcept

    # Events, these and those of the classes below. They must not call `feed` or `collect`, nor end the life of a
    # stream's body other than by `reset`; `stream` is never NULL.
    cdef void on_data(self, h2_stream *stream, const char *data, size_t size) noexcept
    # on_close: the stream is closed; `code` is an HTTP/2 error code. What `collect` gathered of its body is still
    # referred to: the memory may go when that is written.
