"""One side of one HTTP/2 connection (RFC 9113): bytes in, events out; no I/O. nghttp2 does the protocol."""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy
from lb.core.buffer cimport tg_buffer, tg_buffer_reserve, tg_buffer_size, tg_buffer_tail
from lb.core.nghttp2 cimport nghttp2_nv, nghttp2_session
from lb.core.stream cimport iovec


cdef enum:
    H2_PIECES = 256                   # most pieces `collect` gathers for one write

    # `submit`
    H2_NO_MEMORY = -1
    H2_EXHAUSTED = -2                 # no stream may be opened on this connection any more

    # What `on_control` counts: frames that cost us work and the peer next to nothing.
    H2_PING_FRAME = 0
    H2_SETTINGS_FRAME
    H2_RESET_FRAME
    H2_EMPTY_FRAME                    # DATA without bytes and without END_STREAM
    H2_OTHER_FRAME                    # WINDOW_UPDATE, of which honest peers send many
    H2_CONTROLS


ctypedef struct h2_stream:
    # One request with its answer: embedded in its owner, known to the session from `submit` (of a server: from
    # `on_request`) until `on_close`, `reset` or `forget`.
    void *owner
    int32_t id
    bint sent                         # our body is handed over to the last byte
    bint reset_by_peer
    bint remote_ended                 # the peer has ended its side
    size_t owed                       # bytes consumed of what the peer sent, of which nghttp2 was not told yet
    # The body as parts: `prefix_size` bytes here, then the parts, which are sent from their own memory.
    char prefix[8]
    int prefix_size
    int part_count
    const iovec *parts
    # Cursor. `left` counts the bytes of prefix and parts that were not handed over yet.
    size_t left
    int part
    size_t offset
    # The body as a queue, which grows while it is sent: `streaming` says that this is used and not the parts.
    bint streaming
    bint finished                     # nothing will be added to the queue
    bint deferred                     # nghttp2 waits until there is something in it again
    bint wants_room                   # tell `on_room` when little is left in it
    uint64_t handed                   # bytes of it that were handed over
    size_t keep                       # up to so many bytes of it stay after that, so that it can be sent again
    size_t kept                       # bytes at the head of `queue` that were handed over and stay
    tg_buffer queue
    tg_buffer trailers                # field lines, sent behind the queue when it is `finished`


ctypedef struct h2_options:
    uint32_t stream_window            # bytes that a peer may send on a stream before they are consumed
    uint32_t connection_window
    uint32_t max_streams              # that the peer may have open; 0 = not said (a client's)
    uint32_t header_list              # bytes of a header block, counted as RFC 9113 section 6.5.2 does
    uint32_t max_fields               # of a header block
    bint connect_protocol             # extended CONNECT (RFC 8441) is served


# Fill in a header field; with NO_COPY flags its name and value have to outlive the stream's HEADERS frame.
cdef inline void h2_field(nghttp2_nv *nv, const char *name, size_t name_size, const char *value, size_t value_size,
                          uint8_t flags) noexcept nogil:
    nv.name = <uint8_t *>name
    nv.namelen = name_size
    nv.value = <uint8_t *>value
    nv.valuelen = value_size
    nv.flags = flags


# Bytes of a streamed body that wait to be handed over.
cdef inline size_t h2_waiting(const h2_stream *stream) noexcept nogil:
    return tg_buffer_size(&stream.queue) - stream.kept


# Whether a streamed body is here from its beginning.
cdef inline bint h2_whole(const h2_stream *stream) noexcept nogil:
    return stream.handed == stream.kept


# A streamed body that is whole is to be sent from its beginning.
cdef inline void h2_rewind(h2_stream *stream) noexcept nogil:
    stream.handed = 0
    stream.kept = 0


# Adds a field to a block: two 32-bit lengths, name, value. 0 or -1.
cdef inline int block_add(tg_buffer *block, const char *name, size_t name_size, const char *value,
                          size_t value_size) noexcept nogil:
    cdef uint32_t lengths[2]
    cdef char *at
    if tg_buffer_reserve(block, name_size + value_size + sizeof(lengths)) < 0:
        return -1
    lengths[0] = <uint32_t>name_size
    lengths[1] = <uint32_t>value_size
    at = tg_buffer_tail(block)
    memcpy(at, lengths, sizeof(lengths))
    memcpy(at + sizeof(lengths), name, name_size)
    memcpy(at + sizeof(lengths) + name_size, value, value_size)
    block.end += name_size + value_size + sizeof(lengths)
    return 0


# The same with the name in lower case (RFC 9113 section 8.2).
cdef int block_add_lower(tg_buffer *block, const char *name, size_t name_size, const char *value,
                         size_t value_size) noexcept


