"""The model of a gRPC request: see first_model.pxd."""

from libc.stdint cimport uint32_t
from lb.http.grpc.protobuf cimport WIRE_BYTES, cursor, field, next_field, start_cursor

cdef enum:
    FRAME_HEAD = 5                    # a flag byte and four bytes of length
    NAME = 1                          # model_name of ModelInferRequest, name of the others


cdef int first_model(const char *data, size_t size, const char **name, size_t *n) noexcept nogil:
    cdef const unsigned char *head = <const unsigned char *>data
    cdef uint32_t length
    cdef size_t came
    cdef cursor c
    cdef field f
    if size < FRAME_HEAD:
        return MODEL_UNKNOWN
    if head[0]:
        return MODEL_ABSENT
    length = <uint32_t>head[1] << 24 | <uint32_t>head[2] << 16 | <uint32_t>head[3] << 8 | head[4]
    came = min(size - FRAME_HEAD, <size_t>length)
    start_cursor(&c, data + FRAME_HEAD, came)
    while next_field(&c, &f) > 0:
        if f.number == NAME and f.wire == WIRE_BYTES:
            if not f.bytes.size:
                return MODEL_ABSENT
            name[0] = f.bytes.data
            n[0] = f.bytes.size
            return MODEL_FOUND
    # It is cut off, or over, or malformed: the last two only when nothing more will come.
    return MODEL_UNKNOWN if came < length else MODEL_ABSENT
