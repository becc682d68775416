"""What one side of an HTTP/2 connection sends: see sender.pxd."""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memchr, memcmp
from lb.net.buffer cimport (
    tg_buffer, tg_buffer_append, tg_buffer_clear, tg_buffer_consume, tg_buffer_head, tg_buffer_size,
)
from lb.http.http2.block cimport block_field, block_next
from lb.http.http2.closed cimport CLOSED_CUT, closed_add, closed_free
from lb.http.http2.frames cimport (
    FLAG_END_STREAM, FRAME_DATA, FRAME_HEADER, FRAME_MOST, H2_CANCEL, H2_NO_ERROR, STREAM_MOST, put_frame,
)
from lb.http.http2.message cimport h2_message, message_begin
from lb.http.http2.queue cimport Http2Queue
from lb.http.http2.streams cimport h2_entry, table_add, table_free, table_remove
from lb.net.link cimport link_append, link_empty, link_init, link_remove, link_splice, tg_link
from lb.http.http2.nghttp2 cimport nghttp2_nv
from lb.net.stream cimport iovec

cdef enum:
    # Pieces of a body below this size are copied: that is cheaper than one more element of a gathered write.
    COPY_BELOW = 2048
    # Most pieces that one DATA frame (16 KiB at most) can add: eight big ones, small ones between, the frame header.
    FRAME_PIECES = 20
    LOW_WATER = 16 * 1024             # bytes in a queue below which its owner may add to it again
    TRAILERS = 64                     # most fields of the trailers that are sent
    # `send_body`
    GONE_ON = 0
    HELD = 1                          # the connection's window is shut

# Of the whole worker: what `collect` gathers is written before the next one.
cdef iovec VECTOR[H2_PIECES]
cdef bint IN_TAIL[H2_PIECES]
cdef tg_buffer TAIL


cdef inline bint is_name(const char *name, size_t size, const char *other, size_t n) noexcept:
    return size == n and memcmp(name, other, n) == 0


cdef void note_method(h2_message *message, const nghttp2_nv *fields, size_t count, const tg_buffer *block) noexcept:
    """What a request's method says of its answer."""
    cdef const char *at
    cdef const char *end
    cdef block_field field
    cdef size_t i
    field.value = NULL
    field.value_size = 0
    for i in range(count):
        if is_name(<const char *>fields[i].name, fields[i].namelen, b":method", 7):
            field.value = <const char *>fields[i].value
            field.value_size = <uint32_t>fields[i].valuelen
            break
    if block != NULL:
        at = tg_buffer_head(block)
        end = at + tg_buffer_size(block)
        while not field.value_size and block_next(&at, end, &field):
            if not is_name(field.name, field.name_size, b":method", 7):
                field.value_size = 0
    message.head_request = is_name(field.value, field.value_size, b"HEAD", 4)
    message.connect_request = is_name(field.value, field.value_size, b"CONNECT", 7)


cdef inline bint body_is_here(const h2_message *message) noexcept nogil:
    return message.length >= 0 and message.received == <uint64_t>message.length


