"""One side of one HTTP/2 connection: see http2.pxd for the contract."""

from libc.stdint cimport int32_t, uint8_t, uint32_t
from libc.string cimport memcmp
from lb.core.buffer cimport tg_buffer_append, tg_buffer_clear, tg_buffer_free, tg_buffer_head, tg_buffer_size
from lb.core.http2_block cimport block_add, block_field, block_next
from lb.core.http2_control cimport H2_EMPTY_FRAME, H2_OTHER_FRAME, H2_PING_FRAME, Http2Control
from lb.core.http2_frames cimport *
from lb.core.http2_message cimport (
    message_begin, message_body, message_end, section_begin, section_end, section_field,
)
from lb.core.http2_repeats cimport (
    REPEAT_FIELDS, h2_repeat, repeat_done, repeats_begin, repeats_find, repeats_free, repeats_look,
)
from lb.core.http2_sender cimport h2_options, h2_stream
from lb.core.http2_streams cimport h2_entry, table_add, table_find
from lb.core.nghttp2 cimport (
    NGHTTP2_ERR_NOMEM, NGHTTP2_HD_INFLATE_EMIT, NGHTTP2_HD_INFLATE_FINAL, nghttp2_hd_inflate_del,
    nghttp2_hd_inflate_end_headers, nghttp2_hd_inflate_hd2, nghttp2_hd_inflate_new, nghttp2_nv,
)

cdef enum:
    FIELD_OVERHEAD = 32               # RFC 9113 section 6.5.2
    PRIORITY_SIZE = 5
    # Most CONTINUATION frames of a block, which costs its sender 9 bytes each (CVE-2024-27316): nghttp2 takes as many.
    CONTINUATIONS = 8
    # A window is opened anew when so much of it is gone: seldom, and long before it is shut.
    HALF = 2


