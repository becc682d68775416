"""How much a message of an inference has: see counts.pxd."""

from libc.limits cimport INT_MAX
from libc.stdint cimport uint64_t
from lb.http.grpc.protobuf cimport (
    FIELDS_MOST, WIRE_BYTES, WIRE_VARINT, cursor, end_inner, field, next_field, span, start_cursor, start_inner,
    take_varint,
)
from lb.inference.datatypes cimport MAX_RANK, MAX_TENSORS

cdef enum:                            # fields of ModelInferRequest; those of ModelInferResponse have the same numbers,
    PARAMETERS = 4                    # but for its raw contents, which are in REQUESTED; of tensors, too
    TENSORS = 5
    REQUESTED = 6
    RAW_INPUTS = 7
cdef enum:                            # of inputs and outputs
    TENSOR_SHAPE = 3
    TENSOR_CONTENTS = 5
cdef enum:
    REQUESTED_PARAMETERS = 2          # of InferRequestedOutputTensor
    VALUE = 2                         # of an entry of a map
    BYTES_CONTENTS = 8                # of InferTensorContents


cdef enum kind:                       # of a message
    REQUEST
    ANSWER
    TENSOR
    REQUESTED_OUTPUT
    CONTENTS
    ENTRY                             # of a map of parameters
    PARAMETER


cdef struct Counted:
    int tensors
    int requested
    int raw
    int parameters
    int texts_left


cdef const char *count_dimensions(const field *f, int *rank) noexcept nogil:
    cdef cursor c
    cdef uint64_t value
    if f.wire == WIRE_VARINT:
        rank[0] += 1
    elif f.wire == WIRE_BYTES:
        start_cursor(&c, f.bytes.data, f.bytes.size)
        while c.at < c.end and rank[0] <= MAX_RANK:
            if take_varint(&c, &value) < 0:
                return "a malformed shape"
            rank[0] += 1
    if rank[0] > MAX_RANK:
        return "more than 64 dimensions of a shape"
    return NULL


cdef const char *count_text(cursor *c, Counted *counted) noexcept nogil:
    c.left += 1                       # a field each, since there is no other form
    counted.texts_left -= 1
    if counted.texts_left < 0:
        return "more than 131072 elements of bytes_contents"
    return NULL


cdef const char *count_message(cursor *outer, kind of, const span *bytes, Counted *counted) noexcept nogil:
    """All that is in a field of `outer`, which is a message."""
    cdef cursor c
    cdef const char *problem
    start_inner(&c, bytes, outer)
    problem = count_fields(&c, of, counted)
    end_inner(&c, outer)
    return problem


cdef const char *count_field(cursor *c, kind of, const field *f, Counted *counted) noexcept nogil:
    """A field of bytes, and what is in it."""
    if of == REQUEST and f.number == RAW_INPUTS:
        counted.raw += 1
        if counted.raw > MAX_TENSORS:
            return "more than 500 raw_input_contents"
    elif of == REQUEST and f.number == REQUESTED:
        counted.requested += 1
        if counted.requested > MAX_TENSORS:
            return "more than 500 outputs"
        return count_message(c, REQUESTED_OUTPUT, &f.bytes, counted)
    elif of <= ANSWER and f.number == TENSORS:
        counted.tensors += 1
        if of == REQUEST and counted.tensors > MAX_TENSORS:
            return "more than 500 inputs"
        return count_message(c, TENSOR, &f.bytes, counted)
    elif ((of <= TENSOR and f.number == PARAMETERS)
            or (of == REQUESTED_OUTPUT and f.number == REQUESTED_PARAMETERS)):
        if counted.parameters == PARAMETERS_MOST:
            return "more than 2048 parameters"
        counted.parameters += 1
        return count_message(c, ENTRY, &f.bytes, counted)
    elif of == TENSOR and f.number == TENSOR_CONTENTS:
        return count_message(c, CONTENTS, &f.bytes, counted)
    elif of == ENTRY and f.number == VALUE:
        return count_message(c, PARAMETER, &f.bytes, counted)
    return NULL


cdef const char *count_fields(cursor *c, kind of, Counted *counted) noexcept nogil:
    """The fields of a message, up to its end or the first problem."""
    cdef field f
    cdef const char *problem = NULL
    cdef int rank = 0
    cdef int more
    while problem == NULL:
        more = next_field(c, &f)
        if more == 0:
            break
        if more < 0:
            return b"more than 16384 fields" if c.left == 0 else b"a malformed field"
        if of == TENSOR and f.number == TENSOR_SHAPE:
            problem = count_dimensions(&f, &rank)
        elif of == CONTENTS:
            if f.number == BYTES_CONTENTS:
                problem = count_text(c, counted)
        elif f.wire == WIRE_BYTES:
            problem = count_field(c, of, &f, counted)
    return problem


cdef const char *count_request(const char *message, size_t size, int *fields) noexcept nogil:
    cdef Counted counted = Counted(0, 0, 0, 0, TEXTS_MOST)
    cdef cursor c
    cdef const char *problem
    start_cursor(&c, message, size)
    problem = count_fields(&c, REQUEST, &counted)
    fields[0] = FIELDS_MOST - c.left
    return problem


cdef const char *count_answer(const char *message, size_t size) noexcept nogil:
    cdef Counted counted = Counted(0, 0, 0, 0, INT_MAX)
    cdef cursor c
    cdef field f
    cdef const char *problem = NULL
    start_cursor(&c, message, size)
    while next_field(&c, &f) > 0:
        if f.wire == WIRE_BYTES:
            problem = count_field(&c, ANSWER, &f, &counted)
        if problem != NULL and counted.parameters == PARAMETERS_MOST:
            return problem                    # what else is wrong is found where the answer is read
    if c.left == 0:
        return "more than 16384 fields"
    return NULL
