"""Heads as bytes: the lines and numbers they are made of, appended to a buffer.

What appends gives 0, or -1: out of memory.
"""

from libc.stdint cimport uint64_t
from libc.string cimport strlen
from lb.net.buffer cimport tg_buffer, tg_buffer_append
from lb.http.head cimport Scan

# In every module for itself, so that the length of a constant is known when it is compiled.
cdef inline int append_text(tg_buffer *out, const char *text) noexcept nogil:
    return tg_buffer_append(out, text, strlen(text))

cdef int append_number(tg_buffer *out, uint64_t value) noexcept nogil
cdef int append_chunk_size(tg_buffer *out, uint64_t value) noexcept nogil
# "Name: value\r\n" of every field that is passed on.
cdef int append_fields(tg_buffer *out, const Scan *scan, uint64_t skip) noexcept nogil
# The same of each trailer that is passed on.
cdef int append_trailers(tg_buffer *out, const Scan *scan) noexcept nogil
# The current "Date: …" line (RFC 9110 section 6.6.1), made once a second; `now` is monotonic, in nanoseconds.
cdef int append_date(tg_buffer *out, uint64_t now) noexcept
# What it says, and its length, which is 0 where the system cannot tell the time. It lasts until the next call.
cdef const char *date_text(uint64_t now, size_t *n) noexcept
# The text lasts until the next call.
cdef const char *reason_phrase(int status) noexcept nogil
