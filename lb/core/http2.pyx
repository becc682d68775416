"""One side of one HTTP/2 connection: see http2.pxd for the contract."""

from libc.stdint cimport int32_t, uint8_t, uint32_t
from libc.string cimport memchr, memcpy
from lb.core.blocks cimport tg_blocks
from lb.core.buffer cimport (
    tg_buffer, tg_buffer_append, tg_buffer_clear, tg_buffer_consume, tg_buffer_free, tg_buffer_head,
    tg_buffer_size, tg_buffer_tail,
)
from lb.core.nghttp2 cimport *

cdef enum:
    # Pieces of a body below this size are copied: that is cheaper than one more element of a gathered write.
    COPY_BELOW = 2048
    # Most pieces that one DATA frame (16 KiB at most) can add: eight big ones, small ones between, the frame header.
    FRAME_PIECES = 20
    LOW_WATER = 16 * 1024             # bytes in a queue below which its owner may add to it again
    TRAILERS = 64                     # most fields of the trailers that are sent
    FIELD_OVERHEAD = 32               # RFC 9113 section 6.5.2
    # nghttp2 opens a window anew when half of it is consumed. It is told in parts of this size, since telling it costs
    # more than receiving a small message: most streams end before the first.
    WINDOW_PARTS = 8


cdef int on_begin_headers(nghttp2_session *session, const nghttp2_frame *frame, void *user_data) noexcept:
    cdef Http2Session self = <Http2Session>user_data
    cdef h2_stream *stream
    tg_buffer_clear(&self.block)
    self.block_fields = 0
    self.block_size = 0
    self.block_over = False
    if self.server and frame.headers.cat == NGHTTP2_HCAT_REQUEST:
        stream = self.on_request(frame.hd.stream_id)
        self.incoming = stream
        self.streams += 1
        if stream == NULL:
            return nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, frame.hd.stream_id, NGHTTP2_REFUSED_STREAM)
        stream.id = frame.hd.stream_id
        self.found = stream
        return nghttp2_session_set_stream_user_data(session, frame.hd.stream_id, stream)
    self.incoming = self.find(frame.hd.stream_id)
    return 0


cdef int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t namelen,
                   const uint8_t *value, size_t valuelen, uint8_t flags, void *user_data) noexcept:
    cdef Http2Session self = <Http2Session>user_data
    if self.incoming != NULL:
        self.on_field(self.incoming, <const char *>name, namelen, <const char *>value, valuelen)
    return 0


cdef int on_data_chunk(nghttp2_session *session, uint8_t flags, int32_t stream_id, const uint8_t *data, size_t length,
                       void *user_data) noexcept:
    cdef Http2Session self = <Http2Session>user_data
    cdef h2_stream *stream = self.find(stream_id)
    cdef size_t owed = self.owed + length
    self.owed = owed
    if owed >= self.options.connection_window // WINDOW_PARTS:
        # The connection's window only bounds bursts: a stream that nobody reads must not stop the others.
        self.owed = 0
        if nghttp2_session_consume_connection(session, owed):
            return NGHTTP2_ERR_CALLBACK_FAILURE
    if stream != NULL:
        self.on_data(stream, <const char *>data, length)
    return 0


cdef int on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *user_data) noexcept:
    cdef Http2Session self = <Http2Session>user_data
    cdef h2_stream *stream
    cdef bint last = frame.hd.flags & NGHTTP2_FLAG_END_STREAM
    cdef int kind = frame.hd.type
    if kind == NGHTTP2_SETTINGS:
        if not frame.hd.flags & NGHTTP2_FLAG_ACK:
            self.on_settings()
            self.on_control(H2_SETTINGS_FRAME)
    elif kind == NGHTTP2_GOAWAY:
        self.on_goaway(frame.goaway.last_stream_id, frame.goaway.error_code)
    elif kind == NGHTTP2_HEADERS or kind == NGHTTP2_DATA or kind == NGHTTP2_RST_STREAM:
        stream = self.find(frame.hd.stream_id)
        if kind == NGHTTP2_RST_STREAM:
            if stream != NULL:
                stream.reset_by_peer = True
            self.on_control(H2_RESET_FRAME)
            return 0
        if kind == NGHTTP2_DATA and not last and frame.hd.length == 0:
            self.on_control(H2_EMPTY_FRAME)
        if stream == NULL:
            return 0
        if last:
            stream.remote_ended = True
        if kind == NGHTTP2_HEADERS:
            self.incoming = NULL
            self.on_fields_end(stream, last)
            # The event may have let go of the stream.
            if last and self.find(frame.hd.stream_id) == NULL:
                return 0
        if last:
            self.on_end(stream)
    elif kind == NGHTTP2_PING:
        if not frame.hd.flags & NGHTTP2_FLAG_ACK:
            self.on_control(H2_PING_FRAME)
    else:
        self.on_control(H2_OTHER_FRAME)
    return 0


