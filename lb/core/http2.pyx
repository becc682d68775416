"""The client side of one HTTP/2 connection: see http2.pxd for the contract."""

from libc.stdint cimport int32_t, uint8_t, uint32_t
from lb.core.buffer cimport tg_buffer, tg_buffer_append, tg_buffer_clear, tg_buffer_free
from lb.core.nghttp2 cimport *

cdef enum:
    # What a peer may have in flight towards us. A stream's window must hold bandwidth times delay of one big answer:
    # 1 MiB covers 10 Gbit/s at 0.8 ms. The connection's holds 16 such answers; nobody stops reading here, so it bounds
    # only bursts.
    STREAM_WINDOW = 1 << 20
    CONNECTION_WINDOW = 16 << 20
    HEADER_LIST = 16 * 1024
    # Pieces of a body below this size are copied: that is cheaper than one more element of a gathered write.
    COPY_BELOW = 2048
    # Most pieces that one DATA frame (16 KiB at most) can add: eight big ones, small ones between, the frame header.
    FRAME_PIECES = 20


cdef int on_begin_headers(nghttp2_session *session, const nghttp2_frame *frame, void *user_data) noexcept:
    cdef Http2Client client = <Http2Client>user_data
    client.incoming = <h2_stream *>nghttp2_session_get_stream_user_data(session, frame.hd.stream_id)
    return 0


cdef int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t namelen,
                   const uint8_t *value, size_t valuelen, uint8_t flags, void *user_data) noexcept:
    cdef Http2Client client = <Http2Client>user_data
    if client.incoming != NULL:
        client.on_field(client.incoming, <const char *>name, namelen, <const char *>value, valuelen)
    return 0


cdef int on_data_chunk(nghttp2_session *session, uint8_t flags, int32_t stream_id, const uint8_t *data, size_t length,
                       void *user_data) noexcept:
    cdef h2_stream *stream = <h2_stream *>nghttp2_session_get_stream_user_data(session, stream_id)
    if stream != NULL:
        (<Http2Client>user_data).on_data(stream, <const char *>data, length)
    return 0


cdef int on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *user_data) noexcept:
    cdef Http2Client client = <Http2Client>user_data
    cdef h2_stream *stream
    cdef bint last = frame.hd.flags & NGHTTP2_FLAG_END_STREAM
    if frame.hd.type == NGHTTP2_SETTINGS:
        if not frame.hd.flags & NGHTTP2_FLAG_ACK:
            client.on_settings()
    elif frame.hd.type == NGHTTP2_GOAWAY:
        client.on_goaway(frame.goaway.last_stream_id, frame.goaway.error_code)
    elif frame.hd.type == NGHTTP2_HEADERS or frame.hd.type == NGHTTP2_DATA or frame.hd.type == NGHTTP2_RST_STREAM:
        stream = <h2_stream *>nghttp2_session_get_stream_user_data(session, frame.hd.stream_id)
        if stream == NULL:
            return 0
        if frame.hd.type == NGHTTP2_RST_STREAM:
            stream.reset_by_peer = True
            return 0
        if frame.hd.type == NGHTTP2_HEADERS:
            client.incoming = NULL
            client.on_fields_end(stream, last)
            # The event may have let go of the stream.
            if last and nghttp2_session_get_stream_user_data(session, frame.hd.stream_id) == NULL:
                return 0
        if last:
            client.on_end(stream)
    return 0


cdef int on_stream_close(nghttp2_session *session, int32_t stream_id, uint32_t error_code, void *user_data) noexcept:
    cdef Http2Client client = <Http2Client>user_data
    cdef h2_stream *stream = <h2_stream *>nghttp2_session_get_stream_user_data(session, stream_id)
    client.streams -= 1
    if client.incoming == stream:
        client.incoming = NULL
    if stream != NULL:
        client.on_close(stream, error_code)
    return 0


cdef ssize_t read_body(nghttp2_session *session, int32_t stream_id, uint8_t *buf, size_t length, uint32_t *data_flags,
                       nghttp2_data_source *source, void *user_data) noexcept:
    cdef h2_stream *stream = <h2_stream *>nghttp2_session_get_stream_user_data(session, stream_id)
    if stream == NULL:
        return NGHTTP2_ERR_DEFERRED          # let go of: its RST_STREAM is on the way
    data_flags[0] |= NGHTTP2_DATA_FLAG_NO_COPY
    if stream.left > length:
        return <ssize_t>length
    data_flags[0] |= NGHTTP2_DATA_FLAG_EOF
    return <ssize_t>stream.left


