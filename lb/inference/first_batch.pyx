"""The model and the batch of a gRPC inference request: see first_batch.pxd.

A ModelInferRequest has the model's name as field 1 and its inputs as field 5, an input its shape as field 3; encoders
write fields in the order of their numbers, so that both stand before the tensors' data, wherever that is. Only what is
looked for needs to be here.
"""

from libc.stdint cimport INT64_MAX, int64_t, uint64_t
from lb.http.grpc.protobuf cimport (
    WIRE_BYTES, WIRE_VARINT, cursor, field, next_field, span, start_cursor, take_varint,
)

cdef enum:
    FRAME = 5                         # of gRPC: compressed or not, and the message's length
    MODEL_NAME = 1
    INPUTS = 5
    SHAPE = 3


cdef bint read_shape(cursor *c, int64_t *size) noexcept nogil:
    """Whether an input's fields have a first dimension."""
    cdef cursor inner
    cdef field f
    cdef uint64_t value
    while next_field(c, &f) > 0:
        if f.number != SHAPE:
            continue
        value = f.value
        if f.wire == WIRE_BYTES:
            start_cursor(&inner, f.bytes.data, f.bytes.size)
            if take_varint(&inner, &value) < 0:
                continue
        elif f.wire != WIRE_VARINT:
            continue
        if 0 < value <= <uint64_t> INT64_MAX:
            size[0] = <int64_t> value
        return True
    return False


cdef bint first_batch(const char *data, size_t size, tg_batch *found) noexcept nogil:
    cdef const unsigned char *head = <const unsigned char *> data
    cdef const unsigned char *before
    cdef cursor c, input
    cdef field f
    cdef uint64_t tag, length, came
    found.model = span(NULL, 0)
    found.size = 1
    if size < FRAME:
        return False
    if head[0] != 0:
        return True                           # compressed
    length = <uint64_t> head[1] << 24 | <uint64_t> head[2] << 16 | <uint64_t> head[3] << 8 | head[4]
    came = min(<uint64_t> size - FRAME, length)
    start_cursor(&c, data + FRAME, <size_t> came)
    while True:
        before = c.at
        if take_varint(&c, &tag) < 0:
            return came == length
        if tag == (INPUTS << 3 | WIRE_BYTES):
            if take_varint(&c, &tag) < 0:
                return came == length
            # As much of it as is here.
            start_cursor(&input, <const char *> c.at, <size_t> min(tag, <uint64_t> (c.end - c.at)))
            return read_shape(&input, &found.size) or tag <= <uint64_t> (c.end - c.at) or came == length
        c.at = before
        if next_field(&c, &f) <= 0:
            return came == length
        if f.number == MODEL_NAME and f.wire == WIRE_BYTES:
            found.model = f.bytes