cdef int on_frame_sent(nghttp2_session *session, const nghttp2_frame *frame, void *user_data) noexcept:
    cdef h2_stream *stream
    if not frame.hd.flags & NGHTTP2_FLAG_END_STREAM or not (<Http2Session>user_data).server:
        return 0
    if frame.hd.type != NGHTTP2_DATA and frame.hd.type != NGHTTP2_HEADERS:
        return 0
    stream = (<Http2Session>user_data).find(frame.hd.stream_id)
    if stream != NULL and not stream.remote_ended:
        # The answer is out: nobody waits for the rest of the request (RFC 9113 section 8.1).
        return nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, frame.hd.stream_id, NGHTTP2_NO_ERROR)
    return 0


cdef int on_stream_close(nghttp2_session *session, int32_t stream_id, uint32_t error_code, void *user_data) noexcept:
    cdef Http2Session self = <Http2Session>user_data
    cdef h2_stream *stream = self.find(stream_id)
    self.streams -= 1
    if self.incoming == stream:
        self.incoming = NULL
    if stream != NULL:
        self.on_close(stream, error_code)
    self.found = NULL
    return 0


cdef ssize_t read_body(nghttp2_session *session, int32_t stream_id, uint8_t *buf, size_t length, uint32_t *data_flags,
                       nghttp2_data_source *source, void *user_data) noexcept:
    cdef Http2Session self = <Http2Session>user_data
    cdef h2_stream *stream = self.find(stream_id)
    cdef size_t ready
    if stream == NULL:
        return NGHTTP2_ERR_DEFERRED          # let go of: its RST_STREAM is on the way
    ready = stream.left
    if stream.streaming:
        ready = h2_waiting(stream)
        if not ready and not stream.finished:
            stream.deferred = True
            return NGHTTP2_ERR_DEFERRED
    if ready > length:
        data_flags[0] |= NGHTTP2_DATA_FLAG_NO_COPY
        return <ssize_t>length
    if not stream.streaming or stream.finished:
        data_flags[0] |= NGHTTP2_DATA_FLAG_EOF
        if tg_buffer_size(&stream.trailers):
            data_flags[0] |= NGHTTP2_DATA_FLAG_NO_END_STREAM
            if self.submit_trailers(stream) < 0:
                return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE
    if stream.streaming and ready < COPY_BELOW:
        # It would be copied anyway: here it needs no `send_body`.
        if ready:
            memcpy(buf, tg_buffer_head(&stream.queue) + stream.kept, ready)
        self.advance_queue(stream, ready)
    else:
        data_flags[0] |= NGHTTP2_DATA_FLAG_NO_COPY
    return <ssize_t>ready


cdef int send_body(nghttp2_session *session, nghttp2_frame *frame, const uint8_t *framehd, size_t length,
                   nghttp2_data_source *source, void *user_data) noexcept:
    cdef Http2Session self = <Http2Session>user_data
    cdef h2_stream *stream
    if self.collected >= self.budget or self.pieces + FRAME_PIECES > H2_PIECES:
        return NGHTTP2_ERR_WOULDBLOCK        # asked again by the next `collect`
    stream = self.find(frame.hd.stream_id)
    if stream == NULL or (h2_waiting(stream) if stream.streaming else stream.left) < length:
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE
    if self.put(<const char *>framehd, 9) < 0:
        return NGHTTP2_ERR_CALLBACK_FAILURE
    if (self.put_queue(stream, length) if stream.streaming else self.put_body(stream, length)) < 0:
        return NGHTTP2_ERR_CALLBACK_FAILURE
    return 0


