"""One side of one HTTP/2 connection (RFC 9113): bytes in, events out; no I/O.

Frames, streams and flow control are ours; header blocks are read by nghttp2 (its decoder of RFC 7541 alone). What the
peer sends goes through `feed` and comes out as events; what we send is queued by calls and gathered by `collect`.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t
from lb.core.buffer cimport tg_buffer
from lb.core.http2_control cimport (
    H2_CONTROLS, H2_EMPTY_FRAME, H2_OTHER_FRAME, H2_PING_FRAME, H2_RESET_FRAME, H2_SETTINGS_FRAME,
    H2_WINDOW_FRAME, Http2Control,
)
from lb.core.http2_frames cimport h2_frame
from lb.core.http2_message cimport h2_section
from lb.core.http2_repeats cimport h2_repeat, h2_repeats
from lb.core.http2_sender cimport (
    H2_EXHAUSTED, H2_NO_MEMORY, H2_PIECES, h2_field, h2_options, h2_rewind, h2_stream, h2_waiting, h2_whole,
)
from lb.core.http2_streams cimport h2_entry
from lb.core.nghttp2 cimport nghttp2_hd_inflater, nghttp2_nv


cdef class Http2Session(Http2Control):
    cdef nghttp2_hd_inflater *decoder
    # Reading.
    cdef int preface                  # bytes of a client's that are still to come
    cdef tg_buffer partial            # a frame of which only the beginning is here
    cdef h2_frame data                # the DATA frame that is being read
    cdef uint32_t data_left           # bytes of it that are still to come
    cdef int64_t owed                 # bytes on all streams together of which the peer was not told that they are gone
    # The header block that is being read.
    cdef int32_t block_id             # its stream; 0 = there is none
    cdef bint block_last              # it ends the stream
    cdef int block_frames             # CONTINUATION frames of it
    cdef h2_entry *block_entry        # NULL = it is read and thrown away
    cdef h2_section section
    cdef h2_repeats repeats
    cdef h2_repeat *repeat            # that is being filled in with this block; NULL = none is
    cdef tg_buffer block              # its fields as `block_add` writes them
    cdef uint32_t block_fields
    cdef size_t block_size            # as RFC 9113 section 6.5.2 counts
    cdef bint block_over              # a limit was passed; what came since was not kept

    # `size` bytes that `on_data` gave are dealt with: the peer may send as many more on this stream.
    cdef void consume(self, h2_stream *stream, size_t size) noexcept
    # Parses bytes of the peer; the events come from inside. 0, or -1: the session is beyond use.
    cdef int feed(self, const char *data, size_t size) noexcept
    # Keeps a field of the block; beyond the limits it sets `block_over` instead.
    cdef void keep_field(self, const char *name, size_t name_size, const char *value, size_t value_size) noexcept

    cdef int take_preface(self, const uint8_t **at, const uint8_t *end) noexcept
    cdef int take_part(self, const uint8_t **at, const uint8_t *end) noexcept
    cdef int take_frame(self, const h2_frame *frame, const uint8_t *payload) noexcept
    cdef bint take_padding(self, const h2_frame *frame, const uint8_t **payload, uint32_t *size) noexcept
    cdef void begin_data(self, uint32_t padding) noexcept
    cdef void take_data(self, const char *data, size_t size) noexcept
    cdef void end_data(self) noexcept
    cdef int take_headers(self, const h2_frame *frame, const uint8_t *payload) noexcept
    cdef h2_entry *open_stream(self, int32_t id) noexcept
    cdef h2_entry *known_stream(self, int32_t id) noexcept
    cdef int take_block(self, const uint8_t *data, size_t size, bint last) noexcept
    cdef void take_field(self, const nghttp2_nv *field) noexcept
    cdef void repeat_block(self, const h2_repeat *repeat) noexcept
    cdef void end_block(self) noexcept
    cdef void end_remote(self, h2_entry *entry) noexcept

    # Events. They must not call `feed` or `collect`, nor end the life of a stream's body other than by `reset`;
    # `stream` is never NULL.
    # A server: the peer opens a stream. Its memory, or NULL to refuse it.
    cdef h2_stream *on_request(self, int32_t id) noexcept
    # A field of the block that is being read; gathers it unless a subclass knows better.
    cdef void on_field(self, h2_stream *stream, const char *name, size_t name_size, const char *value,
                       size_t value_size) noexcept
    # A block of header fields (informational, head or trailers) is complete; `block` has what was gathered.
    cdef void on_fields_end(self, h2_stream *stream, bint last) noexcept
    cdef void on_data(self, h2_stream *stream, const char *data, size_t size) noexcept
    # The peer has ended its side of the stream.
    cdef void on_end(self, h2_stream *stream) noexcept
    # on_close: the stream is closed; `code` is an HTTP/2 error code. What `collect` gathered of its body is still
    # referred to: the memory may go when that is written.