cdef class Http2Session:
    cdef nghttp2_session *session
    cdef readonly int streams         # open streams, forgotten ones included, as the peer counts them
    cdef h2_options options
    cdef bint server
    cdef h2_stream *found             # the one looked up last, which is asked for again with nearly every event
    # The header block that is being read.
    cdef h2_stream *incoming          # its stream, NULL = nobody's
    cdef tg_buffer block              # its fields as `block_add` writes them
    cdef uint32_t block_fields
    cdef size_t block_size            # as RFC 9113 section 6.5.2 counts
    cdef bint block_over              # a limit was passed; what came since was not kept
    cdef size_t owed                  # bytes that came on any stream, of which nghttp2 was not told yet that they went
    # What `collect` gathered: `vector` follows the head buffer it was given.
    cdef iovec vector[256]
    cdef bint in_tail[256]            # the base of this piece is an offset into `tail` until `collect` ends
    cdef int pieces
    cdef size_t collected
    cdef size_t budget
    cdef tg_buffer *head
    cdef tg_buffer tail

    # Makes the session and queues the connection preface (of a client) and our SETTINGS. 0 or -1 (no memory).
    cdef int begin(self, bint server, const h2_options *options) noexcept
    # A client: opens a stream that sends the fields and then the body; `stream` must stay where it is. 0, H2_NO_MEMORY
    # or H2_EXHAUSTED.
    cdef int submit(self, h2_stream *stream, const nghttp2_nv *fields, size_t count) noexcept
    # A server: the head of the answer; `body` says that body or trailers follow. 0 or -1.
    cdef int respond(self, h2_stream *stream, const nghttp2_nv *fields, size_t count, bint body) noexcept
    # A server: an informational answer (RFC 9110 section 15.2). 0 or -1.
    cdef int inform(self, h2_stream *stream, const nghttp2_nv *fields, size_t count) noexcept
    # More of a streamed body, which is copied. 0 or -1 (no memory).
    cdef int write(self, h2_stream *stream, const void *data, size_t size) noexcept
    # A streamed body is complete.
    cdef void finish(self, h2_stream *stream) noexcept
    # `size` bytes that `on_data` gave are dealt with: the peer may send as many more on this stream.
    cdef void consume(self, h2_stream *stream, size_t size) noexcept
    # Ends a stream with RST_STREAM `code`; no more events come for it, and its parts are not touched any more.
    cdef void reset(self, h2_stream *stream, uint32_t code) noexcept
    # The stream goes on or ends without us: no more events come for it. Only for streams whose body is `sent`.
    cdef void forget(self, h2_stream *stream) noexcept
    cdef int ping(self) noexcept
    # A server's two steps of leaving (RFC 9113 section 6.8): a warning, after which streams are still taken, and the
    # last word: streams that were opened until now are still answered.
    cdef void warn_shutdown(self) noexcept
    cdef void stop_streams(self) noexcept
    # Queues GOAWAY `code` and ends the session.
    cdef void terminate(self, uint32_t code) noexcept
    # Parses bytes of the peer; the events come from inside. 0, or -1: the session is beyond use.
    cdef int feed(self, const char *data, size_t size) noexcept
    # Frames to send, about `budget` bytes: appended to `head`, then `pieces` entries of `vector`, which refer to `tail`
    # and to the bodies of streams, valid until the next call into this object. 1 something, 0 nothing, -1 beyond use.
    # Events may come from inside.
    cdef int collect(self, tg_buffer *head, size_t budget) noexcept
    # The session has ended (GOAWAY sent after an error, or both sides are done).
    cdef bint ended(self) noexcept
    cdef uint32_t peer_stream_limit(self) noexcept
    # Keeps a field of the block; beyond the limits it sets `block_over` instead.
    cdef void keep_field(self, const char *name, size_t name_size, const char *value, size_t value_size) noexcept
    # The stream of that number; NULL when it is unknown or forgotten.
    cdef h2_stream *find(self, int32_t id) noexcept
    cdef int put(self, const char *data, size_t size) noexcept
    cdef int put_body(self, h2_stream *stream, size_t size) noexcept
    cdef int put_queue(self, h2_stream *stream, size_t size) noexcept
    cdef void advance_queue(self, h2_stream *stream, size_t size) noexcept
    cdef int piece(self, const char *data, size_t size) noexcept
    cdef int submit_trailers(self, h2_stream *stream) noexcept

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
    # The stream is closed; `code` is an HTTP/2 error code. What `collect` gathered of its body is still referred to:
    # the memory may go when that is written.
    cdef void on_close(self, h2_stream *stream, uint32_t code) noexcept
    # Little is left in the queue of a stream that `wants_room`.
    cdef void on_room(self, h2_stream *stream) noexcept
    cdef void on_settings(self) noexcept
    cdef void on_goaway(self, int32_t last_stream, uint32_t code) noexcept
    # A frame of `kind` (H2_PING_FRAME and its like) has come.
    cdef void on_control(self, int kind) noexcept
