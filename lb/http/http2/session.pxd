"""One side of one HTTP/2 connection (RFC 9113): bytes in, events out; no I/O.

What the peer sends goes through `feed` and comes out as events, which a subclass handles; what we send is queued by
calls and gathered by `collect`. The session has its parts: the queue of frames (http2_queue), what is gathered for one
write (http2_gather), the header block that is being read (http2_blocks), the streams (http2_streams) and what is
remembered of closed ones (http2_closed).
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from lb.net.arena cimport Arena, View, tg_mapping
from lb.net.buffer cimport tg_buffer
from lb.http.http2.blocks cimport h2_blocks
from lb.http.http2.closed cimport h2_closed
from lb.http.http2.frames cimport h2_frame
from lb.http.http2.gather cimport H2_PIECES, h2_gather
from lb.http.http2.queue cimport h2_field, h2_options, h2_queue
from lb.http.http2.repeats cimport h2_repeat
from lb.http.http2.streams cimport h2_entry, h2_rewind, h2_stream, h2_table, h2_waiting, h2_whole
from lb.net.link cimport tg_link
from lb.http.http2.nghttp2 cimport nghttp2_nv


cdef enum:
    # `submit`
    H2_NO_MEMORY = -1
    H2_EXHAUSTED = -2                 # no stream may be opened on this connection any more

cdef enum:
    # What `on_control` counts: frames that cost us work and the peer next to nothing.
    H2_PING_FRAME = 0
    H2_SETTINGS_FRAME
    H2_RESET_FRAME                    # of a stream that was open
    H2_FAULT_FRAME                    # that made us reset its stream (CVE-2025-8671)
    H2_EMPTY_FRAME                    # DATA without bytes and without END_STREAM
    H2_WINDOW_FRAME                   # WINDOW_UPDATE
    H2_BOMB_FRAME                     # the end of a header block that decodes to many times our limit
    H2_OTHER_FRAME                    # what is ignored, among it what crossed the end of its stream
    H2_CONTROLS

cdef enum:
    # Of `work`: a request to an endpoint may be given up, and its connection with it. No honest peer makes us.
    H2_FAULT_WORK = 128

cdef enum:
    LOCAL_LEAST = 64 * 1024           # bytes of a message that goes through an arena: below, a socket costs as little

# How far a session has come. The table of steps is in http2.pyx.
cdef enum:
    SESSION_NEW = 0                   # `begin` has not been called
    SESSION_PREFACE                   # a server's: the client's preface has to come
    SESSION_SETTINGS                  # the peer's SETTINGS have to come
    SESSION_OPEN
    SESSION_OVER                      # nothing is read any more, and nothing sent but what is queued


cdef class Http2Session:
    cdef unsigned char state          # SESSION_…
    cdef bint server
    cdef bint leaving                 # we have said GOAWAY
    cdef bint left                    # the peer has
    cdef bint acknowledged            # the peer has taken our SETTINGS over
    cdef h2_options options

    # What comes.
    cdef int preface                  # bytes of a client's that are still to come
    cdef tg_buffer partial            # a frame of which only the beginning is here
    cdef h2_frame data                # the DATA frame that is being read
    cdef uint32_t data_left           # bytes of it that are still to come
    cdef size_t untaken               # bytes of what was fed last that wait for another turn
    cdef h2_blocks blocks
    # What may still be done in this turn for what the peer sends: `feed` stops when it is spent. Whoever has set it
    # once sets it anew for each turn; a session begins with more than it ever needs.
    cdef int work
    cdef int64_t room                 # bytes that the peer may send on all streams together
    cdef int64_t owed                 # bytes on all streams together of which the peer was not told that they are gone
    cdef int64_t first_room           # bytes that the peer may send on a new stream
    cdef int32_t last_id              # the highest number of a stream that the peer has opened
    cdef int32_t taken_id             # and of one that was taken

    # Streams.
    cdef readonly int streams         # open streams, forgotten ones included, as the peer counts them
    cdef h2_table table
    cdef h2_closed closed             # what is known of those that are closed
    cdef uint32_t next_id             # of the next stream that a client opens
    cdef uint32_t peer_streams        # that we may have open

    # What goes out.
    cdef h2_queue queue
    cdef h2_gather gathered           # by the last `collect`
    cdef tg_link ready                # streams that may have something of their body to send, in turn
    cdef tg_link ending               # streams that have ended on our side, to be looked at
    cdef int64_t window               # bytes of bodies the peer takes on all streams together
    cdef int32_t peer_window          # on a new stream
    cdef uint64_t data_frames         # that we have sent
    cdef list spent                   # lenders of what the last `collect` gathered; None: there were never any

    # Local transport (docs/adr/local-transport.md): large messages lie in the sender's arena.
    cdef uint32_t peer_local          # the version that the peer's SETTINGS have told; 0 = none
    cdef Arena offered                # ours, which the peer has not mapped yet
    cdef Arena arena                  # ours, which the peer has mapped
    cdef tg_mapping *mapping          # the peer's; NULL: there is none

    # Makes the session and queues the connection preface (of a client) and our SETTINGS. 0 or -1 (no memory).
    cdef int begin(self, bint server, const h2_options *options) noexcept
    # Parses bytes of the peer, for as long as there is `work` left; the events come from inside. `untaken` tells how
    # many of them are left, to be given again. 0, or -1: the session is beyond use.
    cdef int feed(self, const char *data, size_t size) noexcept
    # `size` bytes that `on_data` gave are dealt with: the peer may send as many more on this stream.
    cdef void consume(self, h2_stream *stream, size_t size) noexcept

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
    # The same of bytes that are sent from where they lie, and `lender` is held until then. 0, or -1: such bytes wait
    # already.
    cdef int lend(self, h2_stream *stream, const char *data, size_t size, object lender) noexcept
    # A streamed body is complete.
    cdef void finish(self, h2_stream *stream) noexcept
    # Ends a stream with RST_STREAM `code`; no more events come for it, and its parts are not touched any more.
    cdef void reset(self, h2_stream *stream, uint32_t code) noexcept
    # The stream goes on or ends without us: no more events come for it. Only for streams whose body is `sent`.
    cdef void forget(self, h2_stream *stream) noexcept
    cdef int ping(self) noexcept
    # Local transport: passes our arena on; its descriptor has to go with the next bytes that are written. 0 or -1.
    cdef int offer(self, Arena arena) noexcept
    # The connection is over: views that are still read are given back to nobody.
    cdef void end_local_transport(self) noexcept
    # Queues SETTINGS that changes nothing: its acknowledgement says that the peer has read all before it. 0 or -1.
    cdef int ask(self) noexcept
    # A server's two steps of leaving (RFC 9113 section 6.8): a warning, after which streams are still taken, and the
    # last word: streams that were opened until now are still answered.
    cdef void warn_shutdown(self) noexcept
    cdef void stop_streams(self) noexcept
    # Queues GOAWAY `code` and ends the session.
    cdef void terminate(self, uint32_t code) noexcept
    # Frames to send, about `budget` bytes: appended to `head`, then `gathered.pieces` entries of `gathered.vector`,
    # which refer to the bodies of streams, valid until the next call into any session. 1 something, 0 nothing, -1
    # beyond use. Events may come from inside.
    cdef int collect(self, tg_buffer *head, size_t budget) noexcept
    # The session has ended (GOAWAY sent after an error, or both sides are done).
    cdef bint ended(self) noexcept
    cdef uint32_t peer_stream_limit(self) noexcept

    # Events. They must not call `feed` or `collect`, nor end the life of a stream's body other than by `reset`;
    # `stream` is never NULL.

    # A server: the peer opens a stream. Its memory, or NULL to refuse it.
    cdef h2_stream *on_request(self, int32_t id) noexcept
    # Whether `on_field` does nothing with the stream's fields but to gather them.
    cdef bint gathers(self, h2_stream *stream) noexcept
    # A field of the block that is being read; gathers it (`blocks_keep`) unless a subclass knows better.
    cdef void on_field(self, h2_stream *stream, const char *name, size_t name_size, const char *value,
                       size_t value_size) noexcept
    # A block of header fields (informational, head or trailers) is complete; `blocks` has what was gathered.
    cdef void on_fields_end(self, h2_stream *stream, bint last) noexcept
    cdef void on_data(self, h2_stream *stream, const char *data, size_t size) noexcept
    # Where the next bytes of the stream's body are wanted, and how many at most: whoever reads them may put them there,
    # and `on_data` then gets this very place. NULL: they are not gathered.
    cdef char *on_destination(self, h2_stream *stream, size_t *room) noexcept
    # The same of bytes in the peer's arena, `last` if nothing follows; hands them to `on_data` unless a subclass knows
    # better.
    cdef void on_view(self, h2_stream *stream, View view, bint last) noexcept
    # The peer has ended its side of the stream.
    cdef void on_end(self, h2_stream *stream) noexcept
    # Little is left in the queue of a stream that `wants_room`.
    cdef void on_room(self, h2_stream *stream) noexcept
    # The stream is closed; `code` is an HTTP/2 error code. What `collect` gathered of its body is still referred to:
    # the memory may go when that is written.
    cdef void on_close(self, h2_stream *stream, uint32_t code) noexcept
    # Local transport: a message of `size` bytes of ours went through our arena, or could not since that was full.
    cdef void on_message(self, h2_stream *stream, size_t size, bint full) noexcept
    # The peer has passed its arena on: the descriptor that came with it, which is the session's then; 0 = none has.
    cdef int on_arena(self) noexcept
    # It is mapped; or not, for this reason.
    cdef void on_mapped(self, const char *problem) noexcept
    # The peer has mapped ours.
    cdef void on_local(self) noexcept
    # Something was queued while no bytes came.
    cdef void on_release(self) noexcept
    cdef void on_settings(self) noexcept
    cdef void on_acknowledged(self) noexcept              # one of our SETTINGS
    cdef void on_goaway(self, int32_t last_stream, uint32_t code) noexcept
    # A frame of `kind` (H2_PING_FRAME and its like) has come.
    cdef void on_control(self, int kind) noexcept

    # Steps within.
    cdef void move(self, int state) noexcept
    cdef int check_queue(self) noexcept
    cdef int headers(self, int32_t id, const nghttp2_nv *fields, size_t count, const tg_buffer *block, size_t place,
                     bint last) noexcept
    cdef int take_preface(self, const uint8_t **at, const uint8_t *end) noexcept
    cdef int take_part(self, const uint8_t **at, const uint8_t *end) noexcept
    cdef int take_frame(self, const h2_frame *frame, const uint8_t *payload) noexcept
    cdef void begin_data(self, uint32_t padding) noexcept
    cdef void take_data(self, const char *data, size_t size) noexcept
    cdef void end_data(self) noexcept
    cdef int take_headers(self, const h2_frame *frame, const uint8_t *payload) noexcept
    cdef h2_entry *open_stream(self, int32_t id) noexcept
    cdef h2_entry *known_stream(self, int32_t id) noexcept
    cdef void refuse_stream(self, int32_t id) noexcept
    cdef int take_block(self, const uint8_t *data, size_t size, bint last) noexcept
    cdef void repeat_block(self, h2_repeat *repeat) noexcept
    cdef void end_block(self) noexcept
    cdef void fail_block(self, h2_entry *entry) noexcept
    cdef void end_remote(self, h2_entry *entry) noexcept
    cdef int take_settings(self, const h2_frame *frame, const uint8_t *payload) noexcept
    cdef uint32_t take_setting(self, uint32_t name, uint32_t value, uint32_t *window) noexcept
    cdef int move_windows(self, int64_t by, bint ours) noexcept
    cdef int take_reset(self, const h2_frame *frame, const uint8_t *payload) noexcept
    cdef int take_ping(self, const h2_frame *frame, const uint8_t *payload) noexcept
    cdef int take_goaway(self, const h2_frame *frame, const uint8_t *payload) noexcept
    cdef int take_arena(self, const h2_frame *frame) noexcept
    cdef int take_view(self, const h2_frame *frame, const uint8_t *payload) noexcept
    cdef int take_release(self, const h2_frame *frame, const uint8_t *payload) noexcept
    cdef int take_window(self, const h2_frame *frame, const uint8_t *payload) noexcept
    cdef bint idle(self, int32_t id) noexcept
    cdef void take_late(self, int32_t id, bint data, uint32_t length, bint last) noexcept
    cdef void end_late(self, int32_t id) noexcept
    cdef void reply_reset(self, int32_t id, uint32_t code) noexcept
    cdef void fail_stream(self, h2_entry *entry, uint32_t code) noexcept
    cdef void wake(self, h2_entry *entry) noexcept
    cdef void end_local(self, h2_entry *entry) noexcept
    cdef void note_reset(self, const h2_entry *entry) noexcept
    cdef void close(self, h2_entry *entry, uint32_t code) noexcept
    cdef int settle(self) noexcept
    cdef int send_body(self, h2_entry *entry) noexcept
    cdef bint begin_message(self, h2_entry *entry) noexcept
    cdef int send_message(self, h2_entry *entry) noexcept
    cdef int keep_lent(self, h2_stream *stream) noexcept
    cdef int end_sending(self, h2_entry *entry, bint trailers) noexcept
    cdef int end_body(self, int32_t id, const tg_buffer *trailers) noexcept
    cdef int put_queue(self) noexcept
