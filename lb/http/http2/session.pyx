"""One side of one HTTP/2 connection: see session.pxd for the contract."""

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcmp
from lb.net.buffer cimport tg_buffer_append, tg_buffer_free, tg_buffer_head, tg_buffer_size
from lb.http.http2.blocks cimport Http2Blocks
from lb.http.http2.control cimport H2_EMPTY_FRAME, H2_OTHER_FRAME, H2_PING_FRAME
from lb.http.http2.frames cimport *
from lb.http.http2.message cimport message_body
from lb.http.http2.sender cimport h2_options, h2_stream
from lb.http.http2.streams cimport h2_entry, table_find

cdef enum:
    # Most CONTINUATION frames of a block, which costs its sender 9 bytes each (CVE-2024-27316): nghttp2 takes as many.
    CONTINUATIONS = 8
    # Of `work`.
    DATA_SHIFT = 12                   # bytes of bodies: a power of two for one
    # A window is opened anew when so much of it is gone: seldom, and long before it is shut.
    HALF = 2


cdef class Http2Session(Http2Blocks):
    """A subclass handles the events."""

    def __dealloc__(self):
        tg_buffer_free(&self.partial)

    cdef int begin(self, bint server, const h2_options *options) noexcept:
        self.preface = PREFACE_SIZE if server else 0
        return Http2Blocks.begin(self, server, options)

    # Bytes to frames.

    cdef int feed(self, const char *data, size_t size) noexcept:
        cdef const uint8_t *at = <const uint8_t *>data
        cdef const uint8_t *end = at + size
        cdef h2_frame frame
        cdef size_t n
        if self.preface and self.take_preface(&at, end) < 0:
            return -1
        self.untaken = 0
        while at < end and not self.over:
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
                if self.block_id or frame.length > FRAME_MOST or not self.greeted:
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
            if not self.over:                     # a frame that is too large ends beyond what is here
                at += FRAME_HEADER + frame.length
        return -1 if self.choked else 0

    cdef int take_preface(self, const uint8_t **at, const uint8_t *end) noexcept:
        cdef size_t n = min(<size_t>self.preface, <size_t>(end - at[0]))
        if memcmp(at[0], PREFACE + PREFACE_SIZE - self.preface, n):
            return -1
        self.preface -= <int>n
        at[0] += n
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
                if self.block_id or frame.length > FRAME_MOST or not self.greeted:
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
        elif not self.greeted and (frame.kind != FRAME_SETTINGS or frame.flags & FLAG_ACK):
            self.terminate(H2_PROTOCOL_ERROR)     # section 3.4
        elif self.block_id and (frame.kind != FRAME_CONTINUATION or frame.id != self.block_id):
            self.terminate(H2_PROTOCOL_ERROR)     # section 6.10
        elif frame.kind == FRAME_DATA:
            if not skip_padding(frame, &data, &size):
                self.terminate(H2_PROTOCOL_ERROR)
                return 0
            self.data = frame[0]
            self.begin_data(frame.length - size)
            if not self.over and size:
                self.take_data(<const char *>data, size)
            if not self.over:
                self.end_data()
        elif frame.kind == FRAME_HEADERS:
            return self.take_headers(frame, payload)
        elif frame.kind == FRAME_CONTINUATION:
            self.block_frames += 1
            if not self.block_id:
                self.terminate(H2_PROTOCOL_ERROR)
            elif self.block_frames > CONTINUATIONS:
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
            if frame.id or size != 8:
                self.terminate(H2_PROTOCOL_ERROR if frame.id else H2_FRAME_SIZE_ERROR)
            elif not frame.flags & FLAG_ACK:
                if self.pong(payload) < 0:
                    return -1
                self.on_control(H2_PING_FRAME)
            else:
                self.on_control(H2_OTHER_FRAME)
        elif frame.kind == FRAME_GOAWAY:
            return self.take_goaway(frame, payload)
        elif frame.kind == FRAME_PUSH_PROMISE:
            self.terminate(H2_PROTOCOL_ERROR)     # nobody may push here
        elif frame.kind == FRAME_PRIORITY and (frame.id == 0 or size != PRIORITY_SIZE):
            self.terminate(H2_FRAME_SIZE_ERROR if frame.id else H2_PROTOCOL_ERROR)
        else:
            self.on_control(H2_OTHER_FRAME)       # section 5.5: unknown ones are ignored
        return 0

    # DATA.

    cdef void begin_data(self, uint32_t padding) noexcept:
        cdef uint32_t length = self.data.length
        cdef h2_entry *entry = table_find(&self.table, self.data.id)
        cdef uint8_t *at
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
        if self.owed >= self.options.connection_window // HALF:
            at = self.frame(4, FRAME_WINDOW_UPDATE, 0, 0)
            if at != NULL:
                put_u32(at, <uint32_t>self.owed)
                self.room += self.owed
                self.owed = 0
        if entry == NULL:
            self.take_late(self.data.id, True, length, self.data.flags & FLAG_END_STREAM)
            return
        if entry.remote_ended:
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
        cdef uint8_t *at
        if entry == NULL or entry.remote_ended:
            return
        entry.owed += <uint32_t>size
        if entry.owed < self.options.stream_window // HALF:
            return
        at = self.frame(4, FRAME_WINDOW_UPDATE, 0, entry.id)
        if at != NULL:                            # without memory the peer's window stays as it is
            put_u32(at, entry.owed)
            entry.room += entry.owed
            entry.owed = 0

    # Events.

    cdef void on_data(self, h2_stream *stream, const char *data, size_t size) noexcept:
        self.consume(stream, size)
