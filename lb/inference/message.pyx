"""Reading `ModelInferRequest` messages in place: see message.pxd.

As any Protocol Buffers parser does: unknown fields are passed over, the last of repeated singular fields counts.
"""

from lb.http.grpc.protobuf cimport WIRE_BYTES, cursor, field, next_field, span, start_cursor

cdef enum:                            # fields of ModelInferRequest
    MODEL_NAME = 1
    MODEL_VERSION = 2
    REQUEST_ID = 3
    REQUEST_PARAMETERS = 4
    INPUTS = 5
    OUTPUTS = 6
    RAW_CONTENTS = 7
cdef enum:                            # of InferRequestedOutputTensor
    OUTPUT_NAME = 1
    OUTPUT_PARAMETERS = 2


cdef inline bint keep(span *spans, int *count, int most, const field *f) noexcept nogil:
    """Adds the bytes of a repeated field. False: there is no room."""
    if count[0] == most:
        return False
    spans[count[0]] = f.bytes
    count[0] += 1
    return True


cdef const char *read_request(RequestMessage *request, const char *message, size_t size) noexcept nogil:
    cdef cursor c
    cdef field f
    cdef int more
    request.model = request.version = request.id = span(NULL, 0)
    request.input_count = request.output_count = request.raw_count = request.parameter_count = 0
    start_cursor(&c, message, size)
    while True:
        more = next_field(&c, &f)
        if more < 0:
            return "not a ModelInferRequest"
        if more == 0:
            return NULL
        if f.number > RAW_CONTENTS:
            continue
        if f.wire != WIRE_BYTES:
            return "a field of another type"
        if f.number == RAW_CONTENTS:
            if not keep(request.raw, &request.raw_count, MAX_TENSORS, &f):
                return "too many raw_input_contents"
        elif f.number == INPUTS:
            if not keep(request.inputs, &request.input_count, MAX_TENSORS, &f):
                return "too many inputs"
        elif f.number == OUTPUTS:
            if not keep(request.outputs, &request.output_count, MAX_TENSORS, &f):
                return "too many outputs"
        elif f.number == REQUEST_PARAMETERS:
            if not keep(request.parameters, &request.parameter_count, MAX_PARAMETERS, &f):
                return "too many parameters"
        elif f.number == MODEL_NAME:
            request.model = f.bytes
        elif f.number == MODEL_VERSION:
            request.version = f.bytes
        else:
            request.id = f.bytes


cdef const char *read_requested(RequestedOutput *output, const span *message) noexcept nogil:
    cdef cursor c
    cdef field f
    cdef int more
    output.name = span(NULL, 0)
    output.parameter_count = 0
    start_cursor(&c, message.data, message.size)
    while True:
        more = next_field(&c, &f)
        if more < 0:
            return "a malformed output"
        if more == 0:
            return NULL
        if f.number > OUTPUT_PARAMETERS:
            continue
        if f.wire != WIRE_BYTES:
            return "a field of another type in an output"
        if f.number == OUTPUT_NAME:
            output.name = f.bytes
        elif not keep(output.parameters, &output.parameter_count, MAX_PARAMETERS, &f):
            return "too many parameters of an output"