cdef int send_body(nghttp2_session *session, nghttp2_frame *frame, const uint8_t *framehd, size_t length,
                   nghttp2_data_source *source, void *user_data) noexcept:
    cdef Http2Client client = <Http2Client>user_data
    cdef h2_stream *stream
    if client.collected >= client.budget or client.pieces + FRAME_PIECES > H2_PIECES:
        return NGHTTP2_ERR_WOULDBLOCK        # asked again by the next `collect`
    stream = <h2_stream *>nghttp2_session_get_stream_user_data(session, frame.hd.stream_id)
    if stream == NULL or stream.left < length:
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE
    if client.put(<const char *>framehd, 9) < 0 or client.put_body(stream, length) < 0:
        return NGHTTP2_ERR_CALLBACK_FAILURE
    return 0


cdef nghttp2_session_callbacks *make_callbacks() except NULL:
    cdef nghttp2_session_callbacks *callbacks = NULL
    if nghttp2_session_callbacks_new(&callbacks):
        raise MemoryError
    nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, on_begin_headers)
    nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header)
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data_chunk)
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame)
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_stream_close)
    nghttp2_session_callbacks_set_send_data_callback(callbacks, send_body)
    return callbacks


# Shared by all sessions, for the life of the process.
cdef nghttp2_session_callbacks *CALLBACKS = make_callbacks()


cdef class Http2Client:
    """A subclass handles the events. Raises MemoryError when nghttp2 gives no session."""

    def __cinit__(self):
        if nghttp2_session_client_new(&self.session, CALLBACKS, <void *>self):
            raise MemoryError

    def __dealloc__(self):
        nghttp2_session_del(self.session)    # accepts NULL
        tg_buffer_free(&self.tail)

    cdef int begin(self) noexcept:
        cdef nghttp2_settings_entry settings[3]
        settings[0].settings_id = NGHTTP2_SETTINGS_ENABLE_PUSH
        settings[0].value = 0
        settings[1].settings_id = NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE
        settings[1].value = STREAM_WINDOW
        settings[2].settings_id = NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE
        settings[2].value = HEADER_LIST
        if nghttp2_submit_settings(self.session, NGHTTP2_FLAG_NONE, settings, 3):
            return -1
        if nghttp2_session_set_local_window_size(self.session, NGHTTP2_FLAG_NONE, 0, CONNECTION_WINDOW):
            return -1
        return 0

    cdef int submit(self, h2_stream *stream, const nghttp2_nv *fields, size_t count) noexcept:
        cdef nghttp2_data_provider provider
        cdef int32_t rc
        provider.source.ptr = NULL           # the stream's user data says it; that pointer can be taken back
        provider.read_callback = read_body
        rc = nghttp2_submit_request(self.session, NULL, fields, count, &provider, stream)
        if rc < 0:
            return H2_NO_MEMORY if rc == NGHTTP2_ERR_NOMEM else H2_EXHAUSTED
        stream.id = rc
        self.streams += 1
        return 0

    cdef void reset(self, h2_stream *stream, uint32_t code) noexcept:
        self.forget(stream)
        # Fails only without memory: then the peer goes on sending into a stream nobody looks at.
        nghttp2_submit_rst_stream(self.session, NGHTTP2_FLAG_NONE, stream.id, code)

    cdef void forget(self, h2_stream *stream) noexcept:
        nghttp2_session_set_stream_user_data(self.session, stream.id, NULL)
        if self.incoming == stream:
            self.incoming = NULL

    cdef int ping(self) noexcept:
        return nghttp2_submit_ping(self.session, NGHTTP2_FLAG_NONE, NULL)

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
            if n >= COPY_BELOW:
                self.collected += n
                self.in_tail[self.pieces] = False
                self.vector[self.pieces].iov_base = <char *>stream.parts[stream.part].iov_base + stream.offset
                self.vector[self.pieces].iov_len = n
                self.pieces += 1
            elif n and self.put(<const char *>stream.parts[stream.part].iov_base + stream.offset, n) < 0:
                return -1
            size -= n
            stream.offset += n
            if stream.offset == stream.parts[stream.part].iov_len:
                stream.part += 1
                stream.offset = 0
        return 0

    cdef bint ended(self) noexcept:
        return not nghttp2_session_want_read(self.session) and not nghttp2_session_want_write(self.session)

    cdef uint32_t peer_stream_limit(self) noexcept:
        return nghttp2_session_get_remote_settings(self.session, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS)

    cdef void on_field(self, h2_stream *stream, const char *name, size_t name_size, const char *value,
                       size_t value_size) noexcept:
        pass

    cdef void on_fields_end(self, h2_stream *stream, bint last) noexcept:
        pass

    cdef void on_data(self, h2_stream *stream, const char *data, size_t size) noexcept:
        pass

    cdef void on_end(self, h2_stream *stream) noexcept:
        pass

    cdef void on_close(self, h2_stream *stream, uint32_t code) noexcept:
        pass

    cdef void on_settings(self) noexcept:
        pass

    cdef void on_goaway(self, int32_t last_stream, uint32_t code) noexcept:
        pass