cdef nghttp2_session_callbacks *make_callbacks() except NULL:
    cdef nghttp2_session_callbacks *callbacks = NULL
    if nghttp2_session_callbacks_new(&callbacks):
        raise MemoryError
    nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, on_begin_headers)
    nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header)
    nghttp2_session_callbacks_set_on_frame_send_callback(callbacks, on_frame_sent)
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data_chunk)
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame)
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_stream_close)
    nghttp2_session_callbacks_set_send_data_callback(callbacks, send_body)
    return callbacks


cdef nghttp2_option *make_options() except NULL:
    cdef nghttp2_option *options = NULL
    if nghttp2_option_new(&options):
        raise MemoryError
    nghttp2_option_set_no_auto_window_update(options, 1)     # `consume` says when
    nghttp2_option_set_no_closed_streams(options, 1)         # they served only the priorities of RFC 7540
    return options


# Shared by all sessions, for the life of the process.
cdef nghttp2_session_callbacks *CALLBACKS = make_callbacks()
cdef nghttp2_option *OPTIONS = make_options()


cdef int block_add_lower(tg_buffer *block, const char *name, size_t name_size, const char *value,
                         size_t value_size) noexcept:
    cdef size_t i
    cdef char *at
    if block_add(block, name, name_size, value, value_size) < 0:
        return -1
    at = tg_buffer_tail(block) - name_size - value_size
    for i in range(name_size):
        if c'A' <= at[i] <= c'Z':
            at[i] |= 32
    return 0


