"""What a session writes at once: see http2_gather.pxd."""

from libc.string cimport memcpy
from lb.net.buffer cimport (
    tg_buffer, tg_buffer_append, tg_buffer_clear, tg_buffer_consume, tg_buffer_head, tg_buffer_size,
)
from lb.http.http2.streams cimport h2_stream, h2_waiting
from lb.net.iovec cimport iovec

cdef enum:
    # Pieces of a body below this size are copied: that is cheaper than one more element of a gathered write.
    COPY_BELOW = 2048

cdef iovec VECTOR[H2_PIECES]
cdef bint IN_TAIL[H2_PIECES]
cdef tg_buffer TAIL


cdef void gather_begin(h2_gather *gather, tg_buffer *head) noexcept:
    gather.head = head
    gather.tail = &TAIL
    gather.vector = VECTOR
    gather.in_tail = IN_TAIL
    gather.bytes = 0
    gather.pieces = 0
    tg_buffer_clear(&TAIL)


cdef int gather_copy(h2_gather *gather, const char *data, size_t size) noexcept:
    cdef size_t offset
    if not size:
        return 0
    gather.bytes += size
    if not gather.pieces:
        return tg_buffer_append(gather.head, data, size)
    offset = gather.tail.end                  # start is 0: nothing is consumed
    if tg_buffer_append(gather.tail, data, size) < 0:
        return -1
    if gather.in_tail[gather.pieces - 1]:
        gather.vector[gather.pieces - 1].iov_len += size
        return 0
    gather.in_tail[gather.pieces] = True
    gather.vector[gather.pieces].iov_base = <void *>offset
    gather.vector[gather.pieces].iov_len = size
    gather.pieces += 1
    return 0


cdef int piece(h2_gather *gather, const char *data, size_t size) noexcept:
    """Bytes of a body: copied when they are few, else referred to where they are."""
    if size < COPY_BELOW:
        return gather_copy(gather, data, size)
    gather.bytes += size
    gather.in_tail[gather.pieces] = False
    gather.vector[gather.pieces].iov_base = <void *>data
    gather.vector[gather.pieces].iov_len = size
    gather.pieces += 1
    return 0


cdef inline Py_ssize_t next_of_body(h2_stream *stream, size_t size, const char **data) noexcept:
    """The next bytes of a body that is not streamed, up to `size`, which lie at `data`: prefix, then parts. Moves the
    cursor. -1: the body is shorter than it said."""
    cdef size_t whole, n
    if stream.part < 0:
        whole = <size_t>stream.prefix_size
        data[0] = stream.prefix + stream.offset
    elif stream.part < stream.part_count:
        whole = stream.parts[stream.part].iov_len
        data[0] = <const char *>stream.parts[stream.part].iov_base + stream.offset
    else:
        return -1
    n = min(size, whole - stream.offset)
    stream.offset += n
    if stream.offset == whole:
        stream.part += 1
        stream.offset = 0
    return <Py_ssize_t>n


cdef int gather_body(h2_gather *gather, h2_stream *stream, size_t size) noexcept:
    cdef const char *data = NULL
    cdef Py_ssize_t taken
    cdef size_t n
    if stream.streaming:
        # They stay where they are until something is added to the queue.
        n = min(size, tg_buffer_size(&stream.queue) - stream.kept)
        if n and piece(gather, tg_buffer_head(&stream.queue) + stream.kept, n) < 0:
            return -1
        if size > n:
            if piece(gather, stream.lent, size - n) < 0:
                return -1
            stream.lent += size - n
            stream.lent_size -= size - n
            stream.handed += size - n
        advance_queue(stream, n)
        return 0
    stream.left -= size
    stream.sent = stream.left == 0
    while size:
        taken = next_of_body(stream, size, &data)
        if taken < 0 or piece(gather, data, <size_t>taken) < 0:
            return -1
        size -= <size_t>taken
    return 0


cdef int body_copy(h2_stream *stream, char *into, size_t size) noexcept:
    cdef const char *data = NULL
    cdef Py_ssize_t n
    if stream.streaming:
        memcpy(into, tg_buffer_head(&stream.queue) + stream.kept, size)
        advance_queue(stream, size)
        return 0
    stream.left -= size
    stream.sent = stream.left == 0
    while size:
        n = next_of_body(stream, size, &data)
        if n < 0:
            return -1
        memcpy(into, data, <size_t>n)
        into += n
        size -= <size_t>n
    return 0


cdef void body_passed(h2_stream *stream, size_t size) noexcept:
    tg_buffer_consume(&stream.queue, stream.kept)
    stream.kept = 0
    stream.handed += size


cdef void advance_queue(h2_stream *stream, size_t size) noexcept:
    """`size` bytes at the head of what waits in the queue are handed over."""
    if stream.handed == stream.kept and stream.handed + size <= stream.keep:
        stream.kept += size
    else:
        tg_buffer_consume(&stream.queue, stream.kept + size)
        stream.kept = 0
    stream.handed += size
    stream.sent = stream.finished and not h2_waiting(stream)


cdef void gather_end(h2_gather *gather) noexcept:
    cdef int i
    for i in range(gather.pieces):
        if gather.in_tail[i]:
            gather.vector[i].iov_base = gather.tail.data + <size_t>gather.vector[i].iov_base
