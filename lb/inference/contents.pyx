"""Typed tensor contents (`InferTensorContents`) turned into raw tensor data."""

from libc.stdint cimport UINT32_MAX, int16_t, int32_t, int64_t, int8_t, uint16_t, uint32_t, uint64_t, uint8_t
from lb.net.buffer cimport tg_buffer, tg_buffer_append, tg_buffer_reserve
from lb.inference.datatypes cimport (DT_BOOL, DT_BYTES, DT_FP32, DT_FP64, DT_INT8, DT_INT16, DT_INT32, DT_INT64,
                                     DT_UINT8, DT_UINT16, DT_UINT32, DT_UINT64, element_size)
from lb.http.grpc.protobuf cimport (
    WIRE_BYTES, WIRE_FIXED32, WIRE_FIXED64, WIRE_VARINT, cursor, field, next_field, span, start_cursor, take_varint,
)

cdef enum:
    MALFORMED = -1
    NO_MEMORY = -2
    CONTENT_FIELDS = 8                # fields 1 to 8 hold values


cdef uint32_t content_field(int dt) noexcept nogil:
    """The field that holds a datatype; 0: it has none."""
    if dt == DT_BOOL:
        return 1
    if dt == DT_INT8 or dt == DT_INT16 or dt == DT_INT32:
        return 2
    if dt == DT_INT64:
        return 3
    if dt == DT_UINT8 or dt == DT_UINT16 or dt == DT_UINT32:
        return 4
    if dt == DT_UINT64:
        return 5
    if dt == DT_FP32:
        return 6
    if dt == DT_FP64:
        return 7
    return 8 if dt == DT_BYTES else 0


cdef int append_value(tg_buffer *out, int dt, uint64_t value) noexcept nogil:
    """A scalar, narrowed as Protocol Buffers narrows varints (to the low 32 bits) and then checked against the
    datatype."""
    cdef int32_t signed = <int32_t><uint32_t>value
    cdef uint32_t unsigned = <uint32_t>value
    if dt == DT_BOOL:
        value = value != 0
    elif (dt == DT_INT8 and signed != <int8_t>signed) or (dt == DT_INT16 and signed != <int16_t>signed):
        return MALFORMED
    elif (dt == DT_UINT8 and unsigned != <uint8_t>unsigned) or (dt == DT_UINT16 and unsigned != <uint16_t>unsigned):
        return MALFORMED
    # The low bytes come first: the hosts are little-endian.
    return NO_MEMORY if tg_buffer_append(out, &value, element_size(dt)) < 0 else 0


cdef int64_t count_varints(const span *packed) noexcept nogil:
    cdef int64_t count = 0
    cdef size_t i
    for i in range(packed.size):
        count += <unsigned char>packed.data[i] < 0x80
    return count


cdef int append_packed(tg_buffer *out, int dt, const field *f, int64_t *left) noexcept nogil:
    cdef cursor c
    cdef uint64_t value
    cdef int64_t count
    cdef int result
    if dt == DT_FP32 or dt == DT_FP64:
        if f.bytes.size % element_size(dt):
            return MALFORMED
        return NO_MEMORY if tg_buffer_append(out, f.bytes.data, f.bytes.size) < 0 else 0
    count = count_varints(&f.bytes)
    if count > left[0]:
        return MALFORMED
    left[0] -= count
    if tg_buffer_reserve(out, <size_t>count * element_size(dt)) < 0:
        return NO_MEMORY
    start_cursor(&c, f.bytes.data, f.bytes.size)
    while c.at < c.end:
        if take_varint(&c, &value) < 0:
            return MALFORMED
        result = append_value(out, dt, value)
        if result < 0:
            return result
    return 0


cdef int append_bytes(tg_buffer *out, const field *f) noexcept nogil:
    cdef uint32_t length
    if f.wire != WIRE_BYTES or f.bytes.size > UINT32_MAX:
        return MALFORMED
    length = <uint32_t>f.bytes.size
    if tg_buffer_append(out, &length, 4) < 0 or tg_buffer_append(out, f.bytes.data, f.bytes.size) < 0:
        return NO_MEMORY
    return 0


cdef int append_contents(tg_buffer *out, int dt, const char *message, size_t size, int64_t *left) noexcept nogil:
    cdef cursor c
    cdef field f
    cdef uint32_t expected = content_field(dt)
    cdef int scalar = WIRE_FIXED32 if dt == DT_FP32 else WIRE_FIXED64 if dt == DT_FP64 else WIRE_VARINT
    cdef int more, result
    start_cursor(&c, message, size)
    while True:
        c.left = 1                            # of its own budget
        more = next_field(&c, &f)
        if more <= 0:
            return more
        if left[0] == 0:
            return MALFORMED
        left[0] -= 1
        if f.number > CONTENT_FIELDS:
            continue
        if f.number != expected:
            # Values of another type; an empty packed list of them says nothing.
            if f.wire == WIRE_BYTES and f.bytes.size == 0 and f.number != 8:
                continue
            return MALFORMED
        if dt == DT_BYTES:
            result = append_bytes(out, &f)
        elif f.wire == WIRE_BYTES:
            result = append_packed(out, dt, &f, left)
        elif f.wire == scalar:
            result = append_value(out, dt, f.value)
        else:
            result = MALFORMED
        if result < 0:
            return result
