"""Reads DATA to where it is wanted: see scatter.pxd."""

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcmp
from lb.http.http2.frames cimport FLAG_PADDED, FRAME_DATA, FRAME_HEADER, FRAME_MOST, put_frame
from lb.http.http2.session cimport SESSION_OPEN
from lb.http.http2.streams cimport h2_entry, h2_stream, table_find
from lb.net.buffer cimport tg_buffer_size

cdef enum:
    FLAGS = 4                         # their place in a header
    # Frames below this size are no sign of how large the next ones are: a message's prefix may come in one of its own.
    SMALL_FRAME = 1024


cdef inline void put(h2_scatter *scatter, void *base, size_t size) noexcept:
    scatter.parts[scatter.count].iov_base = base
    scatter.parts[scatter.count].iov_len = size
    scatter.count += 1
    scatter.room += size


cdef void scatter_plan(h2_scatter *scatter, Http2Session session, int frames, char *rest, size_t rest_size) noexcept:
    cdef h2_entry *entry
    cdef char *into
    cdef size_t room = 0, size = session.data_left, frame_size = session.data.length
    cdef int i
    scatter.count = 0
    scatter.room = 0
    if session.state != SESSION_OPEN or session.blocks.id or tg_buffer_size(&session.partial):
        return
    entry = table_find(&session.table, session.data.id) if session.data.id else NULL
    if entry == NULL or entry.stream == NULL:
        return
    into = session.on_destination(<h2_stream *>entry.stream, &room)
    if into == NULL or room < SCATTER_LEAST:
        return
    if size:
        size = min(size, room)
        put(scatter, into, size)
        into += size
        room -= size
        if size < session.data_left:
            frames = 0                # the frame has more than this message
    if frame_size < SMALL_FRAME:
        frame_size = FRAME_MOST
    for i in range(min(frames, <int>SCATTER_FRAMES)):
        if room == 0:
            break
        size = min(frame_size, room)
        put_frame(&scatter.guess[i * FRAME_HEADER], <uint32_t>size, FRAME_DATA, 0, session.data.id)
        put(scatter, &scatter.headers[i * FRAME_HEADER], FRAME_HEADER)
        put(scatter, into, size)
        into += size
        room -= size
    put(scatter, rest, rest_size)


cdef bint scatter_right(const h2_scatter *scatter, int i, size_t size) noexcept:
    cdef const uint8_t *header = <const uint8_t *>scatter.parts[i].iov_base
    cdef const uint8_t *guess
    if header < scatter.headers or header >= scatter.headers + SCATTER_FRAMES * FRAME_HEADER:
        return True
    guess = scatter.guess + (header - scatter.headers)
    if size < FRAME_HEADER:
        return True                   # the rest of it is still to come
    return (memcmp(header, guess, FLAGS) == 0 and not header[FLAGS] & FLAG_PADDED
            and memcmp(header + FLAGS + 1, guess + FLAGS + 1, FRAME_HEADER - FLAGS - 1) == 0)
