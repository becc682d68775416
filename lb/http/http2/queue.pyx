"""Frames in a queue: see queue.pxd."""

from libc.stdint cimport int32_t, uint8_t, uint32_t
from libc.string cimport memchr, memcpy, memmove, memset
from lb.net.buffer cimport (
    tg_buffer, tg_buffer_append, tg_buffer_clear, tg_buffer_free, tg_buffer_head, tg_buffer_reserve, tg_buffer_size,
    tg_buffer_tail,
)
from lb.http.http2.hpack cimport hpack_encode, hpack_encode_more, hpack_free, hpack_init
from lb.http.http2.frames cimport (
    FLAG_ACK, FLAG_END_HEADERS, FLAG_END_STREAM, FRAME_CONTINUATION, FRAME_GOAWAY, FRAME_HEADER, FRAME_HEADERS,
    FRAME_LOCAL_ARENA, FRAME_LOCAL_RELEASE, FRAME_MOST, FRAME_PING, FRAME_RST_STREAM, FRAME_SETTINGS,
    FRAME_WINDOW_UPDATE, LOCAL_VERSION, PREFACE, PREFACE_SIZE, SETTING_ENABLE_CONNECT_PROTOCOL, SETTING_ENABLE_PUSH,
    SETTING_INITIAL_WINDOW_SIZE, SETTING_LOCAL_TRANSPORT, SETTING_MAX_CONCURRENT_STREAMS, SETTING_MAX_HEADER_LIST_SIZE,
    SETTING_SIZE, WINDOW_FIRST, put_frame, put_u32,
)
from lb.http.http2.nghttp2 cimport nghttp2_nv

cdef enum:
    # Most answers to a peer's frames that wait to be written, as nghttp2 has it (CVE-2019-9512, CVE-2019-9515). They
    # are written after every turn of reading, so that only who does not read gets there.
    REPLIES = 1000
    OURS_ENTRIES = 6                  # of SETTINGS that we send
    PING_SIZE = 8
    TRAILERS = 64                     # most fields of the trailers that are sent


cdef void queue_init(h2_queue *queue) noexcept:
    hpack_init(&queue.encoder)


cdef void queue_free(h2_queue *queue) noexcept:
    hpack_free(&queue.encoder)
    tg_buffer_free(&queue.frames)


cdef void queue_taken(h2_queue *queue) noexcept:
    tg_buffer_clear(&queue.frames)
    queue.replies = 0


cdef inline uint8_t *frame(h2_queue *queue, uint32_t length, uint8_t kind, uint8_t flags, int32_t id) noexcept:
    """Queues a frame and gives its payload to be filled in; NULL: no memory."""
    cdef uint8_t *at
    if tg_buffer_reserve(&queue.frames, FRAME_HEADER + length) < 0:
        return NULL
    at = <uint8_t *>tg_buffer_tail(&queue.frames)
    put_frame(at, length, kind, flags, id)
    queue.frames.end += FRAME_HEADER + length
    return at + FRAME_HEADER


cdef uint8_t *reply(h2_queue *queue, uint32_t length, uint8_t kind, uint8_t flags, int32_t id) noexcept:
    queue.replies += 1
    if queue.replies > REPLIES:
        queue.choked = True
        return NULL
    return frame(queue, length, kind, flags, id)


cdef inline int word(uint8_t *at, uint32_t value) noexcept:
    if at == NULL:
        return -1
    put_u32(at, value)
    return 0


cdef int queue_opening(h2_queue *queue, bint server, const h2_options *options) noexcept:
    cdef uint32_t names[OURS_ENTRIES]
    cdef uint32_t values[OURS_ENTRIES]
    cdef uint32_t count = 2, i
    cdef uint8_t *at
    names[0] = SETTING_INITIAL_WINDOW_SIZE
    values[0] = options.stream_window
    names[1] = SETTING_MAX_HEADER_LIST_SIZE
    values[1] = options.header_list
    if not server:
        names[count] = SETTING_ENABLE_PUSH
        values[count] = 0
        count += 1
        if tg_buffer_append(&queue.frames, PREFACE, PREFACE_SIZE) < 0:
            return -1
    if options.max_streams:
        names[count] = SETTING_MAX_CONCURRENT_STREAMS
        values[count] = options.max_streams
        count += 1
    if options.connect_protocol:
        names[count] = SETTING_ENABLE_CONNECT_PROTOCOL
        values[count] = 1
        count += 1
    if options.local:
        names[count] = SETTING_LOCAL_TRANSPORT
        values[count] = LOCAL_VERSION
        count += 1
    at = frame(queue, SETTING_SIZE * count, FRAME_SETTINGS, 0, 0)
    if at == NULL:
        return -1
    for i in range(count):
        at[0] = <uint8_t>(names[i] >> 8)
        at[1] = <uint8_t>names[i]
        put_u32(at + 2, values[i])
        at += SETTING_SIZE
    # The connection's window begins with what every peer believes it to be, and only grows.
    if options.connection_window <= WINDOW_FIRST:
        return 0
    return queue_window(queue, 0, options.connection_window - WINDOW_FIRST)


