"""Chunks of a body: see chunks.pxd."""

from libc.stdint cimport uint32_t
from libc.string cimport memcpy, memmove
from lb.net.buffer cimport tg_buffer, tg_buffer_reserve, tg_buffer_tail
from lb.net.iovec cimport iovec

cdef enum:
    LINE_END = 2
    DIGITS_MOST = 16                  # of a chunk's size


cdef inline size_t digits_of(size_t value) noexcept nogil:
    cdef size_t digits = 1
    while value > 15:
        value >>= 4
        digits += 1
    return digits


cdef inline char *put_line_end(char *at) noexcept nogil:
    at[0] = 13
    at[1] = 10
    return at + LINE_END


cdef inline char *put_size(char *at, size_t digits, size_t value) noexcept nogil:
    cdef const char *alphabet = "0123456789abcdef"
    cdef size_t i = digits
    while i:
        i -= 1
        at[i] = alphabet[value & 15]
        value >>= 4
    return put_line_end(at + digits)


cdef int append_chunk(tg_buffer *out, uint32_t *last, size_t unsent, const iovec *spans, int count,
                      size_t size) noexcept nogil:
    cdef size_t before = last[0], whole = before + size
    cdef size_t digits, longer
    cdef char *at
    cdef int i
    if not size:
        return 0                      # a chunk of nothing would be the last
    if tg_buffer_reserve(out, DIGITS_MOST + LINE_END + size + LINE_END) < 0:
        return -1
    at = tg_buffer_tail(out)
    digits = digits_of(before)
    if before and whole <= GATHERED and unsent >= digits + LINE_END + before + LINE_END:
        longer = digits_of(whole)
        at -= LINE_END + before + LINE_END + digits       # where its size stands
        if longer != digits:
            memmove(at + longer + LINE_END, at + digits + LINE_END, before)
        at = put_size(at, longer, whole) + before
    else:
        whole = size
        at = put_size(at, digits_of(size), size)
    for i in range(count):
        if spans[i].iov_len:
            memcpy(at, spans[i].iov_base, spans[i].iov_len)
            at += spans[i].iov_len
    out.end = <size_t>(put_line_end(at) - out.data)
    last[0] = <uint32_t>min(whole, <size_t>0xFFFFFFFF)
    return 0
