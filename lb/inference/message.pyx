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
            if request.raw_count == MAX_TENSORS:
                return "too many raw_input_contents"
            request.raw[request.raw_count] = f.bytes
            request.raw_count += 1
        elif f.number == INPUTS:
            if request.input_count == MAX_TENSORS:
                return "too many inputs"
            request.inputs[request.input_count] = f.bytes
            request.input_count += 1
        elif f.number == OUTPUTS:
            if request.output_count == MAX_TENSORS:
                return "too many outputs"
            request.outputs[request.output_count] = f.bytes
            request.output_count += 1
        elif f.number == REQUEST_PARAMETERS:
            if request.parameter_count == MAX_PARAMETERS:
                return "too many parameters"
            request.parameters[request.parameter_count] = f.bytes
            request.parameter_count += 1
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
        elif output.parameter_count == MAX_PARAMETERS:
            return "too many parameters of an output"
        else:
            output.parameters[output.parameter_count] = f.bytes
            output.parameter_count += 1
