"""Protocol Buffers wire format, read in place and written, without a library (protobuf.dev, "Encoding").

Reading is bounded by the cursor's end; whatever cannot be right (a length past the end, a varint over 64 bits, field
number 0, groups) is malformed. Unknown fields are the caller's to ignore. So that no message takes long, whatever its
size, more than FIELDS_MOST fields are malformed, too; what is in a field has a cursor with the same budget
(`start_inner`, `end_inner`), unless its size is known to be small.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy
from lb.net.buffer cimport tg_buffer, tg_buffer_append, tg_buffer_reserve, tg_buffer_tail


cdef enum:
    WIRE_VARINT = 0
    WIRE_FIXED64 = 1
    WIRE_BYTES = 2
    WIRE_FIXED32 = 5
    VARINT_MAX = 10                   # bytes of the longest varint
    FIELDS_MOST = 16384               # of a message, those in its fields included


cdef struct span:
    const char *data
    size_t size


cdef struct cursor:
    const unsigned char *at
    const unsigned char *end
    int left                          # fields that may come


cdef struct field:
    uint32_t number
    int wire
    uint64_t value                    # WIRE_VARINT, WIRE_FIXED64, WIRE_FIXED32
    span bytes                        # WIRE_BYTES


cdef inline void start_cursor(cursor *c, const char *data, size_t size) noexcept nogil:
    c.at = <const unsigned char *>data
    c.end = c.at + size
    c.left = FIELDS_MOST


cdef inline void start_inner(cursor *c, const span *bytes, const cursor *outer) noexcept nogil:
    """For what is in a field of `outer`: its fields are the message's, too."""
    c.at = <const unsigned char *>bytes.data
    c.end = c.at + bytes.size
    c.left = outer.left


cdef inline void end_inner(const cursor *c, cursor *outer) noexcept nogil:
    outer.left = c.left


cdef inline int take_varint(cursor *c, uint64_t *value) noexcept nogil:
    """0, or -1: cut off, or more than 64 bits."""
    cdef uint64_t result = 0
    cdef uint64_t byte
    cdef int shift = 0
    while c.at < c.end:
        byte = c.at[0]
        c.at += 1
        if shift == 63 and byte > 1:
            return -1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            value[0] = result
            return 0
        shift += 7
        if shift > 63:
            return -1
    return -1


cdef inline int next_field(cursor *c, field *f) noexcept nogil:
    """1 with the next field in `f`, 0 at the end, -1 malformed."""
    cdef uint64_t tag
    cdef uint32_t four
    f.bytes = span(NULL, 0)
    if c.at >= c.end:
        return 0
    if c.left == 0 or take_varint(c, &tag) < 0 or tag > 0xFFFFFFFFu or tag < 8:
        return -1
    c.left -= 1
    f.number = <uint32_t>(tag >> 3)
    f.wire = <int>(tag & 7)
    if f.wire == WIRE_VARINT:
        return -1 if take_varint(c, &f.value) < 0 else 1
    if f.wire == WIRE_BYTES:
        if take_varint(c, &f.value) < 0 or f.value > <uint64_t>(c.end - c.at):
            return -1
        f.bytes.data = <const char *>c.at
        f.bytes.size = <size_t>f.value
        c.at += f.value
        return 1
    if f.wire == WIRE_FIXED64:
        if c.end - c.at < 8:
            return -1
        memcpy(&f.value, c.at, 8)
        c.at += 8
        return 1
    if f.wire == WIRE_FIXED32:
        if c.end - c.at < 4:
            return -1
        memcpy(&four, c.at, 4)
        f.value = four
        c.at += 4
        return 1
    return -1


cdef inline size_t varint_size(uint64_t value) noexcept nogil:
    cdef size_t n = 1
    while value >= 0x80:
        value >>= 7
        n += 1
    return n


cdef inline char *put_varint(char *at, uint64_t value) noexcept nogil:
    """Writes at most VARINT_MAX bytes; returns the end."""
    while value >= 0x80:
        at[0] = <char>((value & 0x7F) | 0x80)
        value >>= 7
        at += 1
    at[0] = <char>value
    return at + 1


cdef inline int append_varint(tg_buffer *out, uint64_t value) noexcept nogil:
    if tg_buffer_reserve(out, VARINT_MAX) < 0:
        return -1
    out.end = put_varint(tg_buffer_tail(out), value) - out.data
    return 0


cdef inline int append_tag(tg_buffer *out, uint32_t number, int wire) noexcept nogil:
    return append_varint(out, (<uint64_t>number << 3) | <uint64_t>wire)


cdef inline int append_field(tg_buffer *out, uint32_t number, const char *data, size_t size) noexcept nogil:
    """A length-delimited field, written even when it is empty."""
    if append_tag(out, number, WIRE_BYTES) < 0 or append_varint(out, size) < 0:
        return -1
    return tg_buffer_append(out, data, size)
