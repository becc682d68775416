"""Writing JSON: strings, numbers and tensor data (RFC 8259)."""

from libc.stdint cimport int64_t, uint64_t
from lb.net.buffer cimport tg_buffer


cdef enum:
    TEXT_OK = 0
    TEXT_MEMORY = -1
    TEXT_NOT_UTF8 = -2

# A quoted string. TEXT_OK, TEXT_MEMORY or TEXT_NOT_UTF8.
cdef int append_string(tg_buffer *out, const char *data, size_t n) noexcept nogil
cdef int append_int(tg_buffer *out, int64_t value) noexcept nogil
cdef int append_uint(tg_buffer *out, uint64_t value) noexcept nogil
# What floats.pxd says about NaN and the infinities holds.
cdef int append_double(tg_buffer *out, double value) noexcept nogil
# The flat array of a tensor's raw data, `n` bytes that are whole elements. TEXT_NOT_UTF8 only for BYTES.
cdef int append_tensor(tg_buffer *out, int dt, const char *data, size_t n) noexcept nogil
# Whether data is UTF-8 (RFC 3629: no surrogates, nothing overlong, nothing above U+10FFFF).
cdef bint valid_utf8(const char *data, size_t n) noexcept nogil
# Bytes of the multi-byte sequence at `p`, which has `n` bytes; 0 when it is none of UTF-8.
cdef size_t utf8_sequence(const unsigned char *p, size_t n) noexcept nogil
