"""How much a message of an inference has: see counts.pxd."""

from libc.limits cimport INT_MAX
from libc.stdint cimport uint64_t
from lb.http.grpc.protobuf cimport (
    FIELDS_MOST, WIRE_BYTES, WIRE_VARINT, cursor, end_inner, field, next_field, span, start_cursor, start_inner,
    take_varint,
)
from lb.inference.datatypes cimport MAX_RANK, MAX_TENSORS

cdef enum:                            # fields of ModelInferRequest; those of ModelInferResponse have the same numbers,
    PARAMETERS = 4                    # but for its raw contents, which are in REQUESTED
    TENSORS = 5
    REQUESTED = 6
    RAW_INPUTS = 7
cdef enum:                            # of inputs and outputs
    TENSOR_SHAPE = 3
    TENSOR_PARAMETERS = 4
    TENSOR_CONTENTS = 5
cdef enum:
    REQUESTED_PARAMETERS = 2          # of InferRequestedOutputTensor
    VALUE = 2                         # of an entry of a map
    BYTES_CONTENTS = 8                # of InferTensorContents


cdef struct Counted:
    int tensors
    int requested
    int raw
    int parameters
    int texts_left


cdef inline const char *problem_of(const cursor *c) noexcept nogil:
    """Why there is no next field."""
    if c.left == 0:
        return "more than 16384 fields"
    return "a malformed field"


cdef const char *count_fields(cursor *outer, const span *bytes) noexcept nogil:
    """All that is in a message without messages."""
    cdef cursor c
    cdef field f
    cdef int more = 1
    start_inner(&c, bytes, outer)
    while more > 0:
        more = next_field(&c, &f)
    end_inner(&c, outer)
    if more == 0:
        return NULL
    return problem_of(&c)


cdef const char *count_parameter(cursor *outer, const span *entry, Counted *counted) noexcept nogil:
    cdef cursor c
    cdef field f
    cdef const char *problem = NULL
    cdef int more
    if counted.parameters == PARAMETERS_MOST:
        return "more than 2048 parameters"
    counted.parameters += 1
    start_inner(&c, entry, outer)
    while problem == NULL:
        more = next_field(&c, &f)
        if more == 0:
            break
        if more < 0:
            problem = problem_of(&c)
        elif f.number == VALUE and f.wire == WIRE_BYTES:
            problem = count_fields(&c, &f.bytes)
    end_inner(&c, outer)
    return problem


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


cdef const char *count_contents(cursor *outer, const span *bytes, Counted *counted) noexcept nogil:
    cdef cursor c
    cdef field f
    cdef const char *problem = NULL
    cdef int more
    start_inner(&c, bytes, outer)
    while problem == NULL:
        more = next_field(&c, &f)
        if more == 0:
            break
        if more < 0:
            problem = problem_of(&c)
        elif f.number == BYTES_CONTENTS:
            c.left += 1                       # a field each, since there is no other form
            counted.texts_left -= 1
            if counted.texts_left < 0:
                problem = "more than 131072 elements of bytes_contents"
    end_inner(&c, outer)
    return problem


cdef const char *count_tensor(cursor *outer, const span *bytes, Counted *counted) noexcept nogil:
    cdef cursor c
    cdef field f
    cdef const char *problem = NULL
    cdef int rank = 0
    cdef int more
    start_inner(&c, bytes, outer)
    while problem == NULL:
        more = next_field(&c, &f)
        if more == 0:
            break
        if more < 0:
            problem = problem_of(&c)
        elif f.number == TENSOR_SHAPE:
            problem = count_dimensions(&f, &rank)
        elif f.wire != WIRE_BYTES:
            pass
        elif f.number == TENSOR_PARAMETERS:
            problem = count_parameter(&c, &f.bytes, counted)
        elif f.number == TENSOR_CONTENTS:
            problem = count_contents(&c, &f.bytes, counted)
    end_inner(&c, outer)
    return problem


cdef const char *count_requested(cursor *outer, const span *bytes, Counted *counted) noexcept nogil:
    cdef cursor c
    cdef field f
    cdef const char *problem = NULL
    cdef int more
    start_inner(&c, bytes, outer)
    while problem == NULL:
        more = next_field(&c, &f)
        if more == 0:
            break
        if more < 0:
            problem = problem_of(&c)
        elif f.number == REQUESTED_PARAMETERS and f.wire == WIRE_BYTES:
            problem = count_parameter(&c, &f.bytes, counted)
    end_inner(&c, outer)
    return problem


cdef const char *count_request(const char *message, size_t size, int *fields) noexcept nogil:
    cdef Counted counted = Counted(0, 0, 0, 0, TEXTS_MOST)
    cdef cursor c
    cdef field f
    cdef const char *problem = NULL
    cdef int more
    start_cursor(&c, message, size)
    while problem == NULL:
        more = next_field(&c, &f)
        if more == 0:
            break
        if more < 0:
            problem = problem_of(&c)
        elif f.wire != WIRE_BYTES:
            pass
        elif f.number == PARAMETERS:
            problem = count_parameter(&c, &f.bytes, &counted)
        elif f.number == TENSORS:
            counted.tensors += 1
            if counted.tensors > MAX_TENSORS:
                problem = "more than 500 inputs"
            else:
                problem = count_tensor(&c, &f.bytes, &counted)
        elif f.number == REQUESTED:
            counted.requested += 1
            if counted.requested > MAX_TENSORS:
                problem = "more than 500 outputs"
            else:
                problem = count_requested(&c, &f.bytes, &counted)
        elif f.number == RAW_INPUTS:
            counted.raw += 1
            if counted.raw > MAX_TENSORS:
                problem = "more than 500 raw_input_contents"
    fields[0] = FIELDS_MOST - c.left
    return problem


cdef const char *count_answer(const char *message, size_t size) noexcept nogil:
    cdef Counted counted = Counted(0, 0, 0, 0, INT_MAX)
    cdef cursor c
    cdef field f
    cdef const char *problem = NULL
    start_cursor(&c, message, size)
    while next_field(&c, &f) > 0:
        if f.wire != WIRE_BYTES:
            continue
        if f.number == PARAMETERS:
            problem = count_parameter(&c, &f.bytes, &counted)
        elif f.number == TENSORS:
            problem = count_tensor(&c, &f.bytes, &counted)
        if problem != NULL and counted.parameters == PARAMETERS_MOST:
            return problem                    # what else is wrong is found where the answer is read
    if c.left == 0:
        return problem_of(&c)
    return NULL