cdef int queue_settings(h2_queue *queue) noexcept:
    return -1 if frame(queue, 0, FRAME_SETTINGS, 0, 0) == NULL else 0


cdef int queue_headers(h2_queue *queue, int32_t id, const nghttp2_nv *fields, size_t count, const tg_buffer *block,
                       size_t place, bint last) noexcept:
    """The block is written at once: the order in which blocks are encoded is that in which they are sent."""
    cdef size_t at = tg_buffer_size(&queue.frames)
    cdef size_t size
    cdef uint8_t flags = FLAG_END_STREAM if last else 0
    if frame(queue, 0, FRAME_HEADERS, flags, id) == NULL:
        return -1
    if block == NULL:
        place = count
    if hpack_encode(&queue.encoder, &queue.frames, fields, place) < 0 or (block != NULL and (
            hpack_encode_more(&queue.encoder, &queue.frames, tg_buffer_head(block), tg_buffer_size(block)) < 0
            or hpack_encode(&queue.encoder, &queue.frames, fields + place, count - place) < 0)):
        queue.broken = True
        queue.frames.end = queue.frames.start + at
        return -1
    size = tg_buffer_size(&queue.frames) - at - FRAME_HEADER
    if size > FRAME_MOST:
        return split(queue, at, size, id, flags)
    flags |= FLAG_END_HEADERS
    put_frame(<uint8_t *>tg_buffer_head(&queue.frames) + at, <uint32_t>size, FRAME_HEADERS, flags, id)
    return 0


cdef int split(h2_queue *queue, size_t at, size_t size, int32_t id, uint8_t flags) noexcept:
    """Makes frames of the block of `size` bytes behind the frame header at `at`, the last bytes first."""
    cdef size_t i, n, more = (size - 1) // FRAME_MOST
    cdef uint8_t *first
    cdef uint8_t *header
    if tg_buffer_reserve(&queue.frames, more * FRAME_HEADER) < 0:
        queue.broken = True
        queue.frames.end = queue.frames.start + at
        return -1
    first = <uint8_t *>tg_buffer_head(&queue.frames) + at
    for i in range(more, 0, -1):
        n = min(<size_t>FRAME_MOST, size - i * FRAME_MOST)
        header = first + i * (FRAME_HEADER + FRAME_MOST)
        memmove(header + FRAME_HEADER, first + FRAME_HEADER + i * FRAME_MOST, n)
        put_frame(header, <uint32_t>n, FRAME_CONTINUATION, FLAG_END_HEADERS if i == more else 0, id)
    put_frame(first, FRAME_MOST, FRAME_HEADERS, flags, id)
    queue.frames.end += more * FRAME_HEADER
    return 0


cdef int queue_trailers(h2_queue *queue, int32_t id, const tg_buffer *lines) noexcept:
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
    return queue_headers(queue, id, fields, count, NULL, 0, True)


cdef int queue_reset(h2_queue *queue, int32_t id, uint32_t code) noexcept:
    return word(frame(queue, 4, FRAME_RST_STREAM, 0, id), code)


cdef int queue_window(h2_queue *queue, int32_t id, uint32_t by) noexcept:
    return word(frame(queue, 4, FRAME_WINDOW_UPDATE, 0, id), by)


cdef int queue_goaway(h2_queue *queue, int32_t last, uint32_t code) noexcept:
    cdef uint8_t *at = frame(queue, 8, FRAME_GOAWAY, 0, 0)
    if at == NULL:
        return -1
    put_u32(at, <uint32_t>last)
    put_u32(at + 4, code)
    return 0


cdef int queue_ping(h2_queue *queue) noexcept:
    cdef uint8_t *at = frame(queue, PING_SIZE, FRAME_PING, 0, 0)
    if at == NULL:
        return -1
    memset(at, 0, PING_SIZE)
    return 0


cdef int queue_local_arena(h2_queue *queue, bint ack) noexcept:
    return -1 if frame(queue, 0, FRAME_LOCAL_ARENA, FLAG_ACK if ack else 0, 0) == NULL else 0


cdef int queue_local_release(h2_queue *queue, uint32_t offset) noexcept:
    return word(frame(queue, 4, FRAME_LOCAL_RELEASE, 0, 0), offset)


cdef int queue_reset_reply(h2_queue *queue, int32_t id, uint32_t code) noexcept:
    return word(reply(queue, 4, FRAME_RST_STREAM, 0, id), code)


cdef int queue_pong(h2_queue *queue, const uint8_t *payload) noexcept:
    cdef uint8_t *at = reply(queue, PING_SIZE, FRAME_PING, FLAG_ACK, 0)
    if at == NULL:
        return -1
    memcpy(at, payload, PING_SIZE)
    return 0


cdef int queue_settings_ack(h2_queue *queue) noexcept:
    return -1 if reply(queue, 0, FRAME_SETTINGS, FLAG_ACK, 0) == NULL else 0
