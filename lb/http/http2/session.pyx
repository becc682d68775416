"""One side of one HTTP/2 connection: see session.pxd for the contract.

    feed         bytes become frames, each taken by its kind
    begin_data   DATA: flow control, then the stream's owner
    take_headers header blocks: which stream, what it says, whether the message is well-formed
    take_…       settings, windows, resets, pings, farewells
    submit …     what owners of streams ask for
    collect      queued frames, then the bodies of streams in turn, within the windows that the peer gives
"""

from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.limits cimport INT_MAX
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy
from lb.net.arena cimport Arena, View, map_arena, mapping_release, tg_block, view_of
from lb.net.buffer cimport tg_buffer, tg_buffer_append, tg_buffer_free, tg_buffer_head, tg_buffer_size
from lb.http.http2.hpack cimport hpack_resize
from lb.http.http2.block cimport block_field, block_next
from lb.http.http2.blocks cimport (
    BLOCK_BOMB, BLOCK_END, BLOCK_FIELD, BLOCK_MALFORMED, BLOCK_MORE, BLOCK_NO_MEMORY, blocks_begin, blocks_end,
    blocks_free, blocks_init, blocks_keep, blocks_keep_all, blocks_look, blocks_next,
)
from lb.http.http2.closed cimport (
    CLOSED_BY_PEER, CLOSED_CUT, CLOSED_ENDED, CLOSED_NEVER, closed_add, closed_find, closed_free, closed_how,
    closed_skip, closed_widen, h2_reset,
)
from lb.http.http2.frames cimport *
from lb.http.http2.gather cimport (
    body_copy, body_passed, gather_begin, gather_body, gather_copy, gather_end, gather_has_room,
)
from lb.http.http2.message cimport h2_message, message_begin, message_body, message_end, message_note_method
from lb.http.http2.queue cimport (
    queue_free, queue_goaway, queue_opening, queue_headers, queue_init, queue_local_arena, queue_local_release,
    queue_ping, queue_pong, queue_reset, queue_reset_reply, queue_settings, queue_settings_ack, queue_taken,
    queue_trailers, queue_window,
)
from lb.http.http2.repeats cimport h2_repeat
from lb.http.http2.streams cimport (
    STREAM_BOTH, STREAM_CLOSED, STREAM_LOCAL, STREAM_REMOTE, h2_entry, h2_stream, h2_waiting, local_ended,
    remote_ended, table_above, table_add, table_find, table_free, table_init, table_remove,
)
from lb.net.link cimport link_append, link_empty, link_init, link_remove, link_splice, tg_link
from lb.http.http2.nghttp2 cimport nghttp2_nv
from lb.net.states cimport states_of, tg_move, tg_state, tg_states

cdef enum:
    STREAMS_UNKNOWN = 100             # that may be opened until the peer's SETTINGS say how many (section 6.5.2)
    STREAMS_UNLIMITED = 0xFFFFFFFF
    SETTINGS_MOST = 32                # in a frame, as nghttp2 has it (CVE-2020-11080)
    FRAME_LARGEST = 0xFFFFFF          # that SETTINGS_MAX_FRAME_SIZE may allow
    # Most CONTINUATION frames of a block, which costs its sender 9 bytes each (CVE-2024-27316): nghttp2 takes as many.
    CONTINUATIONS = 8
    # A window is opened anew when so much of it is gone: seldom, and long before it is shut.
    HALF = 2
    LOW_WATER = 16 * 1024             # bytes in a queue below which its owner may add to it again
    # Of `work`.
    RESET_WORK = 16                   # an exchange that is given up, and often its connection to an endpoint with it
    STREAM_WORK = 3                   # a request begins
    BLOCK_SHIFT = 8                   # octets of a block, each of which may be a field: a power of two for one
    DATA_SHIFT = 12                   # bytes of bodies: a power of two for one
    MESSAGE_HEAD = 5                  # bytes of gRPC's: a flag, and the length
    LOCAL_SIZE = 8                    # bytes of a LOCAL_DATA frame's payload
    # `send_body`
    GONE_ON = 0
    HELD = 1                          # the connection's window is shut

# Which state of a session may follow which.
cdef tg_states TABLE
TABLE.machine = b"HTTP/2 session"
tg_state(&TABLE, b"new", 1 << SESSION_PREFACE | 1 << SESSION_SETTINGS)
tg_state(&TABLE, b"preface", 1 << SESSION_SETTINGS | 1 << SESSION_OVER)
tg_state(&TABLE, b"settings", 1 << SESSION_OPEN | 1 << SESSION_OVER)
tg_state(&TABLE, b"open", 1 << SESSION_OVER)
tg_state(&TABLE, b"over", 0)
STATES = states_of(&TABLE)

# Which state of a stream may follow which.
cdef tg_states STREAMS
STREAMS.machine = b"HTTP/2 stream"
tg_state(&STREAMS, b"open", 1 << STREAM_LOCAL | 1 << STREAM_REMOTE | 1 << STREAM_CLOSED)
tg_state(&STREAMS, b"local", 1 << STREAM_BOTH | 1 << STREAM_CLOSED)
tg_state(&STREAMS, b"remote", 1 << STREAM_BOTH | 1 << STREAM_CLOSED)
tg_state(&STREAMS, b"both", 1 << STREAM_CLOSED)
tg_state(&STREAMS, b"closed", 0)
STREAM_STATES = states_of(&STREAMS)


cdef inline bint body_is_here(const h2_message *message) noexcept nogil:
    return message.length >= 0 and message.received == <uint64_t>message.length


