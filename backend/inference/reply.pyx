"""The answer to an inference: see reply.pxd."""

from libc.stdint cimport uint64_t
from libc.string cimport strlen
from backend.inference.batch cimport tg_batch, tg_result
from backend.inference.inference cimport tg_inference
from backend.inference.model cimport Served, tg_model, tg_spec
from lb.http.grpc.protobuf cimport (
    WIRE_BYTES, append_field, append_tag, append_varint, put_varint, span, varint_size,
)
from lb.inference.datatypes cimport datatype_name
from lb.net.buffer cimport tg_buffer, tg_buffer_append

cdef enum:
    # Fields of ModelInferResponse.
    ID = 3
    PARAMETERS = 4
    OUTPUTS = 5
    RAW_CONTENTS = 6
    # Of InferOutputTensor.
    NAME = 1
    DATATYPE = 2
    SHAPE = 3
    MOST_DIMENSIONS = 64

# An entry of `parameters`: triton_final_response is true.
FINAL = b"\x0a\x15triton_final_response\x12\x02\x08\x01"
cdef const char *FINAL_ENTRY = FINAL
cdef size_t FINAL_SIZE = len(FINAL)


cdef int output_fields(tg_buffer *out, const tg_inference *inference, int i) noexcept:
    """An InferOutputTensor."""
    cdef const tg_batch *batch = <const tg_batch *>inference.batch
    cdef const tg_result *result = &batch.results[i]
    cdef const tg_spec *spec = &batch.model.outputs[inference.wanted[i]]
    cdef const char *datatype = datatype_name(spec.datatype)
    cdef char packed[MOST_DIMENSIONS * 10]
    cdef char *at = packed
    cdef size_t size = strlen(datatype), shape_size
    cdef int axis
    for axis in range(result.rank):
        at = put_varint(at, <uint64_t>(
            inference.rows if axis == 0 and batch.count > 1 else result.shape[axis]))
    shape_size = <size_t>(at - packed)
    if append_tag(out, OUTPUTS, WIRE_BYTES) < 0:
        return -1
    if append_varint(out, 2 + varint_size(spec.name_size) + spec.name_size + size
                     + (1 + varint_size(shape_size) + shape_size if shape_size else 0)
                     + varint_size(size)) < 0:
        return -1
    if append_field(out, NAME, spec.name, spec.name_size) < 0 or append_field(out, DATATYPE, datatype, size) < 0:
        return -1
    return append_field(out, SHAPE, packed, shape_size) if shape_size else 0


cdef int reply_name(tg_buffer *out, const tg_inference *inference) noexcept:
    cdef const tg_model *model = &(<Served>inference.served).c
    if tg_buffer_append(out, model.head, model.head_size) < 0:
        return -1
    return append_field(out, ID, inference.id.data, inference.id.size) if inference.id.size else 0


cdef int reply_final(tg_buffer *out) noexcept:
    return append_field(out, PARAMETERS, FINAL_ENTRY, FINAL_SIZE)


cdef int reply_fields(tg_buffer *out, const tg_inference *inference) noexcept:
    cdef int i
    if reply_name(out, inference) < 0:
        return -1
    if inference.final and reply_final(out) < 0:
        return -1
    for i in range(inference.wanted_count):
        if output_fields(out, inference, i) < 0:
            return -1
    return 0


cdef span reply_tensor(const tg_inference *inference, int i) noexcept:
    cdef const tg_batch *batch = <const tg_batch *>inference.batch
    cdef const tg_result *result = &batch.results[i]
    cdef size_t first = <size_t>inference.first_row, last = first + <size_t>inference.rows, row
    cdef size_t start, end
    if batch.count == 1 or result.size == 0:
        return span(result.data, result.size)
    if result.ends != NULL:
        start = result.ends[first - 1] if first else 0
        end = result.ends[last - 1]
        return span(result.data + start, end - start)
    row = result.size // <size_t>batch.rows
    return span(result.data + first * row, (last - first) * row)


cdef bytes reply_finished(const tg_inference *inference):
    cdef const tg_batch *batch = <const tg_batch *>inference.batch
    cdef span tensor
    cdef int i, axis
    outputs = []
    for i in range(inference.wanted_count):
        shape = [batch.results[i].shape[axis] for axis in range(batch.results[i].rank)]
        if batch.count > 1:
            shape[0] = inference.rows
        tensor = reply_tensor(inference, i)
        outputs.append((shape, tensor.data[:tensor.size] if tensor.size else b""))
    return (<object>inference.finish)(outputs)


cdef size_t reply_tensor_head_size(size_t size) noexcept:
    return 1 + varint_size(size)


cdef int reply_tensor_head(tg_buffer *out, size_t size) noexcept:
    return -1 if append_tag(out, RAW_CONTENTS, WIRE_BYTES) < 0 else append_varint(out, size)
