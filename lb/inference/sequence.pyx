"""The sequence of a gRPC inference request: see sequence.pxd.

A ModelInferRequest has the model's name and version as fields 1 and 2 and its parameters as field 4; encoders write
fields in the order of their numbers, so that all of it stands before the tensors. Where the first tensor's raw data
(field 7) begins, the look is over: the data need not be here for a request to be sent on.
"""

from libc.stdint cimport uint64_t
from libc.string cimport memcmp, memset
from lb.http.grpc.protobuf cimport (
    WIRE_BYTES, WIRE_VARINT, cursor, end_inner, field, next_field, span, start_cursor, start_inner, take_varint,
)

cdef enum:
    MODEL_NAME = 1
    MODEL_VERSION = 2
    PARAMETERS = 4
    RAW_INPUTS = 7
    KEY = 1                           # of an entry of a map
    VALUE = 2
    BOOL_PARAM = 1                    # of an InferParameter
    INT64_PARAM = 2
    STRING_PARAM = 3
    UINT64_PARAM = 5

cdef const char *SERVICE = b"/inference.GRPCInferenceService/Model"


cdef bint infers(const char *path, size_t n) noexcept nogil:
    if n < 42 or memcmp(path, SERVICE, 37) != 0:
        return False
    if n == 42:
        return memcmp(path + 37, b"Infer", 5) == 0
    return n == 48 and memcmp(path + 37, b"StreamInfer", 11) == 0


cdef uint64_t message_length(const char *data) noexcept nogil:
    cdef const unsigned char *head = <const unsigned char *> data
    return <uint64_t> head[1] << 24 | <uint64_t> head[2] << 16 | <uint64_t> head[3] << 8 | head[4]


cdef size_t next_look(const char *data, size_t size) noexcept nogil:
    if size < GRPC_FRAME:
        return GRPC_FRAME
    return <size_t>min(<uint64_t>min(2 * size, <size_t>LOOK_MOST), GRPC_FRAME + message_length(data))


cdef void read_parameter(cursor *outer, const span *entry, tg_sequence *found) noexcept nogil:
    cdef cursor c, inner
    cdef field f, value
    cdef span key, held
    key = held = span(NULL, 0)
    start_inner(&c, entry, outer)
    while next_field(&c, &f) > 0:
        if f.wire == WIRE_BYTES and f.number == KEY:
            key = f.bytes
        elif f.wire == WIRE_BYTES and f.number == VALUE:
            held = f.bytes
    end_inner(&c, outer)
    # "sequence_id", "sequence_start", "sequence_end"
    if key.size < 11 or key.size > 14 or memcmp(key.data, b"sequence_", 9) != 0:
        return
    start_inner(&inner, &held, outer)
    while next_field(&inner, &value) > 0:
        if key.size == 11 and memcmp(key.data + 9, b"id", 2) == 0:
            if value.wire == WIRE_BYTES and value.number == STRING_PARAM:
                found.id = value.bytes
                found.number = 0
            elif value.wire == WIRE_VARINT and (value.number == INT64_PARAM or value.number == UINT64_PARAM):
                found.number = value.value
                found.id = span(NULL, 0)
        elif value.wire == WIRE_VARINT and value.number == BOOL_PARAM:
            if key.size == 14 and memcmp(key.data + 9, b"start", 5) == 0:
                found.start = value.value != 0
            elif key.size == 12 and memcmp(key.data + 9, b"end", 3) == 0:
                found.end = value.value != 0
    end_inner(&inner, outer)


cdef looked look_for_sequence(const char *data, size_t size, bint whole, tg_sequence *found) noexcept nogil:
    cdef const unsigned char *before
    cdef cursor c
    cdef field f
    cdef uint64_t length, tag
    cdef bint complete = whole
    cdef int got
    memset(found, 0, sizeof(tg_sequence))
    if size < GRPC_FRAME:
        return LOOK_NONE if whole else LOOK_MORE
    if data[0] != 0:
        return LOOK_NONE                      # compressed
    length = message_length(data)
    size -= GRPC_FRAME
    if size >= length:
        size = <size_t> length
        complete = True
    start_cursor(&c, data + GRPC_FRAME, size)
    while True:
        before = c.at
        got = next_field(&c, &f)
        if got <= 0:
            break
        if f.wire != WIRE_BYTES:
            continue
        if f.number == MODEL_NAME:
            found.model = f.bytes
        elif f.number == MODEL_VERSION:
            found.version = f.bytes
        elif f.number == PARAMETERS:
            read_parameter(&c, &f.bytes, found)
    if not complete:
        # Cut off in the middle of a field; of raw data that is no matter.
        c.at = before
        if take_varint(&c, &tag) < 0 or tag >> 3 != RAW_INPUTS:
            return LOOK_MORE
    return LOOK_FOUND if found.id.size or found.number else LOOK_NONE
