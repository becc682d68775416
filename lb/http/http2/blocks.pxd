"""Header blocks that the peer sends (RFC 9113 section 4.3), the streams that they open, and their ends.

Blocks are decoded by nghttp2 (its decoder of RFC 7541 alone), field by field, and checked; one that comes again is not
(http2_repeats).
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t
from lb.net.buffer cimport tg_buffer
from lb.http.http2.control cimport Http2Control
from lb.http.http2.frames cimport h2_frame
from lb.http.http2.message cimport h2_section
from lb.http.http2.repeats cimport h2_repeat, h2_repeats
from lb.http.http2.sender cimport h2_stream
from lb.http.http2.streams cimport h2_entry
from lb.http.http2.nghttp2 cimport nghttp2_hd_inflater, nghttp2_nv


cdef class Http2Blocks(Http2Control):
    cdef nghttp2_hd_inflater *decoder
    # The header block that is being read.
    cdef int32_t block_id             # its stream; 0 = there is none
    cdef bint block_last              # it ends the stream
    cdef int block_frames             # CONTINUATION frames of it
    cdef h2_entry *block_entry        # NULL = it is read and thrown away
    cdef h2_section section
    cdef h2_repeats repeats
    cdef h2_repeat *repeat            # that is being filled in with this block; NULL = none is
    cdef h2_repeat *known             # during `on_fields_end`: which one this block is; NULL = none
    cdef tg_buffer block              # its fields as `block_add` writes them
    cdef uint32_t block_fields
    cdef size_t block_size            # as RFC 9113 section 6.5.2 counts
    cdef size_t block_decoded         # so far, with the fields that are not kept; counted in the same way
    cdef bint block_over              # a limit was passed; what came since was not kept

    # Keeps a field of the block; beyond the limits it sets `block_over` instead.
    cdef void keep_field(self, const char *name, size_t name_size, const char *value, size_t value_size) noexcept
    cdef void keep_fields(self, const h2_repeat *repeat) noexcept

    cdef int take_headers(self, const h2_frame *frame, const uint8_t *payload) noexcept
    cdef h2_entry *open_stream(self, int32_t id) noexcept
    cdef h2_entry *known_stream(self, int32_t id) noexcept
    cdef int take_block(self, const uint8_t *data, size_t size, bint last) noexcept
    cdef void take_field(self, const nghttp2_nv *field) noexcept
    cdef void repeat_block(self, h2_repeat *repeat) noexcept
    cdef void end_block(self) noexcept
    cdef void fail_block(self, h2_entry *entry) noexcept
    cdef void refuse_stream(self, int32_t id) noexcept
    cdef void end_remote(self, h2_entry *entry) noexcept

    # Events: see Http2Session.
    # A server: the peer opens a stream. Its memory, or NULL to refuse it.
    cdef h2_stream *on_request(self, int32_t id) noexcept
    # Whether `on_field` does nothing with the stream's fields but to gather them.
    cdef bint gathers(self, h2_stream *stream) noexcept
    # A field of the block that is being read; gathers it unless a subclass knows better.
    cdef void on_field(self, h2_stream *stream, const char *name, size_t name_size, const char *value,
                       size_t value_size) noexcept
    # A block of header fields (informational, head or trailers) is complete; `block` has what was gathered.
    cdef void on_fields_end(self, h2_stream *stream, bint last) noexcept
    # The peer has ended its side of the stream.
    cdef void on_end(self, h2_stream *stream) noexcept
