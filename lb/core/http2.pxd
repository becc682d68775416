"""The client side of one HTTP/2 connection (RFC 9113): bytes in, events out; no I/O. nghttp2 does the protocol."""

from libc.stdint cimport int32_t, uint8_t, uint32_t
from lb.core.buffer cimport tg_buffer
from lb.core.nghttp2 cimport nghttp2_nv, nghttp2_session
from lb.core.stream cimport iovec


cdef enum:
    H2_PIECES = 256                   # most pieces `collect` gathers for one write

    # `submit`
    H2_NO_MEMORY = -1
    H2_EXHAUSTED = -2                 # no stream may be opened on this connection any more


ctypedef struct h2_stream:
    # One request: embedded in its owner, known to the client from `submit` until `on_close`, `reset` or `forget`.
    void *owner
    int32_t id
    bint sent                         # the body is handed over to the last byte
    bint reset_by_peer
    # The body: `prefix_size` bytes here, then the parts, which are sent from their own memory.
    char prefix[8]
    int prefix_size
    int part_count
    const iovec *parts
    # Cursor. `left` counts the bytes of prefix and parts that were not handed over yet.
    size_t left
    int part
    size_t offset


# Fill in a header field whose name and value outlive the stream's HEADERS frame; nothing is copied.
cdef inline void h2_field(nghttp2_nv *nv, const char *name, size_t name_size, const char *value, size_t value_size,
                          uint8_t flags) noexcept nogil:
    nv.name = <uint8_t *>name
    nv.namelen = name_size
    nv.value = <uint8_t *>value
    nv.valuelen = value_size
    nv.flags = flags


cdef class Http2Client:
    cdef nghttp2_session *session
    cdef readonly int streams         # open streams, forgotten ones included, as the peer counts them
    cdef h2_stream *incoming          # stream whose header block is being read
    # What `collect` gathered: `vector` follows the head buffer it was given.
    cdef iovec vector[256]
    cdef bint in_tail[256]            # the base of this piece is an offset into `tail` until `collect` ends
    cdef int pieces
    cdef size_t collected
    cdef size_t budget
    cdef tg_buffer *head
    cdef tg_buffer tail

    # Queues the connection preface and our SETTINGS. 0 or -1 (no memory).
    cdef int begin(self) noexcept
    # Opens a stream that sends the fields and then the body; `stream` must stay where it is. 0, H2_NO_MEMORY or
    # H2_EXHAUSTED.
    cdef int submit(self, h2_stream *stream, const nghttp2_nv *fields, size_t count) noexcept
    # Ends a stream with RST_STREAM `code`; no more events come for it, and its parts are not touched any more.
    cdef void reset(self, h2_stream *stream, uint32_t code) noexcept
    # The stream goes on or ends without us: no more events come for it. Only for streams whose body is `sent`.
    cdef void forget(self, h2_stream *stream) noexcept
    cdef int ping(self) noexcept
    # Queues GOAWAY `code` and ends the session.
    cdef void terminate(self, uint32_t code) noexcept
    # Parses bytes of the peer; the events come from inside. 0, or -1: the session is beyond use.
    cdef int feed(self, const char *data, size_t size) noexcept
    # Frames to send, about `budget` bytes: appended to `head`, then `pieces` entries of `vector`, which refer to `tail`
    # and to the parts of streams, valid until the next call into this object. 1 something, 0 nothing, -1 beyond use.
    # Events may come from inside.
    cdef int collect(self, tg_buffer *head, size_t budget) noexcept
    # The session has ended (GOAWAY sent after an error, or both sides are done).
    cdef bint ended(self) noexcept
    cdef uint32_t peer_stream_limit(self) noexcept
    cdef int put(self, const char *data, size_t size) noexcept
    cdef int put_body(self, h2_stream *stream, size_t size) noexcept

    # Events. They must not call back into this object except for `reset` and `forget`; `stream` is never NULL.
    cdef void on_field(self, h2_stream *stream, const char *name, size_t name_size, const char *value,
                       size_t value_size) noexcept
    # A block of header fields (informational, response or trailers) is complete.
    cdef void on_fields_end(self, h2_stream *stream, bint last) noexcept
    cdef void on_data(self, h2_stream *stream, const char *data, size_t size) noexcept
    # The peer has ended its side of the stream.
    cdef void on_end(self, h2_stream *stream) noexcept
    # The stream is closed; `code` is an HTTP/2 error code.
    cdef void on_close(self, h2_stream *stream, uint32_t code) noexcept
    cdef void on_settings(self) noexcept
    cdef void on_goaway(self, int32_t last_stream, uint32_t code) noexcept
