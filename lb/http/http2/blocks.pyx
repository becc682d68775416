"""Header blocks of HTTP/2, and the streams that they open: see blocks.pxd."""

from libc.stdint cimport int32_t, uint8_t, uint32_t
from lb.net.buffer cimport tg_buffer_append, tg_buffer_clear, tg_buffer_free, tg_buffer_head, tg_buffer_size
from lb.http.http2.block cimport BLOCK_OVERHEAD, block_add, block_field, block_next
from lb.http.http2.closed cimport CLOSED_CUT, closed_add, closed_skip
from lb.http.http2.control cimport H2_BOMB_FRAME, H2_OTHER_FRAME, Http2Control
from lb.http.http2.frames cimport (
    FLAG_END_HEADERS, FLAG_END_STREAM, FLAG_PRIORITY, H2_COMPRESSION_ERROR, H2_ENHANCE_YOUR_CALM, H2_FRAME_SIZE_ERROR,
    H2_NO_ERROR, H2_PROTOCOL_ERROR, H2_REFUSED_STREAM, H2_STREAM_CLOSED, PRIORITY_SIZE, h2_frame, skip_padding,
)
from lb.http.http2.message cimport message_begin, message_end, section_begin, section_end, section_field
from lb.http.http2.repeats cimport (
    REPEAT_FIELDS, h2_repeat, repeat_done, repeats_begin, repeats_find, repeats_free, repeats_look,
)
from lb.http.http2.sender cimport h2_options, h2_stream
from lb.http.http2.streams cimport h2_entry, table_add, table_find
from lb.http.http2.nghttp2 cimport (
    NGHTTP2_ERR_NOMEM, NGHTTP2_HD_INFLATE_EMIT, NGHTTP2_HD_INFLATE_FINAL, nghttp2_hd_inflate_del,
    nghttp2_hd_inflate_end_headers, nghttp2_hd_inflate_hd2, nghttp2_hd_inflate_new, nghttp2_nv,
)

cdef enum:
    FIELD_OVERHEAD = 32               # RFC 9113 section 6.5.2
    BOMB = 8                          # times `header_list`: no peer that reads our SETTINGS sends a block of that size
    # Of `work`.
    STREAM_WORK = 3                   # a request begins
    BLOCK_SHIFT = 8                   # octets of a block, each of which may be a field: a power of two for one