cdef class Http2Session(Http2Control):
    """A subclass handles the events."""

    def __dealloc__(self):
        if self.decoder != NULL:
            nghttp2_hd_inflate_del(self.decoder)
        repeats_free(&self.repeats)
        tg_buffer_free(&self.partial)
        tg_buffer_free(&self.block)

    cdef int begin(self, bint server, const h2_options *options) noexcept:
        self.preface = PREFACE_SIZE if server else 0
        if nghttp2_hd_inflate_new(&self.decoder):
            return -1
        return Http2Control.begin(self, server, options)

    # Bytes to frames.

    cdef int feed(self, const char *data, size_t size) noexcept:
        cdef const uint8_t *at = <const uint8_t *>data
        cdef const uint8_t *end = at + size
        cdef h2_frame frame
        cdef size_t n
        if self.preface and self.take_preface(&at, end) < 0:
            return -1
        while at < end and not self.over:
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
        return 0

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
        if size > FRAME_MOST:
            self.terminate(H2_FRAME_SIZE_ERROR)
        elif not self.greeted and (frame.kind != FRAME_SETTINGS or frame.flags & FLAG_ACK):
            self.terminate(H2_PROTOCOL_ERROR)     # section 3.4
        elif self.block_id and (frame.kind != FRAME_CONTINUATION or frame.id != self.block_id):
            self.terminate(H2_PROTOCOL_ERROR)     # section 6.10
        elif frame.kind == FRAME_DATA:
            if not self.take_padding(frame, &data, &size):
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
        elif frame.kind == FRAME_GOAWAY:
            return self.take_goaway(frame, payload)
        elif frame.kind == FRAME_PUSH_PROMISE:
            self.terminate(H2_PROTOCOL_ERROR)     # nobody may push here
        elif frame.kind == FRAME_PRIORITY and (frame.id == 0 or size != PRIORITY_SIZE):
            self.terminate(H2_FRAME_SIZE_ERROR if frame.id else H2_PROTOCOL_ERROR)
        else:
            self.on_control(H2_OTHER_FRAME)       # section 5.5: unknown ones are ignored
        return 0

    cdef bint take_padding(self, const h2_frame *frame, const uint8_t **payload, uint32_t *size) noexcept:
        """Leaves what stands before the padding (section 6.1). False: there is more padding than frame."""
        cdef uint32_t padding
        if not frame.flags & FLAG_PADDED:
            return True
        if size[0] < 1 or payload[0][0] >= size[0]:
            self.terminate(H2_PROTOCOL_ERROR)
            return False
        padding = payload[0][0]
        payload[0] += 1
        size[0] -= 1 + padding
        return True

    # DATA.

    cdef void begin_data(self, uint32_t padding) noexcept:
        cdef uint32_t length = self.data.length
        cdef h2_entry *entry = table_find(&self.table, self.data.id)
        cdef uint8_t *at
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
            self.on_control(H2_OTHER_FRAME)       # on its way when the stream was reset
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
        if entry != NULL and entry.stream != NULL:
            self.on_data(<h2_stream *>entry.stream, data, size)

    cdef void end_data(self) noexcept:
        cdef h2_entry *entry
        if self.data.flags & FLAG_END_STREAM:
            entry = table_find(&self.table, self.data.id)
            if entry != NULL:
                self.end_remote(entry)

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

    cdef void end_remote(self, h2_entry *entry) noexcept:
        cdef h2_stream *stream = <h2_stream *>entry.stream
        cdef int32_t id = entry.id
        if not message_end(&entry.message):
            self.fail_stream(entry, H2_PROTOCOL_ERROR)
            return
        entry.remote_ended = True
        if stream != NULL:
            stream.remote_ended = True
            self.on_end(stream)
            entry = table_find(&self.table, id)   # the event may have ended it
        if entry != NULL and entry.local_ended:
            self.close(entry, H2_NO_ERROR)

    # Header blocks.

    cdef int take_headers(self, const h2_frame *frame, const uint8_t *payload) noexcept:
        cdef uint32_t size = frame.length
        cdef const uint8_t *data = payload
        cdef h2_entry *entry
        cdef h2_repeat *known
        cdef bint indices
        if not self.take_padding(frame, &data, &size):
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
        self.block_id = frame.id
        self.block_last = frame.flags & FLAG_END_STREAM
        self.block_frames = 0
        tg_buffer_clear(&self.block)
        self.block_fields = 0
        self.block_size = 0
        self.block_over = False
        entry = self.open_stream(frame.id) if self.server and frame.id > self.last_id else self.known_stream(frame.id)
        self.block_entry = entry
        if self.over:
            return 0
        self.repeat = NULL
        indices = repeats_look(&self.repeats, data, size, frame.flags & FLAG_END_HEADERS)
        if entry != NULL:
            section_begin(&self.section, &entry.message)
            if indices:
                known = repeats_find(&self.repeats, data, size, self.section.trailers)
                if known != NULL:
                    self.repeat_block(known)
                    return 0
                self.repeat = repeats_begin(&self.repeats, data, size)
        return self.take_block(data, size, frame.flags & FLAG_END_HEADERS)

    cdef h2_entry *open_stream(self, int32_t id) noexcept:
        """NULL: it is refused, or comes after our last word."""
        cdef h2_entry *entry
        cdef h2_stream *stream
        self.last_id = id
        if self.leaving:
            return NULL
        if self.options.max_streams and <uint32_t>self.streams >= self.options.max_streams:
            self.reset_frame(id, H2_REFUSED_STREAM)
            if self.acknowledged:
                self.on_control(H2_OTHER_FRAME)   # it knows how many it may have
            return NULL
        stream = self.on_request(id)
        entry = table_add(&self.table, id) if stream != NULL else NULL
        if entry == NULL:
            self.reset_frame(id, H2_REFUSED_STREAM)
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

    cdef h2_entry *known_stream(self, int32_t id) noexcept:
        """NULL: it was closed while the block was on its way."""
        cdef h2_entry *entry = table_find(&self.table, id)
        if entry == NULL:
            if self.idle(id):
                self.terminate(H2_PROTOCOL_ERROR)
            else:
                self.on_control(H2_OTHER_FRAME)
            return NULL
        if entry.remote_ended:
            self.fail_stream(entry, H2_STREAM_CLOSED)
            return NULL
        return entry

    cdef int take_block(self, const uint8_t *data, size_t size, bint last) noexcept:
        """A part of a block. It is decoded in any case: the decoder has to know what the peer's encoder knows."""
        cdef nghttp2_nv field
        cdef ssize_t n
        cdef int flags
        while True:
            flags = 0
            n = nghttp2_hd_inflate_hd2(self.decoder, &field, &flags, data, size, last)
            if n == NGHTTP2_ERR_NOMEM:
                return -1
            if n < 0:
                self.terminate(H2_COMPRESSION_ERROR)
                return 0
            data += n
            size -= n
            if flags & NGHTTP2_HD_INFLATE_EMIT:
                if self.block_entry != NULL:
                    self.take_field(&field)
            elif flags & NGHTTP2_HD_INFLATE_FINAL:
                nghttp2_hd_inflate_end_headers(self.decoder)
                self.end_block()
                return 0
            elif size == 0:
                return 0

    cdef void take_field(self, const nghttp2_nv *field) noexcept:
        cdef h2_entry *entry = self.block_entry
        if self.block_over:
            return                                # it is refused as a whole; bombs are made of what follows
        if not section_field(&self.section, &entry.message, self.server and self.options.connect_protocol,
                             <const char *>field.name, field.namelen, <const char *>field.value, field.valuelen):
            self.fail_stream(entry, H2_PROTOCOL_ERROR)
            return
        if self.repeat != NULL and (
                tg_buffer_size(&self.repeat.fields) > REPEAT_FIELDS
                or block_add(&self.repeat.fields, <const char *>field.name, field.namelen, <const char *>field.value,
                             field.valuelen) < 0):
            self.repeat = NULL
        if entry.stream != NULL:
            self.on_field(<h2_stream *>entry.stream, <const char *>field.name, field.namelen,
                          <const char *>field.value, field.valuelen)

    cdef void repeat_block(self, const h2_repeat *repeat) noexcept:
        """The fields of a block that has come before."""
        cdef const char *at = tg_buffer_head(&repeat.fields)
        cdef const char *end = at + tg_buffer_size(&repeat.fields)
        cdef block_field field
        self.section = repeat.section
        while block_next(&at, end, &field) and self.block_entry != NULL and self.block_entry.stream != NULL:
            self.on_field(<h2_stream *>self.block_entry.stream, field.name, field.name_size, field.value,
                          field.value_size)
        self.end_block()

    cdef void end_block(self) noexcept:
        cdef h2_entry *entry = self.block_entry
        cdef int32_t id = self.block_id
        cdef h2_stream *stream
        self.block_id = 0
        self.block_entry = NULL
        if entry == NULL:
            return
        if self.repeat != NULL and not self.block_over:
            repeat_done(&self.repeats, self.repeat, &self.section)
        if self.block_over:
            entry.message.begun = True            # its owner refuses it, whatever else it is
        elif not section_end(&self.section, &entry.message, self.block_last):
            self.fail_stream(entry, H2_PROTOCOL_ERROR)
            return
        if self.block_last and not message_end(&entry.message):
            self.fail_stream(entry, H2_PROTOCOL_ERROR)
            return
        stream = <h2_stream *>entry.stream
        if stream != NULL:
            stream.remote_ended = self.block_last
            self.on_fields_end(stream, self.block_last)
            entry = table_find(&self.table, id)   # the event may have ended it
        if entry != NULL and self.block_last:
            self.end_remote(entry)

    cdef void drop(self, h2_entry *entry) noexcept:
        if self.block_entry == entry:
            self.block_entry = NULL

    cdef void keep_field(self, const char *name, size_t name_size, const char *value, size_t value_size) noexcept:
        self.block_size += name_size + value_size + FIELD_OVERHEAD
        self.block_fields += 1
        if self.block_size > self.options.header_list or self.block_fields > self.options.max_fields:
            self.block_over = True
        if not self.block_over and block_add(&self.block, name, name_size, value, value_size) < 0:
            self.block_over = True

    # Events.

    cdef h2_stream *on_request(self, int32_t id) noexcept:
        return NULL

    cdef void on_field(self, h2_stream *stream, const char *name, size_t name_size, const char *value,
                       size_t value_size) noexcept:
        self.keep_field(name, name_size, value, value_size)

    cdef void on_fields_end(self, h2_stream *stream, bint last) noexcept:
        pass

    cdef void on_data(self, h2_stream *stream, const char *data, size_t size) noexcept:
        self.consume(stream, size)

    cdef void on_end(self, h2_stream *stream) noexcept:
        pass
