"""What the stub model server answers: the Open Inference Protocol over bytes."""

from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcmp
from lb.net.buffer cimport tg_buffer, tg_buffer_append, tg_buffer_head, tg_buffer_size


cdef enum:
    # What a path asks for.
    UNKNOWN = 0
    INFER
    STREAM
    READY                             # a message whose field 1 is `true`, or SERVING
    SERVER_METADATA
    MODEL_METADATA


cdef inline bint ends_with(const char *path, size_t n, const char *end, size_t m) noexcept nogil:
    return n >= m and memcmp(path + n - m, end, m) == 0


cdef inline int method_of(const char *path, size_t n) noexcept nogil:
    if ends_with(path, n, b"/ModelInfer", 11):
        return INFER
    if ends_with(path, n, b"/ModelStreamInfer", 17):
        return STREAM
    if ends_with(path, n, b"/ModelReady", 11) or ends_with(path, n, b"/ServerLive", 11):
        return READY
    if ends_with(path, n, b"/ServerReady", 12) or ends_with(path, n, b".Health/Check", 13):
        return READY
    if ends_with(path, n, b"/ServerMetadata", 15):
        return SERVER_METADATA
    if ends_with(path, n, b"/ModelMetadata", 14):
        return MODEL_METADATA
    return UNKNOWN


cdef inline int begin_answer(tg_buffer *answer) noexcept nogil:
    return tg_buffer_append(answer, b"\0\0\0\0\0", 5)


cdef inline void end_answer(tg_buffer *answer) noexcept nogil:
    cdef size_t size = tg_buffer_size(answer) - 5
    cdef char *head = tg_buffer_head(answer)
    head[1] = <char>(size >> 24)
    head[2] = <char>(size >> 16)
    head[3] = <char>(size >> 8)
    head[4] = <char>size


cdef inline int read_varint(const uint8_t **p, const uint8_t *end, uint64_t *value) noexcept nogil:
    cdef int shift = 0
    cdef uint8_t byte
    value[0] = 0
    while p[0] < end and shift < 64:
        byte = p[0][0]
        p[0] += 1
        value[0] |= <uint64_t>(byte & 0x7f) << shift
        shift += 7
        if not byte & 0x80:
            return 0
    return -1


# ModelInferRequest to ModelInferResponse: name, version, id, parameters and inputs have the same numbers there, the raw
# contents move from 7 to 6, the requested outputs (6) go. -1: not such a message, or no memory.
cdef inline int echo(tg_buffer *answer, const uint8_t *p, const uint8_t *end) noexcept nogil:
    cdef const uint8_t *start
    cdef const uint8_t *body
    cdef uint64_t tag, size
    cdef uint8_t raw = 6 << 3 | 2
    while p < end:
        start = p
        if read_varint(&p, end, &tag) < 0 or tag & 7 != 2:
            return -1
        body = p
        if read_varint(&p, end, &size) < 0 or size > <uint64_t>(end - p):
            return -1
        p += size
        if tag >> 3 == 7:
            if tg_buffer_append(answer, &raw, 1) < 0 or tg_buffer_append(answer, body, <size_t>(p - body)) < 0:
                return -1
        elif tag >> 3 != 6 and tg_buffer_append(answer, start, <size_t>(p - start)) < 0:
            return -1
    return 0


# The message that answers `body`, a whole gRPC message with its prefix, appended to `answer`; a gRPC status. `fixed`
# is the answer to every ModelInfer, with its prefix; NULL = echo.
cdef inline int fill(tg_buffer *answer, int method, const uint8_t *body, size_t size, const char *fixed,
                     size_t fixed_size) noexcept nogil:
    cdef const uint8_t *message = body + 5
    cdef const uint8_t *end = body + size
    cdef int rc = 0
    if size < 5 or body[0]:
        return 13
    if (<size_t>body[1] << 24 | <size_t>body[2] << 16 | <size_t>body[3] << 8 | <size_t>body[4]) != size - 5:
        return 13
    if method == UNKNOWN or method == STREAM:
        return 12
    if method == INFER and fixed != NULL:
        return 0 if tg_buffer_append(answer, fixed, fixed_size) == 0 else 8
    if begin_answer(answer) < 0:
        return 8
    if method == INFER:
        rc = echo(answer, message, end)
    elif method == READY:
        rc = tg_buffer_append(answer, b"\x08\x01", 2)
    elif method == SERVER_METADATA:
        rc = tg_buffer_append(answer, b"\x0a\x04stub\x12\x011", 9)
    else:
        # The name comes back; ModelMetadataRequest's version (2) means the versions (2) there.
        rc = tg_buffer_append(answer, message, <size_t>(end - message))
        if rc == 0:
            rc = tg_buffer_append(answer, b"\x1a\x04stub", 6)
    if rc < 0:
        return 3
    end_answer(answer)
    return 0


# The message that answers one of a dialogue, `body` with its prefix, appended to `answer`; a gRPC status. `fixed` is
# the answer to each, with its prefix; NULL = a ModelStreamInferResponse whose field 2 is the echo.
cdef inline int stream_answer(tg_buffer *answer, const uint8_t *body, size_t size, const char *fixed,
                              size_t fixed_size) noexcept nogil:
    cdef size_t start = tg_buffer_size(answer), length
    cdef uint8_t *head
    cdef int i
    if body[0]:
        return 13                     # compressed, which was not agreed on
    if fixed != NULL:
        return 0 if tg_buffer_append(answer, fixed, fixed_size) == 0 else 8
    # The inner length comes before it is known, so it gets the five bytes that any length fits in.
    if tg_buffer_append(answer, b"\0\0\0\0\0\x12\x80\x80\x80\x80\0", 11) < 0:
        return 8
    if echo(answer, body + 5, body + size) < 0:
        answer.end = answer.start + start
        return 3
    head = <uint8_t *>tg_buffer_head(answer) + start
    length = tg_buffer_size(answer) - start - 11
    for i in range(5):
        head[6 + i] = <uint8_t>(length >> 7 * i & 0x7f | (0x80 if i < 4 else 0))
    length += 6
    for i in range(4):
        head[1 + i] = <uint8_t>(length >> 8 * (3 - i))
    return 0