cdef class Http2Sender(Http2Queue):

    def __cinit__(self):
        link_init(&self.ready)
        link_init(&self.ending)

    def __dealloc__(self):
        table_free(&self.table)
        closed_free(&self.closed)

    # Streams.

    cdef int submit(self, h2_stream *stream, const nghttp2_nv *fields, size_t count, const tg_buffer *block,
                    size_t place) noexcept:
        cdef bint bodiless = (stream.streaming and stream.finished and not h2_waiting(stream)
                              and not tg_buffer_size(&stream.trailers))
        cdef h2_entry *entry
        if self.left or self.over or self.next_id > STREAM_MOST:
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
        note_method(&entry.message, fields, count, block)
        entry.stream = stream
        entry.window = self.peer_window
        entry.room = self.first_room
        entry.local_ended = bodiless
        entry.sending = not bodiless
        stream.entry = entry
        stream.id = entry.id
        stream.sent = bodiless
        self.wake(entry)
        return 0

    cdef int respond(self, h2_stream *stream, const nghttp2_nv *fields, size_t count, bint body) noexcept:
        cdef h2_entry *entry = stream.entry
        if entry == NULL or entry.local_ended or self.headers(entry.id, fields, count, NULL, 0, not body) < 0:
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
        if tg_buffer_append(&stream.queue, data, size) < 0:
            return -1
        if size and stream.entry != NULL:
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
        self.reset_frame(entry.id, code)
        self.note_reset(entry)
        self.close(entry, code)

    cdef void forget(self, h2_stream *stream) noexcept:
        cdef h2_entry *entry = stream.entry
        if entry == NULL:
            return
        if not entry.local_ended:
            self.reset(stream, H2_CANCEL)         # nobody would ever end it
            return
        stream.entry = NULL
        entry.stream = NULL

    cdef void wake(self, h2_entry *entry) noexcept:
        if entry.sending and not entry.local_ended and entry.link.next == NULL:
            link_append(&self.ready, &entry.link)

    cdef void end_local(self, h2_entry *entry) noexcept:
        entry.local_ended = True
        link_remove(&entry.link)
        if self.server or entry.remote_ended:
            link_append(&self.ending, &entry.link)

    cdef void close(self, h2_entry *entry, uint32_t code) noexcept:
        cdef h2_stream *stream = <h2_stream *>entry.stream
        self.drop(entry)
        table_remove(&self.table, entry)
        self.streams -= 1
        if stream != NULL:
            stream.entry = NULL
            self.on_close(stream, code)

    cdef void note_reset(self, const h2_entry *entry) noexcept:
        if not entry.remote_ended:
            closed_add(&self.closed, entry.id, CLOSED_CUT, entry.room)

    cdef void drop(self, h2_entry *entry) noexcept:
        pass

    cdef int settle(self) noexcept:
        """Closes the streams that have ended on our side. The answer is out: nobody waits for the rest of a request
        (RFC 9113 section 8.1). One that is here by its Content-Length, but for END_STREAM in an empty frame, stays
        until that comes: clients (httpx) take it for an error when they cannot send that any more."""
        cdef h2_entry *entry
        cdef h2_stream *stream
        while not link_empty(&self.ending):
            entry = <h2_entry *>self.ending.next.owner
            if entry.remote_ended or not body_is_here(&entry.message):
                if not entry.remote_ended and self.reset_frame(entry.id, H2_NO_ERROR) < 0:
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
        cdef int i, rc
        self.head = head
        self.tail = &TAIL
        self.vector = VECTOR
        self.in_tail = IN_TAIL
        self.collected = 0
        self.pieces = 0
        tg_buffer_clear(&TAIL)
        rc = self.put_control()
        link_init(&held)
        while (rc >= 0 and not self.over and not link_empty(&self.ready) and self.collected < budget
               and self.pieces + FRAME_PIECES <= H2_PIECES):
            entry = <h2_entry *>self.ready.next.owner
            link_remove(&entry.link)
            rc = self.send_body(entry)
            if rc == HELD:
                link_append(&held, &entry.link)
        link_splice(&self.ready, &held)
        if rc < 0 or self.settle() < 0 or self.put_control() < 0:
            return -1
        for i in range(self.pieces):
            if self.in_tail[i]:
                self.vector[i].iov_base = self.tail.data + <size_t>self.vector[i].iov_base
        return 1 if self.collected else 0

    cdef int send_body(self, h2_entry *entry) noexcept:
        """One DATA frame of a stream, and what ends it. GONE_ON, HELD, or -1."""
        cdef h2_stream *stream = <h2_stream *>entry.stream
        cdef uint8_t header[FRAME_HEADER]
        cdef size_t ready = h2_waiting(stream) if stream.streaming else stream.left
        cdef size_t n = min(ready, <size_t>FRAME_MOST)
        cdef bint last, trailers
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
            if self.put(<const char *>header, FRAME_HEADER) < 0 or self.put_body(stream, n) < 0:
                return -1
            entry.window -= n
            self.window -= n
            self.data_frames += 1
        if last:
            stream.sent = True
            if trailers and self.send_trailers(entry, &stream.trailers) < 0:
                return -1
            self.end_local(entry)
            return GONE_ON
        if n < ready:
            link_append(&self.ready, &entry.link)     # in turn
        if stream.wants_room and h2_waiting(stream) <= LOW_WATER:
            stream.wants_room = False
            self.on_room(stream)
        return GONE_ON

    cdef int send_trailers(self, h2_entry *entry, const tg_buffer *lines) noexcept:
        cdef nghttp2_nv fields[TRAILERS]
        cdef size_t count = 0
        cdef const char *at = tg_buffer_head(lines)
        cdef const char *end = at + tg_buffer_size(lines)
        cdef const char *colon
        cdef const char *stop
        while at < end and count < TRAILERS:
            stop = <const char *>memchr(at, 13, <size_t>(end - at))
            colon = <const char *>memchr(at, 58, <size_t>(end - at))
            if stop == NULL or colon == NULL or colon > stop:
                break
            h2_field(&fields[count], at, <size_t>(colon - at), colon + 2, <size_t>(stop - colon - 2), 0)
            count += 1
            at = stop + 2
        # What events have queued meanwhile was encoded before these.
        if self.put_control() < 0 or self.headers(entry.id, fields, count, NULL, 0, True) < 0:
            return -1
        return self.put_control()

    cdef int put_control(self) noexcept:
        if self.put(tg_buffer_head(&self.control), tg_buffer_size(&self.control)) < 0:
            return -1
        tg_buffer_clear(&self.control)
        self.replies = 0
        return 0

    cdef int put(self, const char *data, size_t size) noexcept:
        """Copy: to the head, or behind the pieces once there are any."""
        cdef size_t offset
        if not size:
            return 0
        self.collected += size
        if not self.pieces:
            return tg_buffer_append(self.head, data, size)
        offset = self.tail.end               # start is 0: nothing is consumed
        if tg_buffer_append(self.tail, data, size) < 0:
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
            return self.put(data, size)
        self.collected += size
        self.in_tail[self.pieces] = False
        self.vector[self.pieces].iov_base = <void *>data
        self.vector[self.pieces].iov_len = size
        self.pieces += 1
        return 0

    cdef int put_body(self, h2_stream *stream, size_t size) noexcept:
        """Move the cursor over `size` bytes of the body. -1: no memory, or the parts are shorter than they said."""
        cdef size_t n
        if stream.streaming:
            # They stay where they are until something is added to the queue.
            if size and self.piece(tg_buffer_head(&stream.queue) + stream.kept, size) < 0:
                return -1
            self.advance_queue(stream, size)
            return 0
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

    cdef void advance_queue(self, h2_stream *stream, size_t size) noexcept:
        """`size` bytes at the head of what waits in the queue are handed over."""
        if stream.handed == stream.kept and stream.handed + size <= stream.keep:
            stream.kept += size
        else:
            tg_buffer_consume(&stream.queue, stream.kept + size)
            stream.kept = 0
        stream.handed += size
        stream.sent = stream.finished and not h2_waiting(stream)

    cdef bint ended(self) noexcept:
        if tg_buffer_size(&self.control):
            return False
        return self.over or (self.streams == 0 and (self.leaving or self.left))

    cdef uint32_t peer_stream_limit(self) noexcept:
        return self.peer_streams

    cdef void on_close(self, h2_stream *stream, uint32_t code) noexcept:
        pass

    cdef void on_room(self, h2_stream *stream) noexcept:
        pass
