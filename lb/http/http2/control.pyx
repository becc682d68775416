"""The frames that are about a connection or a stream as such: see control.pxd."""

from libc.limits cimport INT_MAX
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t
from lb.net.buffer cimport tg_buffer_append
from lb.http.http2.hpack cimport hpack_init, hpack_resize
from lb.http.http2.closed cimport (
    CLOSED_BY_PEER, CLOSED_CUT, CLOSED_ENDED, CLOSED_NEVER, closed_add, closed_find, closed_how, closed_widen, h2_reset,
)
from lb.http.http2.frames cimport *
from lb.http.http2.sender cimport h2_options, h2_stream
from lb.http.http2.streams cimport h2_entry, table_above, table_find, table_init

cdef enum:
    STREAMS_UNKNOWN = 100             # that may be opened until the peer's SETTINGS say how many (section 6.5.2)
    STREAMS_UNLIMITED = 0xFFFFFFFF
    OURS_ENTRIES = 5                  # of SETTINGS that we send
    SETTING = 6                       # bytes of one
    SETTINGS_MOST = 32                # in a frame, as nghttp2 has it (CVE-2020-11080)
    # Of `work`.
    RESET_WORK = 16                   # an exchange that is given up, and often its connection to an endpoint with it
    FRAME_LARGEST = 0xFFFFFF          # that SETTINGS_MAX_FRAME_SIZE may allow


cdef class Http2Control(Http2Sender):

    cdef int begin(self, bint server, const h2_options *options) noexcept:
        cdef uint32_t names[OURS_ENTRIES]
        cdef uint32_t values[OURS_ENTRIES]
        cdef uint32_t count = 2, i, window
        cdef uint8_t *at
        self.server = server
        self.options = options[0]
        self.next_id = 1
        self.work = INT_MAX
        self.window = WINDOW_FIRST
        self.peer_window = WINDOW_FIRST
        self.first_room = WINDOW_FIRST
        self.peer_streams = STREAMS_UNKNOWN
        table_init(&self.table)
        hpack_init(&self.encoder)
        names[0] = SETTING_INITIAL_WINDOW_SIZE
        values[0] = options.stream_window
        names[1] = SETTING_MAX_HEADER_LIST_SIZE
        values[1] = options.header_list
        if not server:
            names[count] = SETTING_ENABLE_PUSH
            values[count] = 0
            count += 1
            if tg_buffer_append(&self.control, PREFACE, PREFACE_SIZE) < 0:
                return -1
        if options.max_streams:
            names[count] = SETTING_MAX_CONCURRENT_STREAMS
            values[count] = options.max_streams
            count += 1
        if options.connect_protocol:
            names[count] = SETTING_ENABLE_CONNECT_PROTOCOL
            values[count] = 1
            count += 1
        at = self.frame(SETTING * count, FRAME_SETTINGS, 0, 0)
        if at == NULL:
            return -1
        for i in range(count):
            at[0] = 0
            at[1] = <uint8_t>names[i]
            put_u32(at + 2, values[i])
            at += SETTING
        # The connection's window begins with what every peer believes it to be, and only grows.
        window = max(options.connection_window, <uint32_t>WINDOW_FIRST)
        self.options.connection_window = window
        self.room = window
        if window > WINDOW_FIRST:
            at = self.frame(4, FRAME_WINDOW_UPDATE, 0, 0)
            if at == NULL:
                return -1
            put_u32(at, window - WINDOW_FIRST)
        return 0

    cdef int ping(self) noexcept:
        cdef uint8_t *at = self.frame(8, FRAME_PING, 0, 0)
        if at == NULL:
            return -1
        put_u32(at, 0)
        put_u32(at + 4, 0)
        return 0

    cdef int ask(self) noexcept:
        return -1 if self.frame(0, FRAME_SETTINGS, 0, 0) == NULL else 0

    cdef int pong(self, const uint8_t *payload) noexcept:
        cdef uint8_t *at = self.reply(8, FRAME_PING, FLAG_ACK, 0)
        if at == NULL:
            return -1
        put_u32(at, get_u32(payload))
        put_u32(at + 4, get_u32(payload + 4))
        return 0

    # Leaving.

    cdef int goaway(self, int32_t last, uint32_t code) noexcept:
        cdef uint8_t *at = self.frame(8, FRAME_GOAWAY, 0, 0)
        if at == NULL:
            return -1
        put_u32(at, <uint32_t>last)
        put_u32(at + 4, code)
        return 0

    cdef void warn_shutdown(self) noexcept:
        self.goaway(STREAM_MOST, H2_NO_ERROR)

    cdef void stop_streams(self) noexcept:
        self.goaway(self.taken_id, H2_NO_ERROR)
        self.leaving = True

    cdef void terminate(self, uint32_t code) noexcept:
        if self.over:
            return
        self.goaway(self.taken_id, code)
        self.leaving = True
        self.over = True

    # What the peer says.

    cdef bint idle(self, int32_t id) noexcept:
        """Whether nobody has opened the stream yet."""
        if self.server or id % 2 == 0:
            return id > self.last_id
        return <uint32_t>id >= self.next_id

    cdef void fail_stream(self, h2_entry *entry, uint32_t code) noexcept:
        """Section 5.4.2."""
        self.work -= H2_FAULT_WORK
        self.reset_reply(entry.id, code)
        self.note_reset(entry)
        self.close(entry, code)
        self.on_control(H2_FAULT_FRAME)

    cdef void take_late(self, int32_t id, bint data, uint32_t length, bint last) noexcept:
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
            self.reset_reply(id, H2_STREAM_CLOSED)
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
        cdef h2_reset *reset = closed_find(&self.closed, id)
        if reset != NULL and reset.how == CLOSED_CUT:
            reset.how = CLOSED_ENDED

    cdef int take_settings(self, const h2_frame *frame, const uint8_t *payload) noexcept:
        cdef uint32_t at = 0, code
        cdef uint32_t window = <uint32_t>self.peer_window
        if frame.id or (frame.length if frame.flags & FLAG_ACK else frame.length % SETTING):
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
        if frame.length > SETTINGS_MOST * SETTING:
            self.terminate(H2_ENHANCE_YOUR_CALM)
            return 0
        if not self.greeted:
            self.peer_streams = STREAMS_UNLIMITED
        while at < frame.length:
            code = self.take_setting(<uint32_t>payload[at] << 8 | payload[at + 1], get_u32(payload + at + 2), &window)
            if code:
                self.terminate(code)
                return 0
            at += SETTING
        # Once for the frame: it costs a look at each stream.
        code = <uint32_t>self.peer_window
        self.peer_window = <int32_t>window
        if window != code and self.move_windows(<int64_t>window - code, False) < 0:
            self.terminate(H2_FLOW_CONTROL_ERROR)
            return 0
        self.greeted = True
        if self.reply(0, FRAME_SETTINGS, FLAG_ACK, 0) == NULL:
            return -1
        self.on_settings()
        self.on_control(H2_SETTINGS_FRAME)
        return 0

    cdef int take_setting(self, uint32_t name, uint32_t value, uint32_t *window) noexcept:
        """Section 6.5.2. 0, or the code of a connection error. `window` is what streams begin with."""
        if name == SETTING_HEADER_TABLE_SIZE:
            hpack_resize(&self.encoder, value)
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

    # Events.

    cdef void on_settings(self) noexcept:
        pass

    cdef void on_acknowledged(self) noexcept:
        pass

    cdef void on_goaway(self, int32_t last_stream, uint32_t code) noexcept:
        pass

    cdef void on_control(self, int kind) noexcept:
        pass
