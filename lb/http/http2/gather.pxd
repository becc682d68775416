"""What a session writes at once: a head of copied bytes, and pieces that refer to the bodies of streams.

Of the whole worker: what was gathered is written before the next session gathers.
"""

from lb.net.buffer cimport tg_buffer
from lb.http.http2.streams cimport h2_stream
from lb.net.iovec cimport iovec


cdef enum:
    H2_PIECES = 256                   # most pieces for one write
    # Most pieces that one DATA frame (16 KiB at most) can add: eight big ones, small ones between, the frame header.
    FRAME_PIECES = 20


ctypedef struct h2_gather:
    iovec *vector                     # what follows the head
    bint *in_tail                     # the base of this piece is an offset into `tail` until `gather_end`
    int pieces                        # entries of `vector`
    size_t bytes                      # in all
    tg_buffer *head
    tg_buffer *tail                   # what is copied once there are pieces


# Whether the body of one more frame finds room.
cdef inline bint gather_has_room(const h2_gather *gather) noexcept nogil:
    return gather.pieces + FRAME_PIECES <= H2_PIECES


cdef void gather_begin(h2_gather *gather, tg_buffer *head) noexcept
# Bytes that are copied: to the head, or behind the pieces once there are any. 0, or -1: no memory.
cdef int gather_copy(h2_gather *gather, const char *data, size_t size) noexcept
# The next `size` bytes of a stream's body, whose cursor moves on. 0, or -1: no memory, or the body is shorter than it
# said.
cdef int gather_body(h2_gather *gather, h2_stream *stream, size_t size) noexcept
# The next `size` bytes of a stream's body are copied to `into`, and its cursor moves on. 0, or -1: the body is shorter
# than it said.
cdef int body_copy(h2_stream *stream, char *into, size_t size) noexcept
# `size` bytes of a streamed body that were in no queue are handed over; nothing waits in the queue.
cdef void body_passed(h2_stream *stream, size_t size) noexcept
# All is gathered: the pieces refer to memory that stays where it is.
cdef void gather_end(h2_gather *gather) noexcept