cdef class Http2Blocks(Http2Control):

    def __dealloc__(self):
        if self.decoder != NULL:
            nghttp2_hd_inflate_del(self.decoder)
        repeats_free(&self.repeats)
        tg_buffer_free(&self.block)

    cdef int begin(self, bint server, const h2_options *options) noexcept:
        if nghttp2_hd_inflate_new(&self.decoder):
            return -1
        return Http2Control.begin(self, server, options)

    cdef int take_headers(self, const h2_frame *frame, const uint8_t *payload) noexcept:
        cdef uint32_t size = frame.length
        cdef const uint8_t *data = payload
        cdef h2_entry *entry
        cdef h2_repeat *known
        cdef bint indices
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
        self.block_id = frame.id
        self.block_last = frame.flags & FLAG_END_STREAM
        self.block_frames = 0
        tg_buffer_clear(&self.block)
        self.block_fields = 0
        self.block_size = 0
        self.block_decoded = 0
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
        self.reset_reply(id, H2_REFUSED_STREAM)
        if not self.block_last:
            closed_add(&self.closed, id, CLOSED_CUT, self.first_room)

    cdef h2_entry *known_stream(self, int32_t id) noexcept:
        """NULL: it was closed while the block was on its way."""
        cdef h2_entry *entry = table_find(&self.table, id)
        if entry == NULL:
            if self.idle(id):
                self.terminate(H2_PROTOCOL_ERROR)
            else:
                self.take_late(id, False, 0, self.block_last)
            return NULL
        if entry.remote_ended:
            self.fail_stream(entry, H2_STREAM_CLOSED)
            return NULL
        return entry

    cdef int take_block(self, const uint8_t *data, size_t size, bint last) noexcept:
        """A part of a block. It is decoded in any case: the decoder has to know what the peer's encoder knows.

        A block that goes on far beyond the limit ends the session. An octet may stand for a field of 4 KiB (RFC 7541
        section 7.3), so that to decode it costs us thousands of times what it costs the peer."""
        cdef nghttp2_nv field
        cdef ssize_t n
        cdef int flags
        self.work -= <int>(size >> BLOCK_SHIFT)
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
                self.block_decoded += field.namelen + field.valuelen + FIELD_OVERHEAD
                if self.block_decoded > BOMB * <size_t>self.options.header_list:
                    self.on_control(H2_BOMB_FRAME)
                    self.terminate(H2_ENHANCE_YOUR_CALM)
                    return 0
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
            self.fail_block(entry)
            return
        if self.repeat != NULL and (
                tg_buffer_size(&self.repeat.fields) > REPEAT_FIELDS
                or block_add(&self.repeat.fields, <const char *>field.name, field.namelen, <const char *>field.value,
                             field.valuelen) < 0):
            self.repeat = NULL
        if self.repeat != NULL:
            self.repeat.count += 1
        if entry.stream != NULL:
            self.on_field(<h2_stream *>entry.stream, <const char *>field.name, field.namelen,
                          <const char *>field.value, field.valuelen)

    cdef void repeat_block(self, h2_repeat *repeat) noexcept:
        """The fields of a block that has come before."""
        cdef const char *at = tg_buffer_head(&repeat.fields)
        cdef const char *end = at + tg_buffer_size(&repeat.fields)
        cdef h2_entry *entry = self.block_entry
        cdef block_field field
        self.section = repeat.section
        self.block_decoded = tg_buffer_size(&repeat.fields)
        if entry.stream != NULL and self.gathers(<h2_stream *>entry.stream):
            self.keep_fields(repeat)
        else:
            while block_next(&at, end, &field) and self.block_entry != NULL and self.block_entry.stream != NULL:
                self.on_field(<h2_stream *>self.block_entry.stream, field.name, field.name_size, field.value,
                              field.value_size)
        self.known = repeat
        self.end_block()
        self.known = NULL

    cdef void keep_fields(self, const h2_repeat *repeat) noexcept:
        """All of them, which were within the limits when they were kept one by one."""
        cdef size_t size = tg_buffer_size(&repeat.fields)
        self.block_fields = repeat.count
        self.block_size = size - repeat.count * BLOCK_OVERHEAD + repeat.count * FIELD_OVERHEAD
        if tg_buffer_append(&self.block, tg_buffer_head(&repeat.fields), size) < 0:
            self.block_over = True

    cdef void end_block(self) noexcept:
        cdef h2_entry *entry = self.block_entry
        cdef int32_t id = self.block_id
        cdef h2_stream *stream
        self.block_id = 0
        self.block_entry = NULL
        self.work -= <int>(self.block_decoded >> BLOCK_SHIFT)     # an octet may have been a long field
        if entry == NULL:
            return
        if self.repeat != NULL and not self.block_over:
            repeat_done(&self.repeats, self.repeat, &self.section)
        if self.block_over:
            entry.message.begun = True            # its owner refuses it, whatever else it is
        elif not section_end(&self.section, &entry.message, self.block_last):
            self.fail_block(entry)
            return
        if self.block_last and not message_end(&entry.message):
            self.fail_block(entry)
            return
        stream = <h2_stream *>entry.stream
        if stream != NULL:
            stream.remote_ended = self.block_last
            self.on_fields_end(stream, self.block_last)
            entry = table_find(&self.table, id)   # the event may have ended it
        if self.block_last:
            if entry != NULL:
                self.end_remote(entry)
            else:
                self.end_late(id)

    cdef void fail_block(self, h2_entry *entry) noexcept:
        entry.remote_ended = self.block_last      # nothing may come behind it
        self.fail_stream(entry, H2_PROTOCOL_ERROR)

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

    cdef void end_remote(self, h2_entry *entry) noexcept:
        cdef h2_stream *stream = <h2_stream *>entry.stream
        cdef int32_t id = entry.id
        entry.remote_ended = True
        if not message_end(&entry.message):
            self.fail_stream(entry, H2_PROTOCOL_ERROR)
            return
        if stream != NULL:
            stream.remote_ended = True
            self.on_end(stream)
            entry = table_find(&self.table, id)   # the event may have ended it
        if entry != NULL and entry.local_ended:
            self.close(entry, H2_NO_ERROR)

    # Events.

    cdef h2_stream *on_request(self, int32_t id) noexcept:
        return NULL

    cdef bint gathers(self, h2_stream *stream) noexcept:
        return True

    cdef void on_field(self, h2_stream *stream, const char *name, size_t name_size, const char *value,
                       size_t value_size) noexcept:
        self.keep_field(name, name_size, value, value_size)

    cdef void on_fields_end(self, h2_stream *stream, bint last) noexcept:
        pass

    cdef void on_end(self, h2_stream *stream) noexcept:
        pass