cdef class Http2Session:
    """A subclass handles the events."""

    def __dealloc__(self):
        nghttp2_session_del(self.session)    # accepts NULL
        tg_buffer_free(&self.tail)
        tg_buffer_free(&self.block)

    cdef int begin(self, bint server, const h2_options *options) noexcept:
        cdef nghttp2_settings_entry settings[5]
        cdef size_t n = 2
        self.server = server
        self.options = options[0]
        if server:
            if nghttp2_session_server_new3(&self.session, CALLBACKS, <void *>self, OPTIONS, tg_blocks()):
                return -1
        elif nghttp2_session_client_new3(&self.session, CALLBACKS, <void *>self, OPTIONS, tg_blocks()):
            return -1
        settings[0].settings_id = NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE
        settings[0].value = options.stream_window
        settings[1].settings_id = NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE
        settings[1].value = options.header_list
        if not server:
            settings[n].settings_id = NGHTTP2_SETTINGS_ENABLE_PUSH
            settings[n].value = 0
            n += 1
        if options.max_streams:
            settings[n].settings_id = NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS
            settings[n].value = options.max_streams
            n += 1
        if options.connect_protocol:
            settings[n].settings_id = NGHTTP2_SETTINGS_ENABLE_CONNECT_PROTOCOL
            settings[n].value = 1
            n += 1
        if nghttp2_submit_settings(self.session, NGHTTP2_FLAG_NONE, settings, n):
            return -1
        if nghttp2_session_set_local_window_size(self.session, NGHTTP2_FLAG_NONE, 0,
                                                 <int32_t>options.connection_window):
            return -1
        return 0

    cdef int submit(self, h2_stream *stream, const nghttp2_nv *fields, size_t count) noexcept:
        cdef nghttp2_data_provider provider
        cdef int32_t rc
        cdef bint bodiless = (stream.streaming and stream.finished and not h2_waiting(stream)
                              and not tg_buffer_size(&stream.trailers))
        provider.source.ptr = NULL           # the stream's user data says it; that pointer can be taken back
        provider.read_callback = read_body
        stream.deferred = False
        rc = nghttp2_submit_request(self.session, NULL, fields, count, NULL if bodiless else &provider, stream)
        if rc < 0:
            return H2_NO_MEMORY if rc == NGHTTP2_ERR_NOMEM else H2_EXHAUSTED
        stream.id = rc
        stream.owed = 0
        stream.sent = bodiless
        self.streams += 1
        return 0

    cdef int respond(self, h2_stream *stream, const nghttp2_nv *fields, size_t count, bint body) noexcept:
        cdef nghttp2_data_provider provider
        provider.source.ptr = NULL
        provider.read_callback = read_body
        stream.deferred = False
        if nghttp2_submit_response(self.session, stream.id, fields, count, &provider if body else NULL):
            return -1
        if not body:
            stream.sent = True
        return 0

    cdef int inform(self, h2_stream *stream, const nghttp2_nv *fields, size_t count) noexcept:
        return -1 if nghttp2_submit_headers(self.session, NGHTTP2_FLAG_NONE, stream.id, NULL, fields, count,
                                            NULL) < 0 else 0

    cdef int write(self, h2_stream *stream, const void *data, size_t size) noexcept:
        if tg_buffer_append(&stream.queue, data, size) < 0:
            return -1
        if stream.deferred and size:
            stream.deferred = False
            nghttp2_session_resume_data(self.session, stream.id)
        return 0

    cdef void finish(self, h2_stream *stream) noexcept:
        stream.finished = True
        if stream.deferred:
            stream.deferred = False
            nghttp2_session_resume_data(self.session, stream.id)

    cdef void consume(self, h2_stream *stream, size_t size) noexcept:
        size += stream.owed
        if size < self.options.stream_window // WINDOW_PARTS:
            stream.owed = size
            return
        stream.owed = 0
        # Fails without memory, or when the stream is gone: then the peer's window stays as it is.
        nghttp2_session_consume_stream(self.session, stream.id, size)

    cdef void reset(self, h2_stream *stream, uint32_t code) noexcept:
        self.forget(stream)
        # Fails only without memory: then the peer goes on sending into a stream nobody looks at.
        nghttp2_submit_rst_stream(self.session, NGHTTP2_FLAG_NONE, stream.id, code)

    cdef h2_stream *find(self, int32_t id) noexcept:
        cdef h2_stream *stream = self.found
        if stream == NULL or stream.id != id:
            stream = <h2_stream *>nghttp2_session_get_stream_user_data(self.session, id)
            self.found = stream
        return stream

    cdef void forget(self, h2_stream *stream) noexcept:
        nghttp2_session_set_stream_user_data(self.session, stream.id, NULL)
        if self.found == stream:
            self.found = NULL
        if self.incoming == stream:
            self.incoming = NULL

    cdef int ping(self) noexcept:
        return nghttp2_submit_ping(self.session, NGHTTP2_FLAG_NONE, NULL)

    cdef void warn_shutdown(self) noexcept:
        nghttp2_submit_shutdown_notice(self.session)

    cdef void stop_streams(self) noexcept:
        nghttp2_submit_goaway(self.session, NGHTTP2_FLAG_NONE, nghttp2_session_get_last_proc_stream_id(self.session),
                              NGHTTP2_NO_ERROR, NULL, 0)

    cdef void terminate(self, uint32_t code) noexcept:
        nghttp2_session_terminate_session(self.session, code)

    cdef int feed(self, const char *data, size_t size) noexcept:
        return 0 if nghttp2_session_mem_recv(self.session, <const uint8_t *>data, size) >= 0 else -1

    cdef int collect(self, tg_buffer *head, size_t budget) noexcept:
        cdef const uint8_t *data
        cdef ssize_t n
        cdef int i
        self.head = head
        self.budget = budget
        self.collected = 0
        self.pieces = 0
        tg_buffer_clear(&self.tail)
        while self.collected < budget and self.pieces + FRAME_PIECES <= H2_PIECES:
            n = nghttp2_session_mem_send(self.session, &data)
            if n < 0 or (n and self.put(<const char *>data, <size_t>n) < 0):
                return -1
            if n == 0:
                break
        for i in range(self.pieces):
            if self.in_tail[i]:
                self.vector[i].iov_base = self.tail.data + <size_t>self.vector[i].iov_base
        return 1 if self.collected else 0

    cdef void keep_field(self, const char *name, size_t name_size, const char *value, size_t value_size) noexcept:
        self.block_size += name_size + value_size + FIELD_OVERHEAD
        self.block_fields += 1
        if self.block_size > self.options.header_list or self.block_fields > self.options.max_fields:
            self.block_over = True
        if not self.block_over and block_add(&self.block, name, name_size, value, value_size) < 0:
            self.block_over = True

    cdef int put(self, const char *data, size_t size) noexcept:
        """Copy: to the head, or behind the pieces once there are any."""
        cdef size_t offset
        self.collected += size
        if not self.pieces:
            return tg_buffer_append(self.head, data, size)
        offset = self.tail.end               # start is 0: nothing is consumed
        if tg_buffer_append(&self.tail, data, size) < 0:
            return -1
        if self.in_tail[self.pieces - 1]:
            self.vector[self.pieces - 1].iov_len += size
            return 0
        self.in_tail[self.pieces] = True
        self.vector[self.pieces].iov_base = <void *>offset
        self.vector[self.pieces].iov_len = size
        self.pieces += 1
        return 0

    cdef int piece(self, const char *data, size_t size) noexcept:
        """Bytes of a body: copied when they are few, else referred to where they are."""
        if size < COPY_BELOW:
            return self.put(data, size) if size else 0
        self.collected += size
        self.in_tail[self.pieces] = False
        self.vector[self.pieces].iov_base = <void *>data
        self.vector[self.pieces].iov_len = size
        self.pieces += 1
        return 0

    cdef int put_body(self, h2_stream *stream, size_t size) noexcept:
        """Move the cursor over `size` bytes of the body. -1: no memory, or the parts are shorter than they said."""
        cdef size_t n
        stream.left -= size
        stream.sent = stream.left == 0
        if stream.part < 0:
            n = min(size, <size_t>stream.prefix_size - stream.offset)
            if self.put(stream.prefix + stream.offset, n) < 0:
                return -1
            size -= n
            stream.offset += n
            if stream.offset == <size_t>stream.prefix_size:
                stream.part = 0
                stream.offset = 0
        while size:
            if stream.part >= stream.part_count:
                return -1
            n = min(size, stream.parts[stream.part].iov_len - stream.offset)
            if self.piece(<const char *>stream.parts[stream.part].iov_base + stream.offset, n) < 0:
                return -1
            size -= n
            stream.offset += n
            if stream.offset == stream.parts[stream.part].iov_len:
                stream.part += 1
                stream.offset = 0
        return 0

    cdef int put_queue(self, h2_stream *stream, size_t size) noexcept:
        """`size` bytes that wait in the queue. They stay where they are until something is added to it."""
        if self.piece(tg_buffer_head(&stream.queue) + stream.kept, size) < 0:
            return -1
        self.advance_queue(stream, size)
        return 0

    cdef void advance_queue(self, h2_stream *stream, size_t size) noexcept:
        """`size` bytes at the head of what waits in the queue are handed over."""
        if stream.handed == stream.kept and stream.handed + size <= stream.keep:
            stream.kept += size
        else:
            tg_buffer_consume(&stream.queue, stream.kept + size)
            stream.kept = 0
        stream.handed += size
        stream.sent = stream.finished and not h2_waiting(stream)
        if stream.wants_room and h2_waiting(stream) <= LOW_WATER:
            stream.wants_room = False
            self.on_room(stream)

    cdef int submit_trailers(self, h2_stream *stream) noexcept:
        """The field lines of `trailers`, which nghttp2 copies."""
        cdef nghttp2_nv fields[TRAILERS]
        cdef size_t count = 0
        cdef const char *at = tg_buffer_head(&stream.trailers)
        cdef const char *end = at + tg_buffer_size(&stream.trailers)
        cdef const char *colon
        cdef const char *stop
        while at < end and count < TRAILERS:
            stop = <const char *>memchr(at, 13, <size_t>(end - at))
            colon = <const char *>memchr(at, 58, <size_t>(end - at))
            if stop == NULL or colon == NULL or colon > stop:
                break
            h2_field(&fields[count], at, <size_t>(colon - at), colon + 2, <size_t>(stop - colon - 2),
                     NGHTTP2_NV_FLAG_NONE)
            count += 1
            at = stop + 2
        return -1 if nghttp2_submit_trailer(self.session, stream.id, fields, count) else 0

    cdef bint ended(self) noexcept:
        return not nghttp2_session_want_read(self.session) and not nghttp2_session_want_write(self.session)

    cdef uint32_t peer_stream_limit(self) noexcept:
        return nghttp2_session_get_remote_settings(self.session, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS)

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

    cdef void on_close(self, h2_stream *stream, uint32_t code) noexcept:
        pass

    cdef void on_room(self, h2_stream *stream) noexcept:
        pass

    cdef void on_settings(self) noexcept:
        pass

    cdef void on_goaway(self, int32_t last_stream, uint32_t code) noexcept:
        pass

    cdef void on_control(self, int kind) noexcept:
        pass
