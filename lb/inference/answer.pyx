"""Reading `ModelInferResponse` messages in place.

As any Protocol Buffers parser does: unknown fields are passed over, the last of repeated singular fields counts,
repeated numbers may be packed or not. Stricter in one thing: `contents` may not come in several pieces, which no
encoder writes.
"""

from libc.stdint cimport INT64_MAX, int64_t
from lb.inference.contents cimport append_contents
from lb.inference.counts cimport count_answer
from lb.inference.datatypes cimport DT_BYTES, DT_UNKNOWN, bytes_framing_ok, datatype_of, element_count, tensor_size
from lb.net.buffer cimport tg_buffer
from lb.http.grpc.protobuf cimport (
    WIRE_BYTES, WIRE_FIXED64, WIRE_VARINT, cursor, field, next_field, span, start_cursor, take_varint,
)

cdef enum:                            # fields of ModelInferResponse
    MODEL_NAME = 1
    MODEL_VERSION = 2
    ANSWER_ID = 3
    ANSWER_PARAMETERS = 4
    OUTPUTS = 5
    RAW_CONTENTS = 6
cdef enum:                            # of InferOutputTensor
    TENSOR_NAME = 1
    TENSOR_DATATYPE = 2
    TENSOR_SHAPE = 3
    TENSOR_PARAMETERS = 4
    TENSOR_CONTENTS = 5


cdef const char *read_answer(Answer *answer, const char *message, size_t size) noexcept nogil:
    cdef cursor c
    cdef field f
    cdef int more
    answer.model = answer.version = span(NULL, 0)
    answer.output_count = answer.raw_count = answer.parameter_count = 0
    start_cursor(&c, message, size)
    while True:
        more = next_field(&c, &f)
        if more < 0:
            return "not a ModelInferResponse"
        if more == 0:
            return count_answer(message, size)
        if f.number > RAW_CONTENTS:
            continue
        if f.wire != WIRE_BYTES:
            return "a field of another type"
        if f.number == MODEL_NAME:
            answer.model = f.bytes
        elif f.number == MODEL_VERSION:
            answer.version = f.bytes
        elif f.number == ANSWER_PARAMETERS:
            if answer.parameter_count == MAX_PARAMETERS:
                return "too many parameters"
            answer.parameters[answer.parameter_count] = f.bytes
            answer.parameter_count += 1
        elif f.number == OUTPUTS:
            if answer.output_count == MAX_TENSORS:
                return "too many outputs"
            answer.outputs[answer.output_count] = f.bytes
            answer.output_count += 1
        elif f.number == RAW_CONTENTS:
            if answer.raw_count == MAX_TENSORS:
                return "too many raw_output_contents"
            answer.raw[answer.raw_count] = f.bytes
            answer.raw_count += 1


cdef const char *read_shape(OutputTensor *output, const field *f) noexcept nogil:
    cdef cursor c
    cdef uint64_t value
    if f.wire == WIRE_VARINT:
        if output.rank == MAX_RANK:
            return "too many dimensions"
        output.shape[output.rank] = <int64_t>f.value
        output.rank += 1
        return NULL
    if f.wire != WIRE_BYTES:
        return "a shape of another type"
    start_cursor(&c, f.bytes.data, f.bytes.size)
    while c.at < c.end:
        if take_varint(&c, &value) < 0:
            return "a malformed shape"
        if output.rank == MAX_RANK:
            return "too many dimensions"
        output.shape[output.rank] = <int64_t>value
        output.rank += 1
    return NULL


