"""The writer of an HTTP/1.1 connection with a client: answers become bytes, each framed as its request allows.

Bytes are appended to the buffer that is given. No I/O: when they are sent is the connection's matter.
"""

from libc.stdint cimport uint32_t, uint64_t
from lb.net.buffer cimport tg_buffer, tg_buffer_append, tg_buffer_size
from lb.http.chunks cimport append_chunk
from lb.http.head cimport Scan
from lb.http.head_text cimport append_chunk_size, append_text
from lb.net.iovec cimport iovec


cdef struct tg_answer:
    # By the request.
    bint http10
    bint head_request                 # the answer has no body, whatever its fields say
    # By request and answer.
    bint keep                         # another request may follow
    bint chunking                     # the body goes out in chunks
    uint32_t chunk                    # bytes of the last one, which more of the body may join (lb.http.chunks)
    bint until_close                  # the answer's end is the connection's
    tg_buffer trailers                # as lines


cdef void answer_continue(tg_buffer *out) noexcept
# An endpoint's interim answer (1xx), which another head follows.
cdef void answer_interim(tg_buffer *out, Scan *scan) noexcept
# The head of an endpoint's answer; `extra` is header lines to add (may be NULL), `last` says that nothing follows.
cdef void answer_head(tg_answer *answer, tg_buffer *out, Scan *scan, const tg_buffer *extra, bint last,
                      uint64_t now) noexcept
# The head of an answer of our own, whose body has `size` bytes; `fields` is header lines besides Content-Length.
cdef void answer_own_head(tg_answer *answer, tg_buffer *out, int status, const tg_buffer *fields, uint64_t size,
                          uint64_t now) noexcept
# The endpoint granted the upgrade: raw bytes follow.
cdef void answer_upgrade(tg_answer *answer, tg_buffer *out, const Scan *scan) noexcept
# The end of a body in chunks.
cdef void answer_last_chunk(tg_answer *answer, tg_buffer *out) noexcept


# A small piece of the body, `size` bytes together. 0, or -1: no memory.
cdef inline int answer_body(tg_answer *answer, tg_buffer *out, const iovec *parts, int count, size_t size) noexcept:
    cdef int i, failed = 0
    if answer.chunking:
        return append_chunk(out, &answer.chunk, tg_buffer_size(out), parts, count, size)
    for i in range(count):
        failed |= tg_buffer_append(out, parts[i].iov_base, parts[i].iov_len)
    return failed


# What stands before a piece of the body that goes out without a copy, and what stands behind it. 0 or -1.
cdef inline int answer_piece_begin(tg_answer *answer, tg_buffer *out, size_t size) noexcept:
    if not answer.chunking:
        return 0
    answer.chunk = 0
    return append_chunk_size(out, size)


cdef inline int answer_piece_end(tg_answer *answer, tg_buffer *out) noexcept:
    return append_text(out, b"\r\n") if answer.chunking else 0
