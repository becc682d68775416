"""The `timeout` parameter of a gRPC inference request: see first_timeout.pxd."""

from libc.stdint cimport INT64_MAX, UINT64_MAX, uint64_t
from libc.string cimport memcmp
from lb.http.grpc.protobuf cimport (
    WIRE_BYTES, WIRE_VARINT, cursor, end_inner, field, next_field, span, start_cursor, start_inner, take_varint,
)
from lb.inference.sequence cimport GRPC_FRAME, message_length

cdef enum:
    PARAMETERS = 4                    # of a ModelInferRequest
    KEY = 1                           # of an entry of a map
    VALUE = 2
    INT64_PARAM = 2                   # of an InferParameter
    UINT64_PARAM = 5
    MICROSECOND_NS = 1000


cdef uint64_t timeout_of(cursor *outer, const span *entry, uint64_t before) noexcept nogil:
    """What the entry of a map says, if it is the timeout's; else `before`."""
    cdef cursor c, inner
    cdef field f, value
    cdef span key, held
    cdef uint64_t found = 0
    key = held = span(NULL, 0)
    start_inner(&c, entry, outer)
    while next_field(&c, &f) > 0:
        if f.wire == WIRE_BYTES and f.number == KEY:
            key = f.bytes
        elif f.wire == WIRE_BYTES and f.number == VALUE:
            held = f.bytes
    end_inner(&c, outer)
    if key.size != 7 or memcmp(key.data, b"timeout", 7) != 0:
        return before
    start_inner(&inner, &held, outer)
    while next_field(&inner, &value) > 0:
        if value.wire == WIRE_VARINT and (value.number == INT64_PARAM or value.number == UINT64_PARAM):
            # A negative one is for the model server to refuse.
            found = 0 if value.number == INT64_PARAM and value.value > <uint64_t>INT64_MAX else value.value
    end_inner(&inner, outer)
    return found


cdef int first_timeout(const char *data, size_t size, uint64_t *us) noexcept nogil:
    cdef const unsigned char *before
    cdef cursor c
    cdef field f
    cdef uint64_t length, tag, found = 0
    cdef bint complete
    if size < GRPC_FRAME:
        return TIMEOUT_MORE
    if data[0] != 0:
        return TIMEOUT_NONE                   # compressed
    length = message_length(data)
    complete = size - GRPC_FRAME >= length
    start_cursor(&c, data + GRPC_FRAME, <size_t>length if complete else size - GRPC_FRAME)
    while True:
        before = c.at
        if take_varint(&c, &tag) < 0:
            break
        if tag >> 3 > PARAMETERS:
            complete = True                   # as far as it matters
            break
        c.at = before
        if next_field(&c, &f) <= 0:
            break
        if f.number == PARAMETERS and f.wire == WIRE_BYTES:
            found = timeout_of(&c, &f.bytes, found)
    if not complete:
        return TIMEOUT_MORE
    us[0] = found
    return TIMEOUT_FOUND if found else TIMEOUT_NONE


cdef uint64_t time_after(uint64_t start, uint64_t us) noexcept nogil:
    if us > (UINT64_MAX - start) // MICROSECOND_NS:
        return UINT64_MAX
    return start + us * MICROSECOND_NS