cdef const char *read_output(OutputTensor *output, const span *message) noexcept nogil:
    cdef cursor c
    cdef field f
    cdef const char *wrong
    cdef int more
    output.name = output.datatype_name = output.contents = span(NULL, 0)
    output.rank = output.parameter_count = 0
    output.has_contents = False
    start_cursor(&c, message.data, message.size)
    while True:
        more = next_field(&c, &f)
        if more < 0:
            return "a malformed output"
        if more == 0:
            break
        if f.number > TENSOR_CONTENTS:
            continue
        if f.number == TENSOR_SHAPE:
            wrong = read_shape(output, &f)
            if wrong != NULL:
                return wrong
            continue
        if f.wire != WIRE_BYTES:
            return "a field of another type in an output"
        if f.number == TENSOR_NAME:
            output.name = f.bytes
        elif f.number == TENSOR_DATATYPE:
            output.datatype_name = f.bytes
        elif f.number == TENSOR_PARAMETERS:
            if output.parameter_count == MAX_PARAMETERS:
                return "too many parameters of an output"
            output.parameters[output.parameter_count] = f.bytes
            output.parameter_count += 1
        elif f.bytes.size:
            if output.has_contents:
                return "contents of an output in several pieces"
            output.contents = f.bytes
            output.has_contents = True
    output.datatype = datatype_of(output.datatype_name.data, output.datatype_name.size)
    if output.datatype == DT_UNKNOWN:
        return "an output of unknown datatype"
    output.count = element_count(output.shape, output.rank)
    if output.count < 0:
        return "an output of impossible shape"
    return NULL


cdef const char *read_choice(Parameter *parameter, const span *message) noexcept nogil:
    cdef cursor c
    cdef field f
    cdef int more, wire
    start_cursor(&c, message.data, message.size)
    while True:
        more = next_field(&c, &f)
        if more < 0:
            return "a malformed parameter"
        if more == 0:
            return NULL
        if f.number > PARAMETER_UINT64:
            continue
        wire = WIRE_VARINT
        if f.number == PARAMETER_STRING:
            wire = WIRE_BYTES
        elif f.number == PARAMETER_DOUBLE:
            wire = WIRE_FIXED64
        if f.wire != wire:
            return "a parameter of another type"
        parameter.choice = <int>f.number
        if f.wire == WIRE_BYTES:
            parameter.text = f.bytes
        else:
            parameter.value = f.value


cdef const char *read_parameter(Parameter *parameter, const span *entry) noexcept nogil:
    cdef cursor c
    cdef field f
    cdef const char *wrong
    cdef int more
    parameter.key = parameter.text = span(NULL, 0)
    parameter.choice = PARAMETER_NONE
    parameter.value = 0
    start_cursor(&c, entry.data, entry.size)
    while True:
        more = next_field(&c, &f)
        if more < 0:
            return "a malformed parameter"
        if more == 0:
            return NULL
        if f.number > 2:
            continue
        if f.wire != WIRE_BYTES:
            return "a parameter of another type"
        if f.number == 1:
            parameter.key = f.bytes
        else:
            wrong = read_choice(parameter, &f.bytes)
            if wrong != NULL:
                return wrong


cdef int find_data(const OutputTensor *output, const Answer *answer, int *raw, tg_buffer *packed, Slice *data,
                   const char **wrong) noexcept nogil:
    cdef const char *at
    cdef int64_t left = INT64_MAX         # an answer is as large as its model makes it
    cdef int result
    if output.has_contents:
        data.data = NULL
        data.at = packed.end
        result = append_contents(packed, output.datatype, output.contents.data, output.contents.size, &left)
        if result == -1:
            wrong[0] = "contents that do not fit the datatype"
        if result < 0:
            return result
        data.size = packed.end - data.at
        at = packed.data + data.at
    elif raw[0] < answer.raw_count:
        data.data = at = answer.raw[raw[0]].data
        data.at = 0
        data.size = answer.raw[raw[0]].size
        raw[0] += 1
    elif output.count == 0:
        data.data = at = ""
        data.at = data.size = 0
    else:
        wrong[0] = "an output without data"
        return -1
    if output.datatype == DT_BYTES:
        if not bytes_framing_ok(at, data.size, output.count):
            wrong[0] = "BYTES data that is not the shape's number of length and bytes"
            return -1
    elif <int64_t>data.size != tensor_size(output.datatype, output.count):
        wrong[0] = "data that does not have the size of shape and datatype"
        return -1
    return 0