cdef class Http2Session:
    """A subclass handles the events."""

    def __cinit__(self):
        link_init(&self.ready)
        link_init(&self.ending)

    def __dealloc__(self):
        table_free(&self.table)
        closed_free(&self.closed)
        blocks_free(&self.blocks)
        self.end_local_transport()
        queue_free(&self.queue)
        tg_buffer_free(&self.partial)

    cdef void move(self, int state) noexcept:
        tg_move(&TABLE, &self.state, state)

    cdef int begin(self, bint server, const h2_options *options) noexcept:
        self.server = server
        self.options = options[0]
        self.next_id = 1
        self.work = INT_MAX
        self.window = WINDOW_FIRST
        self.peer_window = WINDOW_FIRST
        self.first_room = WINDOW_FIRST
        self.peer_streams = STREAMS_UNKNOWN
        self.preface = PREFACE_SIZE if server else 0
        table_init(&self.table)
        queue_init(&self.queue)
        if blocks_init(&self.blocks) < 0:
            return -1
        self.blocks.header_list = options.header_list
        self.blocks.max_fields = options.max_fields
        self.blocks.extended = server and options.connect_protocol
        self.move(SESSION_PREFACE if server else SESSION_SETTINGS)
        self.options.connection_window = max(options.connection_window, <uint32_t>WINDOW_FIRST)
        self.room = self.options.connection_window
        return queue_opening(&self.queue, server, options)

    # Bytes to frames.

    cdef int feed(self, const char *data, size_t size) noexcept:
        cdef const uint8_t *at = <const uint8_t *>data
        cdef const uint8_t *end = at + size
        cdef h2_frame frame
        cdef size_t n
        if self.preface and self.take_preface(&at, end) < 0:
            return -1
        self.untaken = 0
        while at < end and self.state != SESSION_OVER:
            if self.work <= 0:
                self.untaken = <size_t>(end - at)
                break
            if self.data_left:
                n = min(<size_t>self.data_left, <size_t>(end - at))
                self.data_left -= <uint32_t>n
                self.take_data(<const char *>at, n)
                at += n
                if self.data_left == 0:
                    self.end_data()
                continue
            if tg_buffer_size(&self.partial) or end - at < FRAME_HEADER:
                if self.take_part(&at, end) < 0:
                    return -1
                continue
            get_frame(&frame, at)
            if frame.kind == FRAME_DATA and not frame.flags & FLAG_PADDED and frame.length:
                # As it comes: a body is not gathered here.
                self.data = frame
                at += FRAME_HEADER
                if self.blocks.id or frame.length > FRAME_MOST or self.state == SESSION_SETTINGS:
                    self.take_frame(&frame, NULL)             # which refuses it
                    continue
                self.data_left = frame.length
                self.begin_data(0)
                continue
            if <size_t>(end - at) < FRAME_HEADER + frame.length and frame.length <= FRAME_MOST:
                if self.take_part(&at, end) < 0:
                    return -1
                continue
            if self.take_frame(&frame, at + FRAME_HEADER) < 0:
                return -1
            if self.state != SESSION_OVER:        # a frame that is too large ends beyond what is here
                at += FRAME_HEADER + frame.length
        return -1 if self.queue.choked else 0

    cdef int take_preface(self, const uint8_t **at, const uint8_t *end) noexcept:
        cdef size_t n = min(<size_t>self.preface, <size_t>(end - at[0]))
        if memcmp(at[0], PREFACE + PREFACE_SIZE - self.preface, n):
            return -1
        self.preface -= <int>n
        at[0] += n
        if self.preface == 0 and self.state == SESSION_PREFACE:
            self.move(SESSION_SETTINGS)
        return 0

    cdef int take_part(self, const uint8_t **at, const uint8_t *end) noexcept:
        """More of a frame that does not come as a whole; takes it when it is complete."""
        cdef h2_frame frame
        cdef size_t have = tg_buffer_size(&self.partial)
        cdef size_t wanted = FRAME_HEADER, n
        cdef int rc
        if have >= FRAME_HEADER:
            get_frame(&frame, <const uint8_t *>tg_buffer_head(&self.partial))
            wanted += frame.length
        n = min(wanted - have, <size_t>(end - at[0]))
        if tg_buffer_append(&self.partial, at[0], n) < 0:
            return -1
        at[0] += n
        have += n
        if have < wanted:
            return 0
        get_frame(&frame, <const uint8_t *>tg_buffer_head(&self.partial))
        if have == FRAME_HEADER:
            if frame.kind == FRAME_DATA and not frame.flags & FLAG_PADDED and frame.length:
                tg_buffer_free(&self.partial)
                self.data = frame
                if self.blocks.id or frame.length > FRAME_MOST or self.state == SESSION_SETTINGS:
                    return self.take_frame(&frame, NULL)      # which refuses it
                self.data_left = frame.length
                self.begin_data(0)
                return 0
            if frame.length and frame.length <= FRAME_MOST:
                return 0                          # its payload is still to come
        rc = self.take_frame(&frame, <const uint8_t *>tg_buffer_head(&self.partial) + FRAME_HEADER)
        tg_buffer_free(&self.partial)             # rare, and idle connections are many
        return rc

    cdef int take_frame(self, const h2_frame *frame, const uint8_t *payload) noexcept:
        """A whole frame. 0, or -1 (no memory); what is wrong with it ends the stream or the session."""
        cdef uint32_t size = frame.length
        cdef const uint8_t *data = payload
        self.work -= 1
        if size > FRAME_MOST:
            self.terminate(H2_FRAME_SIZE_ERROR)
        elif self.state == SESSION_SETTINGS and (frame.kind != FRAME_SETTINGS or frame.flags & FLAG_ACK):
            self.terminate(H2_PROTOCOL_ERROR)     # section 3.4
        elif self.blocks.id and (frame.kind != FRAME_CONTINUATION or frame.id != self.blocks.id):
            self.terminate(H2_PROTOCOL_ERROR)     # section 6.10
        elif frame.kind == FRAME_DATA:
            if not skip_padding(frame, &data, &size):
                self.terminate(H2_PROTOCOL_ERROR)
                return 0
            self.data = frame[0]
            self.begin_data(frame.length - size)
            if self.state != SESSION_OVER and size:
                self.take_data(<const char *>data, size)
            if self.state != SESSION_OVER:
                self.end_data()
        elif frame.kind == FRAME_HEADERS:
            return self.take_headers(frame, payload)
        elif frame.kind == FRAME_CONTINUATION:
            self.blocks.frames += 1
            if not self.blocks.id:
                self.terminate(H2_PROTOCOL_ERROR)
            elif self.blocks.frames > CONTINUATIONS:
                self.terminate(H2_ENHANCE_YOUR_CALM)
            else:
                return self.take_block(payload, size, frame.flags & FLAG_END_HEADERS)
        elif frame.kind == FRAME_SETTINGS:
            return self.take_settings(frame, payload)
        elif frame.kind == FRAME_WINDOW_UPDATE:
            return self.take_window(frame, payload)
        elif frame.kind == FRAME_RST_STREAM:
            return self.take_reset(frame, payload)
        elif frame.kind == FRAME_PING:
            return self.take_ping(frame, payload)
        elif frame.kind == FRAME_GOAWAY:
            return self.take_goaway(frame, payload)
        elif frame.kind == FRAME_PUSH_PROMISE:
            self.terminate(H2_PROTOCOL_ERROR)     # nobody may push here
        elif self.options.local and frame.kind == FRAME_LOCAL_DATA:
            return self.take_view(frame, payload)
        elif self.options.local and frame.kind == FRAME_LOCAL_RELEASE:
            return self.take_release(frame, payload)
        elif self.options.local and frame.kind == FRAME_LOCAL_ARENA:
            return self.take_arena(frame)
        elif frame.kind == FRAME_PRIORITY and (frame.id == 0 or size != PRIORITY_SIZE):
            self.terminate(H2_FRAME_SIZE_ERROR if frame.id else H2_PROTOCOL_ERROR)
        else:
            self.on_control(H2_OTHER_FRAME)       # section 5.5: unknown ones are ignored
        return 0

    # DATA.

    cdef void begin_data(self, uint32_t padding) noexcept:
        cdef uint32_t length = self.data.length
        cdef h2_entry *entry = table_find(&self.table, self.data.id)
        self.work -= 1
        if entry == NULL and (self.data.id == 0 or self.idle(self.data.id)):
            self.terminate(H2_PROTOCOL_ERROR)
            return
        self.room -= length
        if self.room < 0:
            self.terminate(H2_FLOW_CONTROL_ERROR)
            return
        # The connection's window only bounds bursts: a stream that nobody reads must not stop the others.
        self.owed += length
        if self.owed >= self.options.connection_window // HALF and (
                queue_window(&self.queue, 0, <uint32_t>self.owed) == 0):
            self.room += self.owed
            self.owed = 0
        if entry == NULL:
            self.take_late(self.data.id, True, length, self.data.flags & FLAG_END_STREAM)
            return
        if remote_ended(entry):
            self.fail_stream(entry, H2_STREAM_CLOSED)
            return
        entry.room -= length
        if entry.room < 0:
            self.fail_stream(entry, H2_FLOW_CONTROL_ERROR)
            return
        if not message_body(&entry.message, length - padding):
            self.fail_stream(entry, H2_PROTOCOL_ERROR)
            return
        if padding and entry.stream != NULL:
            self.consume(<h2_stream *>entry.stream, padding)
        if length == padding and not self.data.flags & FLAG_END_STREAM:
            self.on_control(H2_EMPTY_FRAME)

    cdef void take_data(self, const char *data, size_t size) noexcept:
        cdef h2_entry *entry = table_find(&self.table, self.data.id)
        self.work -= <int>(size >> DATA_SHIFT)
        if entry != NULL and entry.stream != NULL:
            self.on_data(<h2_stream *>entry.stream, data, size)

    cdef void end_data(self) noexcept:
        cdef h2_entry *entry
        if self.data.flags & FLAG_END_STREAM:
            entry = table_find(&self.table, self.data.id)
            if entry != NULL:
                self.end_remote(entry)
            else:
                self.end_late(self.data.id)

    cdef void consume(self, h2_stream *stream, size_t size) noexcept:
        cdef h2_entry *entry = stream.entry
        if entry == NULL or remote_ended(entry):
            return
        entry.owed += <uint32_t>size
        if entry.owed < self.options.stream_window // HALF:
            return
        if queue_window(&self.queue, entry.id, entry.owed) == 0:      # without memory the window stays as it is
            entry.room += entry.owed
            entry.owed = 0

    # Header blocks, the streams that they open, and their ends.

    cdef int take_headers(self, const h2_frame *frame, const uint8_t *payload) noexcept:
        cdef uint32_t size = frame.length
        cdef const uint8_t *data = payload
        cdef h2_repeat *known
        if not skip_padding(frame, &data, &size):
            self.terminate(H2_PROTOCOL_ERROR)
            return 0
        if frame.flags & FLAG_PRIORITY:
            if size < PRIORITY_SIZE:
                self.terminate(H2_FRAME_SIZE_ERROR)
                return 0
            data += PRIORITY_SIZE                 # RFC 9113 section 5.3.2: of no meaning any more
            size -= PRIORITY_SIZE
        if frame.id == 0 or (self.server and frame.id % 2 == 0):
            self.terminate(H2_PROTOCOL_ERROR)
            return 0
        blocks_begin(&self.blocks, frame.id, frame.flags & FLAG_END_STREAM)
        if self.server and frame.id > self.last_id:
            self.blocks.entry = self.open_stream(frame.id)
        else:
            self.blocks.entry = self.known_stream(frame.id)
        if self.state == SESSION_OVER:
            return 0
        known = blocks_look(&self.blocks, data, size, frame.flags & FLAG_END_HEADERS)
        if known != NULL:
            self.repeat_block(known)
            return 0
        return self.take_block(data, size, frame.flags & FLAG_END_HEADERS)

    cdef h2_entry *open_stream(self, int32_t id) noexcept:
        """NULL: it is refused, or comes after our last word."""
        cdef h2_entry *entry
        cdef h2_stream *stream
        if id > self.last_id + 2:
            closed_skip(&self.closed, self.last_id + 1, id - 1)
        self.last_id = id
        self.work -= STREAM_WORK
        if self.leaving:
            return NULL
        if self.options.max_streams and <uint32_t>self.streams >= self.options.max_streams:
            self.refuse_stream(id)
            if self.acknowledged:
                self.on_control(H2_OTHER_FRAME)   # it knows how many it may have
            return NULL
        stream = self.on_request(id)
        entry = table_add(&self.table, id) if stream != NULL else NULL
        if entry == NULL:
            self.refuse_stream(id)
            return NULL
        self.taken_id = id
        self.streams += 1
        message_begin(&entry.message, False)
        entry.stream = stream
        entry.window = self.peer_window
        entry.room = self.first_room
        stream.entry = entry
        stream.id = id
        return entry

    cdef void refuse_stream(self, int32_t id) noexcept:
        self.reply_reset(id, H2_REFUSED_STREAM)
        if not self.blocks.last:
            closed_add(&self.closed, id, CLOSED_CUT, self.first_room)

    cdef h2_entry *known_stream(self, int32_t id) noexcept:
        """NULL: it was closed while the block was on its way."""
        cdef h2_entry *entry = table_find(&self.table, id)
        if entry == NULL:
            if self.idle(id):
                self.terminate(H2_PROTOCOL_ERROR)
            else:
                self.take_late(id, False, 0, self.blocks.last)
            return NULL
        if remote_ended(entry):
            self.fail_stream(entry, H2_STREAM_CLOSED)
            return NULL
        return entry

    cdef int take_block(self, const uint8_t *data, size_t size, bint last) noexcept:
        """A part of a block, whose fields come one by one."""
        cdef nghttp2_nv field
        cdef int step
        self.work -= <int>(size >> BLOCK_SHIFT)
        while True:
            step = blocks_next(&self.blocks, &data, &size, last, &field)
            if step == BLOCK_FIELD:
                if self.blocks.entry.stream != NULL:
                    self.on_field(<h2_stream *>self.blocks.entry.stream, <const char *>field.name, field.namelen,
                                  <const char *>field.value, field.valuelen)
            elif step == BLOCK_MALFORMED:
                self.fail_block(self.blocks.entry)
            elif step == BLOCK_END:
                self.end_block()
                return 0
            elif step == BLOCK_MORE:
                return 0
            elif step == BLOCK_NO_MEMORY:
                return -1
            elif step == BLOCK_BOMB:
                self.on_control(H2_BOMB_FRAME)
                self.terminate(H2_ENHANCE_YOUR_CALM)
                return 0
            else:
                self.terminate(H2_COMPRESSION_ERROR)
                return 0

    cdef void repeat_block(self, h2_repeat *repeat) noexcept:
        """The fields of a block that has come before."""
        cdef const char *at = tg_buffer_head(&repeat.fields)
        cdef const char *end = at + tg_buffer_size(&repeat.fields)
        cdef h2_stream *stream = <h2_stream *>self.blocks.entry.stream
        cdef block_field field
        if stream != NULL and self.gathers(stream):
            blocks_keep_all(&self.blocks, repeat)
        else:
            while block_next(&at, end, &field) and self.blocks.entry != NULL and self.blocks.entry.stream != NULL:
                self.on_field(<h2_stream *>self.blocks.entry.stream, field.name, field.name_size, field.value,
                              field.value_size)
        self.blocks.known = repeat
        self.end_block()
        self.blocks.known = NULL

    cdef void end_block(self) noexcept:
        cdef h2_entry *entry = self.blocks.entry
        cdef int32_t id = self.blocks.id
        cdef h2_stream *stream
        self.blocks.id = 0
        self.blocks.entry = NULL
        self.work -= <int>(self.blocks.decoded >> BLOCK_SHIFT)        # an octet may have been a long field
        if entry == NULL:
            return
        if not blocks_end(&self.blocks, entry):
            self.fail_block(entry)
            return
        stream = <h2_stream *>entry.stream
        if stream != NULL:
            stream.remote_ended = self.blocks.last
            self.on_fields_end(stream, self.blocks.last)
            entry = table_find(&self.table, id)   # the event may have ended it
        if self.blocks.last:
            if entry != NULL:
                self.end_remote(entry)
            else:
                self.end_late(id)

    cdef void fail_block(self, h2_entry *entry) noexcept:
        if self.blocks.last:                      # nothing may come behind it
            tg_move(&STREAMS, &entry.state, entry.state | STREAM_REMOTE)
        self.fail_stream(entry, H2_PROTOCOL_ERROR)

    cdef void end_remote(self, h2_entry *entry) noexcept:
        cdef h2_stream *stream = <h2_stream *>entry.stream
        cdef int32_t id = entry.id
        tg_move(&STREAMS, &entry.state, entry.state | STREAM_REMOTE)
        if not message_end(&entry.message):
            self.fail_stream(entry, H2_PROTOCOL_ERROR)
            return
        if stream != NULL:
            stream.remote_ended = True
            self.on_end(stream)
            entry = table_find(&self.table, id)   # the event may have ended it
        if entry != NULL and local_ended(entry):
            self.close(entry, H2_NO_ERROR)

    # Frames about the connection, or about a stream as such (section 6).

    cdef int take_settings(self, const h2_frame *frame, const uint8_t *payload) noexcept:
        cdef uint32_t at = 0, code
        cdef uint32_t window = <uint32_t>self.peer_window
        if frame.id or (frame.length if frame.flags & FLAG_ACK else frame.length % SETTING_SIZE):
            self.terminate(H2_PROTOCOL_ERROR if frame.id else H2_FRAME_SIZE_ERROR)
            return 0
        if frame.flags & FLAG_ACK:
            if not self.acknowledged:
                self.acknowledged = True
                self.first_room = self.options.stream_window
                self.move_windows(self.first_room - WINDOW_FIRST, True)
                closed_widen(&self.closed, self.first_room - WINDOW_FIRST)
            self.on_acknowledged()
            self.on_control(H2_OTHER_FRAME)
            return 0
        if frame.length > SETTINGS_MOST * SETTING_SIZE:
            self.terminate(H2_ENHANCE_YOUR_CALM)
            return 0
        if self.state == SESSION_SETTINGS:
            self.peer_streams = STREAMS_UNLIMITED
        while at < frame.length:
            code = self.take_setting(<uint32_t>payload[at] << 8 | payload[at + 1], get_u32(payload + at + 2), &window)
            if code:
                self.terminate(code)
                return 0
            at += SETTING_SIZE
        # Once for the frame: it costs a look at each stream.
        code = <uint32_t>self.peer_window
        self.peer_window = <int32_t>window
        if window != code and self.move_windows(<int64_t>window - code, False) < 0:
            self.terminate(H2_FLOW_CONTROL_ERROR)
            return 0
        if self.state == SESSION_SETTINGS:
            self.move(SESSION_OPEN)
        if queue_settings_ack(&self.queue) < 0:
            return self.check_queue()
        self.on_settings()
        self.on_control(H2_SETTINGS_FRAME)
        return 0

    cdef uint32_t take_setting(self, uint32_t name, uint32_t value, uint32_t *window) noexcept:
        """Section 6.5.2. 0, or the code of a connection error. `window` is what streams begin with."""
        if name == SETTING_HEADER_TABLE_SIZE:
            hpack_resize(&self.queue.encoder, value)
        elif name == SETTING_MAX_CONCURRENT_STREAMS:
            self.peer_streams = value
        elif name == SETTING_INITIAL_WINDOW_SIZE:
            if value > WINDOW_MOST:
                return H2_FLOW_CONTROL_ERROR
            window[0] = value
        elif name == SETTING_MAX_FRAME_SIZE:
            if value < FRAME_MOST or value > FRAME_LARGEST:
                return H2_PROTOCOL_ERROR
        elif name == SETTING_ENABLE_PUSH:
            # Only a client may want to be pushed to.
            if value > 1 or (value and not self.server):
                return H2_PROTOCOL_ERROR
        elif name == SETTING_LOCAL_TRANSPORT:
            self.peer_local = value
        elif name == SETTING_ENABLE_CONNECT_PROTOCOL and value > 1:
            return H2_PROTOCOL_ERROR
        return H2_NO_ERROR

    cdef int move_windows(self, int64_t by, bint ours) noexcept:
        """A changed initial window applies to the streams that are open (section 6.9.2). -1: one gets too large."""
        cdef h2_entry *entry
        cdef uint32_t i
        for i in range(self.table.size):
            entry = self.table.buckets[i]
            while entry != NULL:
                if ours:
                    entry.room += by
                else:
                    entry.window += by
                    if entry.window > WINDOW_MOST:
                        return -1
                    if entry.window > 0:
                        self.wake(entry)
                entry = entry.next
        return 0

    cdef int take_window(self, const h2_frame *frame, const uint8_t *payload) noexcept:
        cdef h2_entry *entry
        cdef uint32_t by
        if frame.length != 4:
            self.terminate(H2_FRAME_SIZE_ERROR)
            return 0
        by = get_u32(payload) & WINDOW_MOST
        if frame.id == 0:
            self.window += by
            if by == 0 or self.window > WINDOW_MOST:
                self.terminate(H2_FLOW_CONTROL_ERROR if by else H2_PROTOCOL_ERROR)
                return 0
        else:
            entry = table_find(&self.table, frame.id)
            if entry == NULL:
                if self.idle(frame.id):
                    self.terminate(H2_PROTOCOL_ERROR)
                    return 0
            else:
                entry.window += by
                if by == 0 or entry.window > WINDOW_MOST:
                    self.fail_stream(entry, H2_FLOW_CONTROL_ERROR if by else H2_PROTOCOL_ERROR)
                else:
                    self.wake(entry)
        self.on_control(H2_WINDOW_FRAME)
        return 0

    cdef int take_reset(self, const h2_frame *frame, const uint8_t *payload) noexcept:
        cdef h2_entry *entry = table_find(&self.table, frame.id)
        cdef bint ours = entry != NULL and entry.stream != NULL
        if frame.length != 4:
            self.terminate(H2_FRAME_SIZE_ERROR)
            return 0
        if frame.id == 0 or (entry == NULL and self.idle(frame.id)):
            self.terminate(H2_PROTOCOL_ERROR)
            return 0
        if entry != NULL:
            self.work -= RESET_WORK
            if ours:
                (<h2_stream *>entry.stream).reset_by_peer = True
            closed_add(&self.closed, entry.id, CLOSED_BY_PEER, 0)
            self.close(entry, get_u32(payload))
        elif closed_find(&self.closed, frame.id) != NULL:
            closed_find(&self.closed, frame.id).how = CLOSED_BY_PEER      # it crossed ours
        self.on_control(H2_RESET_FRAME if ours else H2_OTHER_FRAME)
        return 0

    cdef int take_ping(self, const h2_frame *frame, const uint8_t *payload) noexcept:
        if frame.id or frame.length != 8:
            self.terminate(H2_PROTOCOL_ERROR if frame.id else H2_FRAME_SIZE_ERROR)
        elif frame.flags & FLAG_ACK:
            self.on_control(H2_OTHER_FRAME)
        elif queue_pong(&self.queue, payload) < 0:
            return self.check_queue()
        else:
            self.on_control(H2_PING_FRAME)
        return 0

    cdef int take_goaway(self, const h2_frame *frame, const uint8_t *payload) noexcept:
        cdef int32_t last
        cdef h2_entry *entry
        if frame.id or frame.length < 8:
            self.terminate(H2_PROTOCOL_ERROR if frame.id else H2_FRAME_SIZE_ERROR)
            return 0
        last = <int32_t>(get_u32(payload) & STREAM_MOST)
        self.left = True
        while not self.server:
            entry = table_above(&self.table, last)
            if entry == NULL:
                break
            self.note_reset(entry)
            self.close(entry, H2_REFUSED_STREAM)  # section 6.8: it was not looked at
        self.on_goaway(last, get_u32(payload + 4))
        self.on_control(H2_OTHER_FRAME)
        return 0

    # Local transport.

    cdef int offer(self, Arena arena) noexcept:
        self.options.local = True
        self.offered = arena
        return queue_local_arena(&self.queue, False)

    cdef void end_local_transport(self) noexcept:
        if self.mapping != NULL:
            self.mapping.user = NULL
            mapping_release(self.mapping)
            self.mapping = NULL

    cdef int take_arena(self, const h2_frame *frame) noexcept:
        cdef const char *problem = b"no descriptor came with it"
        cdef int fd
        if frame.id or frame.length:
            self.terminate(H2_PROTOCOL_ERROR if frame.id else H2_FRAME_SIZE_ERROR)
            return 0
        if frame.flags & FLAG_ACK:
            if self.offered is None:
                self.terminate(H2_PROTOCOL_ERROR)
                return 0
            self.arena = self.offered
            self.offered = None
            self.on_local()
            return 0
        if self.mapping != NULL:
            self.terminate(H2_PROTOCOL_ERROR)     # one is enough
            return 0
        fd = self.on_arena()
        if fd:
            self.mapping = map_arena(fd, &problem)
        if self.mapping == NULL:
            self.on_control(H2_OTHER_FRAME)
            self.on_mapped(problem)
            return 0
        self.mapping.user = <void *>self
        self.mapping.tell = released
        if queue_local_arena(&self.queue, True) < 0:
            return self.check_queue()
        self.on_mapped(NULL)
        return 0

    cdef int take_view(self, const h2_frame *frame, const uint8_t *payload) noexcept:
        """As DATA. The stream's window counts it, but not to its end: a message is given as a whole as long as the
        window is not shut. What bounds all streams together is the arena."""
        cdef h2_entry *entry = table_find(&self.table, frame.id)
        cdef bint last = frame.flags & FLAG_END_STREAM
        cdef uint32_t size
        cdef View view
        if frame.length != LOCAL_SIZE:
            self.terminate(H2_FRAME_SIZE_ERROR)
            return 0
        if self.mapping == NULL or (entry == NULL and (frame.id == 0 or self.idle(frame.id))):
            self.terminate(H2_PROTOCOL_ERROR)
            return 0
        size = get_u32(payload + 4)
        view = view_of(self.mapping, get_u32(payload), size)
        if view is None:
            self.terminate(H2_FLOW_CONTROL_ERROR)
            return 0
        self.work -= <int>(size >> DATA_SHIFT)
        if entry == NULL:
            self.take_late(frame.id, True, 0, last)
        elif remote_ended(entry):
            self.fail_stream(entry, H2_STREAM_CLOSED)
        elif entry.room <= 0:
            self.fail_stream(entry, H2_FLOW_CONTROL_ERROR)
        elif not message_body(&entry.message, size):
            self.fail_stream(entry, H2_PROTOCOL_ERROR)
        else:
            entry.room -= size
            if entry.stream != NULL:
                self.on_view(<h2_stream *>entry.stream, view, last)
            if last:
                entry = table_find(&self.table, frame.id)     # the event may have ended it
                if entry != NULL:
                    self.end_remote(entry)
                else:
                    self.end_late(frame.id)
        return 0

    cdef int take_release(self, const h2_frame *frame, const uint8_t *payload) noexcept:
        if frame.id or frame.length != 4:
            self.terminate(H2_PROTOCOL_ERROR if frame.id else H2_FRAME_SIZE_ERROR)
        elif self.arena is None or self.arena.give_back(get_u32(payload)) < 0:
            self.terminate(H2_PROTOCOL_ERROR)
        return 0

    # Frames on streams that are not open (section 5.1), and errors of streams (section 5.4.2).

    cdef bint idle(self, int32_t id) noexcept:
        """Whether nobody has opened the stream yet."""
        if self.server or id % 2 == 0:
            return id > self.last_id
        return <uint32_t>id >= self.next_id

    cdef void take_late(self, int32_t id, bint data, uint32_t length, bint last) noexcept:
        """HEADERS or DATA of `length` bytes on a stream that is closed."""
        cdef h2_reset *reset = closed_find(&self.closed, id)
        cdef int how = closed_how(&self.closed, id)
        if self.server and (id % 2 == 0 or how == CLOSED_NEVER):
            self.terminate(H2_PROTOCOL_ERROR)     # section 5.1.1
        elif self.leaving and id > self.taken_id:
            self.on_control(H2_OTHER_FRAME)       # our last word was on its way
        elif how == CLOSED_ENDED:
            self.terminate(H2_STREAM_CLOSED)
        elif how == CLOSED_BY_PEER:
            self.work -= H2_FAULT_WORK
            self.reply_reset(id, H2_STREAM_CLOSED)
            self.on_control(H2_FAULT_FRAME)
        elif how == CLOSED_CUT and data and length > reset.room:
            self.terminate(H2_FLOW_CONTROL_ERROR)
        elif how == CLOSED_CUT and self.server and not data and not last:
            self.terminate(H2_PROTOCOL_ERROR)     # trailers that end nothing: this is no race
        else:
            if reset != NULL:
                reset.room -= length
            if last:
                self.end_late(id)
            self.on_control(H2_OTHER_FRAME)

    cdef void end_late(self, int32_t id) noexcept:
        """The peer has ended a stream that is closed."""
        cdef h2_reset *reset = closed_find(&self.closed, id)
        if reset != NULL and reset.how == CLOSED_CUT:
            reset.how = CLOSED_ENDED

    cdef void reply_reset(self, int32_t id, uint32_t code) noexcept:
        """RST_STREAM for a frame of the peer that does not fit."""
        if queue_reset_reply(&self.queue, id, code) < 0:
            self.check_queue()

    cdef void fail_stream(self, h2_entry *entry, uint32_t code) noexcept:
        """An error of the stream."""
        self.work -= H2_FAULT_WORK
        self.reply_reset(entry.id, code)
        self.note_reset(entry)
        self.close(entry, code)
        self.on_control(H2_FAULT_FRAME)

    # What owners of streams ask for.

    cdef int headers(self, int32_t id, const nghttp2_nv *fields, size_t count, const tg_buffer *block, size_t place,
                     bint last) noexcept:
        if queue_headers(&self.queue, id, fields, count, block, place, last) < 0:
            return self.check_queue()
        return 0

    cdef int end_body(self, int32_t id, const tg_buffer *trailers) noexcept:
        return 0 if queue_trailers(&self.queue, id, trailers) == 0 else self.check_queue()

    cdef int check_queue(self) noexcept:
        """A frame could not be queued, which may end the session. -1."""
        if (self.queue.choked or self.queue.broken) and self.state != SESSION_OVER:
            self.move(SESSION_OVER)
        return -1

    cdef int submit(self, h2_stream *stream, const nghttp2_nv *fields, size_t count, const tg_buffer *block,
                    size_t place) noexcept:
        cdef bint bodiless = (stream.streaming and stream.finished and not h2_waiting(stream)
                              and not tg_buffer_size(&stream.trailers))
        cdef h2_entry *entry
        if self.left or self.state == SESSION_OVER or self.next_id > STREAM_MOST:
            return H2_EXHAUSTED
        entry = table_add(&self.table, <int32_t>self.next_id)
        if entry == NULL:
            return H2_NO_MEMORY
        if self.headers(entry.id, fields, count, block, place, bodiless) < 0:
            table_remove(&self.table, entry)
            return H2_NO_MEMORY
        self.next_id += 2
        self.streams += 1
        message_begin(&entry.message, True)
        message_note_method(&entry.message, fields, count, block)
        entry.stream = stream
        entry.window = self.peer_window
        entry.room = self.first_room
        if bodiless:
            tg_move(&STREAMS, &entry.state, STREAM_LOCAL)
        entry.sending = not bodiless
        stream.entry = entry
        stream.id = entry.id
        stream.sent = bodiless
        self.wake(entry)
        return 0

    cdef int respond(self, h2_stream *stream, const nghttp2_nv *fields, size_t count, bint body) noexcept:
        cdef h2_entry *entry = stream.entry
        if entry == NULL or local_ended(entry) or self.headers(entry.id, fields, count, NULL, 0, not body) < 0:
            return -1
        if body:
            entry.sending = True
            self.wake(entry)
        else:
            stream.sent = True
            self.end_local(entry)
        return 0

    cdef int inform(self, h2_stream *stream, const nghttp2_nv *fields, size_t count) noexcept:
        return -1 if stream.entry == NULL else self.headers(stream.entry.id, fields, count, NULL, 0, False)

    cdef int write(self, h2_stream *stream, const void *data, size_t size) noexcept:
        cdef tg_block *block = NULL if stream.entry == NULL else stream.entry.block
        cdef size_t n
        if block != NULL and not h2_waiting(stream) and stream.handed + size > stream.keep:
            # Straight to where the peer reads it. What is kept for another attempt takes the way through the queue.
            n = min(size, <size_t>(block.size - block.filled))
            memcpy(block.data + block.filled, data, n)
            block.filled += <uint32_t>n
            body_passed(stream, n)
            data = <const char *>data + n
            size -= n
            self.wake(stream.entry)
        if stream.lent_size and tg_buffer_append(&stream.queue, stream.lent, stream.lent_size) < 0:
            return -1
        stream.lent_size = 0                      # it comes first
        if tg_buffer_append(&stream.queue, data, size) < 0:
            return -1
        if size and stream.entry != NULL:
            self.wake(stream.entry)
        return 0

    cdef int lend(self, h2_stream *stream, const char *data, size_t size, object lender) noexcept:
        if stream.lender != NULL:
            return -1
        Py_INCREF(lender)
        stream.lender = <PyObject *>lender
        stream.lent = data
        stream.lent_size = size
        if stream.entry != NULL:
            self.wake(stream.entry)
        return 0

    cdef void finish(self, h2_stream *stream) noexcept:
        stream.finished = True
        if stream.entry != NULL:
            self.wake(stream.entry)

    cdef void reset(self, h2_stream *stream, uint32_t code) noexcept:
        cdef h2_entry *entry = stream.entry
        if entry == NULL:
            return
        stream.entry = NULL
        entry.stream = NULL
        # Fails only without memory: then the peer goes on sending into a stream nobody looks at.
        queue_reset(&self.queue, entry.id, code)
        self.note_reset(entry)
        self.close(entry, code)

    cdef void forget(self, h2_stream *stream) noexcept:
        cdef h2_entry *entry = stream.entry
        if entry == NULL:
            return
        if not local_ended(entry):
            self.reset(stream, H2_CANCEL)         # nobody would ever end it
            return
        stream.entry = NULL
        entry.stream = NULL

    cdef int ping(self) noexcept:
        return queue_ping(&self.queue)

    cdef int ask(self) noexcept:
        return queue_settings(&self.queue)

    cdef void warn_shutdown(self) noexcept:
        queue_goaway(&self.queue, STREAM_MOST, H2_NO_ERROR)

    cdef void stop_streams(self) noexcept:
        queue_goaway(&self.queue, self.taken_id, H2_NO_ERROR)
        self.leaving = True

    cdef void terminate(self, uint32_t code) noexcept:
        if self.state == SESSION_OVER:
            return
        queue_goaway(&self.queue, self.taken_id, code)
        self.leaving = True
        self.move(SESSION_OVER)

    cdef bint ended(self) noexcept:
        if tg_buffer_size(&self.queue.frames):
            return False
        return self.state == SESSION_OVER or (self.streams == 0 and (self.leaving or self.left))

    cdef uint32_t peer_stream_limit(self) noexcept:
        return self.peer_streams

    # A stream's way through the lists, and its end.

    cdef void wake(self, h2_entry *entry) noexcept:
        """It may have something to send."""
        if entry.sending and not local_ended(entry) and entry.link.next == NULL:
            link_append(&self.ready, &entry.link)

    cdef void end_local(self, h2_entry *entry) noexcept:
        """A stream ends on our side."""
        tg_move(&STREAMS, &entry.state, entry.state | STREAM_LOCAL)
        link_remove(&entry.link)
        if self.server or remote_ended(entry):
            link_append(&self.ending, &entry.link)

    cdef void note_reset(self, const h2_entry *entry) noexcept:
        """The stream is about to be closed by a reset of ours."""
        if not remote_ended(entry):
            closed_add(&self.closed, entry.id, CLOSED_CUT, entry.room)

    cdef void close(self, h2_entry *entry, uint32_t code) noexcept:
        """Takes a stream out; its owner hears of it."""
        cdef h2_stream *stream = <h2_stream *>entry.stream
        if self.blocks.entry == entry:
            self.blocks.entry = NULL
        if entry.block != NULL:
            self.arena.drop(entry.block)
        tg_move(&STREAMS, &entry.state, STREAM_CLOSED)
        table_remove(&self.table, entry)
        self.streams -= 1
        if stream != NULL:
            stream.entry = NULL
            self.on_close(stream, code)

    cdef int settle(self) noexcept:
        """Closes the streams that have ended on our side. The answer is out: nobody waits for the rest of a request
        (RFC 9113 section 8.1). One that is here by its Content-Length, but for END_STREAM in an empty frame, stays
        until that comes: clients (httpx) take it for an error when they cannot send that any more."""
        cdef h2_entry *entry
        cdef h2_stream *stream
        while not link_empty(&self.ending):
            entry = <h2_entry *>self.ending.next.owner
            if remote_ended(entry) or not body_is_here(&entry.message):
                if not remote_ended(entry) and queue_reset(&self.queue, entry.id, H2_NO_ERROR) < 0:
                    return -1
                self.note_reset(entry)
                self.close(entry, H2_NO_ERROR)
                continue
            stream = <h2_stream *>entry.stream
            link_remove(&entry.link)
            entry.stream = NULL
            if stream != NULL:
                stream.entry = NULL
                self.on_close(stream, H2_NO_ERROR)
        return 0

    # Gathering.

    cdef int collect(self, tg_buffer *head, size_t budget) noexcept:
        cdef tg_link held
        cdef h2_entry *entry
        cdef int rc
        if self.spent is not None and self.spent:
            self.spent.clear()                    # what was gathered is written, or was copied
        gather_begin(&self.gathered, head)
        rc = self.put_queue()
        link_init(&held)
        while (rc >= 0 and self.state != SESSION_OVER and not link_empty(&self.ready)
               and self.gathered.bytes < budget and gather_has_room(&self.gathered)):
            entry = <h2_entry *>self.ready.next.owner
            link_remove(&entry.link)
            rc = self.send_body(entry)
            if rc == HELD:
                link_append(&held, &entry.link)
        link_splice(&self.ready, &held)
        if rc < 0 or self.settle() < 0 or self.put_queue() < 0:
            return -1
        gather_end(&self.gathered)
        return 1 if self.gathered.bytes else 0

    cdef int send_body(self, h2_entry *entry) noexcept:
        """One DATA frame of a stream, and what ends it. GONE_ON, HELD, or -1."""
        cdef h2_stream *stream = <h2_stream *>entry.stream
        cdef uint8_t header[FRAME_HEADER]
        cdef size_t ready = h2_waiting(stream) if stream.streaming else stream.left
        cdef size_t n = min(ready, <size_t>FRAME_MOST)
        cdef bint last, trailers
        if self.arena is not None and stream.messages and not entry.plain and (
                entry.block != NULL or self.begin_message(entry)):
            return self.send_message(entry)
        if n:
            if entry.window <= 0:
                return GONE_ON                    # until it opens
            if self.window <= 0:
                return HELD
            n = min(n, <size_t>min(entry.window, self.window))
        last = n == ready and (not stream.streaming or stream.finished)
        if n == 0 and not last:
            return GONE_ON                        # until there is more
        trailers = last and tg_buffer_size(&stream.trailers)
        if n or not trailers:
            put_frame(header, <uint32_t>n, FRAME_DATA, FLAG_END_STREAM if last and not trailers else 0, entry.id)
            if gather_copy(&self.gathered, <const char *>header, FRAME_HEADER) < 0 or (
                    gather_body(&self.gathered, stream, n) < 0):
                return -1
            if stream.lender != NULL and stream.lent_size == 0 and self.keep_lent(stream) < 0:
                return -1
            entry.window -= n
            self.window -= n
            self.data_frames += 1
        if last:
            return self.end_sending(entry, trailers)
        if n < ready:
            link_append(&self.ready, &entry.link)     # in turn
        if stream.wants_room and h2_waiting(stream) <= LOW_WATER:
            stream.wants_room = False
            self.on_room(stream)
        return GONE_ON

    cdef int keep_lent(self, h2_stream *stream) noexcept:
        """What was lent is gathered to the end: it is given back when that is written."""
        try:
            if self.spent is None:
                self.spent = []
            self.spent.append(<object>stream.lender)
        except MemoryError:
            return -1
        Py_DECREF(<object>stream.lender)
        stream.lender = NULL
        return 0

    cdef int end_sending(self, h2_entry *entry, bint trailers) noexcept:
        cdef h2_stream *stream = <h2_stream *>entry.stream
        stream.sent = True
        # What events have queued meanwhile was encoded before the trailers.
        if trailers and (self.put_queue() < 0 or self.end_body(entry.id, &stream.trailers) < 0
                         or self.put_queue() < 0):
            return -1
        self.end_local(entry)
        return GONE_ON

    cdef bint begin_message(self, h2_entry *entry) noexcept:
        """Whether the message that a body begins with gets a block; once not, the whole body goes by DATA."""
        cdef h2_stream *stream = <h2_stream *>entry.stream
        cdef const uint8_t *head
        cdef size_t size = 0
        if not stream.streaming:
            size = stream.left
        elif stream.handed == 0 and h2_waiting(stream) >= MESSAGE_HEAD:
            head = <const uint8_t *>tg_buffer_head(&stream.queue)
            size = MESSAGE_HEAD + <size_t>get_u32(head + 1)
        elif stream.handed == 0 and not stream.finished:
            return False                          # what comes next may tell
        if size >= LOCAL_LEAST:
            entry.block = self.arena.take(size)
            if entry.block != NULL:
                return True
            self.on_message(stream, size, True)
        entry.plain = True
        return False

    cdef int send_message(self, h2_entry *entry) noexcept:
        """More of a message goes into its block, which the peer is given when it is full."""
        cdef h2_stream *stream = <h2_stream *>entry.stream
        cdef tg_block *block = entry.block
        cdef uint8_t frame[FRAME_HEADER + LOCAL_SIZE]
        cdef size_t ready = h2_waiting(stream) if stream.streaming else stream.left
        cdef size_t n = min(ready, <size_t>(block.size - block.filled))
        cdef bint last, trailers
        if body_copy(stream, block.data + block.filled, n) < 0:
            return -1
        block.filled += <uint32_t>n
        ready -= n
        last = ready == 0 and (not stream.streaming or stream.finished)
        if block.filled < block.size and not last:
            if stream.wants_room:
                stream.wants_room = False
                self.on_room(stream)
            return GONE_ON
        if entry.window <= 0:
            return GONE_ON                        # until it opens
        trailers = last and tg_buffer_size(&stream.trailers)
        put_frame(frame, LOCAL_SIZE, FRAME_LOCAL_DATA, FLAG_END_STREAM if last and not trailers else 0, entry.id)
        put_u32(frame + FRAME_HEADER, block.offset)
        put_u32(frame + FRAME_HEADER + 4, block.filled)
        if gather_copy(&self.gathered, <const char *>frame, FRAME_HEADER + LOCAL_SIZE) < 0:
            return -1
        block.given = True
        entry.block = NULL
        entry.plain = True
        entry.window -= block.filled
        self.data_frames += 1
        self.on_message(stream, block.filled, False)
        if last:
            return self.end_sending(entry, trailers)
        if ready:
            link_append(&self.ready, &entry.link)
        elif stream.wants_room:
            stream.wants_room = False
            self.on_room(stream)
        return GONE_ON

    cdef int put_queue(self) noexcept:
        if gather_copy(&self.gathered, tg_buffer_head(&self.queue.frames), tg_buffer_size(&self.queue.frames)) < 0:
            return -1
        queue_taken(&self.queue)
        return 0

    # Events.

    cdef h2_stream *on_request(self, int32_t id) noexcept:
        return NULL

    cdef bint gathers(self, h2_stream *stream) noexcept:
        return True

    cdef void on_field(self, h2_stream *stream, const char *name, size_t name_size, const char *value,
                       size_t value_size) noexcept:
        blocks_keep(&self.blocks, name, name_size, value, value_size)

    cdef void on_fields_end(self, h2_stream *stream, bint last) noexcept:
        pass

    cdef void on_data(self, h2_stream *stream, const char *data, size_t size) noexcept:
        self.consume(stream, size)

    cdef char *on_destination(self, h2_stream *stream, size_t *room) noexcept:
        return NULL

    cdef void on_view(self, h2_stream *stream, View view, bint last) noexcept:
        self.on_data(stream, view.data, view.size)

    cdef void on_message(self, h2_stream *stream, size_t size, bint full) noexcept:
        pass

    cdef int on_arena(self) noexcept:
        return 0

    cdef void on_mapped(self, const char *problem) noexcept:
        pass

    cdef void on_local(self) noexcept:
        pass

    cdef void on_release(self) noexcept:
        pass

    cdef void on_end(self, h2_stream *stream) noexcept:
        pass

    cdef void on_room(self, h2_stream *stream) noexcept:
        pass

    cdef void on_close(self, h2_stream *stream, uint32_t code) noexcept:
        pass

    cdef void on_settings(self) noexcept:
        pass

    cdef void on_acknowledged(self) noexcept:
        pass

    cdef void on_goaway(self, int32_t last_stream, uint32_t code) noexcept:
        pass

    cdef void on_control(self, int kind) noexcept:
        pass


cdef void released(void *session, uint32_t offset) noexcept:
    """A view of the peer's arena is gone."""
    if queue_local_release(&(<Http2Session>session).queue, offset) == 0:      # without memory the peer's block is lost
        (<Http2Session>session).on_release()
