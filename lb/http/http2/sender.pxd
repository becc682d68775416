"""What one side of an HTTP/2 connection sends (RFC 9113): frames, and the bodies of streams in turn, within the
windows that the peer gives. No I/O: `collect` gathers what is to be written."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from lb.net.buffer cimport tg_buffer, tg_buffer_size
from lb.http.http2.closed cimport h2_closed
from lb.http.http2.queue cimport Http2Queue
from lb.http.http2.streams cimport h2_entry, h2_table
from lb.net.link cimport tg_link
from lb.http.http2.nghttp2 cimport nghttp2_nv
from lb.net.stream cimport iovec


cdef enum:
    H2_PIECES = 256                   # most pieces `collect` gathers for one write

    # `submit`
    H2_NO_MEMORY = -1
    H2_EXHAUSTED = -2                 # no stream may be opened on this connection any more


ctypedef struct h2_stream:
    # One request with its answer: embedded in its owner, known to the session from `submit` (of a server: from
    # `on_request`) until `on_close`, `reset` or `forget`.
    void *owner
    h2_entry *entry                   # the session's, while the stream is known to it
    int32_t id
    bint sent                         # our body is handed over to the last byte
    bint reset_by_peer
    bint remote_ended                 # the peer has ended its side
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


# Fill in a header field; NO_COPY_NAME says that the name is in lower case.
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


cdef class Http2Sender(Http2Queue):
    """What a session sends: the bodies of streams in turn, the peer's windows."""
    cdef readonly int streams         # open streams, forgotten ones included, as the peer counts them
    cdef h2_options options
    cdef bint server
    cdef bint leaving                 # we have said GOAWAY
    cdef bint left                    # the peer has
    cdef h2_table table
    cdef h2_closed closed             # what is known of those that are closed
    cdef tg_link ready                # streams that may have something of their body to send, in turn
    cdef tg_link ending               # streams that have ended on our side, to be looked at
    cdef int64_t window               # bytes of bodies the peer takes on all streams together
    cdef uint64_t data_frames         # that we have sent
    cdef int32_t peer_window          # on a new stream
    cdef uint32_t peer_streams        # that we may have open
    cdef uint32_t next_id             # of the next stream that a client opens
    cdef int64_t first_room           # bytes that the peer may send on a new stream
    # What `collect` gathered: `vector` follows the head buffer it was given. Of the worker, like `tail`.
    cdef iovec *vector
    cdef bint *in_tail                # the base of this piece is an offset into `tail` until `collect` ends
    cdef int pieces
    cdef size_t collected
    cdef tg_buffer *head
    cdef tg_buffer *tail

    # A client: opens a stream that sends the fields and then the body; `stream` must stay where it is. Those of
    # `block`, which may be NULL (lb.http.http2.block; names in lower case), stand before the one at `place`. 0,
    # H2_NO_MEMORY or H2_EXHAUSTED.
    cdef int submit(self, h2_stream *stream, const nghttp2_nv *fields, size_t count, const tg_buffer *block,
                    size_t place) noexcept
    # A server: the head of the answer; `body` says that body or trailers follow. 0 or -1.
    cdef int respond(self, h2_stream *stream, const nghttp2_nv *fields, size_t count, bint body) noexcept
    # A server: an informational answer (RFC 9110 section 15.2). 0 or -1.
    cdef int inform(self, h2_stream *stream, const nghttp2_nv *fields, size_t count) noexcept
    # More of a streamed body, which is copied. 0 or -1 (no memory).
    cdef int write(self, h2_stream *stream, const void *data, size_t size) noexcept
    # A streamed body is complete.
    cdef void finish(self, h2_stream *stream) noexcept
    # Ends a stream with RST_STREAM `code`; no more events come for it, and its parts are not touched any more.
    cdef void reset(self, h2_stream *stream, uint32_t code) noexcept
    # The stream goes on or ends without us: no more events come for it. Only for streams whose body is `sent`.
    cdef void forget(self, h2_stream *stream) noexcept
    # Frames to send, about `budget` bytes: appended to `head`, then `pieces` entries of `vector`, which refer to `tail`
    # and to the bodies of streams, valid until the next call into any session. 1 something, 0 nothing, -1 beyond use.
    # Events may come from inside.
    cdef int collect(self, tg_buffer *head, size_t budget) noexcept
    # The session has ended (GOAWAY sent after an error, or both sides are done).
    cdef bint ended(self) noexcept
    cdef uint32_t peer_stream_limit(self) noexcept

    # A stream that ends on our side.
    cdef void end_local(self, h2_entry *entry) noexcept
    # It may have something to send.
    cdef void wake(self, h2_entry *entry) noexcept
    # Takes a stream out; its owner hears of it.
    cdef void close(self, h2_entry *entry, uint32_t code) noexcept
    # Notes that the stream is about to be closed by a reset of ours.
    cdef void note_reset(self, const h2_entry *entry) noexcept
    # Something that holds on to an entry has to let go of it.
    cdef void drop(self, h2_entry *entry) noexcept
    cdef int settle(self) noexcept
    cdef int send_body(self, h2_entry *entry) noexcept
    cdef int send_trailers(self, h2_entry *entry, const tg_buffer *lines) noexcept
    cdef int put(self, const char *data, size_t size) noexcept
    cdef int put_control(self) noexcept
    cdef int put_body(self, h2_stream *stream, size_t size) noexcept
    cdef void advance_queue(self, h2_stream *stream, size_t size) noexcept
    cdef int piece(self, const char *data, size_t size) noexcept

    # Events, from `collect`: see Http2Session.
    cdef void on_close(self, h2_stream *stream, uint32_t code) noexcept
    # Little is left in the queue of a stream that `wants_room`.
    cdef void on_room(self, h2_stream *stream) noexcept
