"""A run of a model on a batch: see run.pxd.

    take_inputs    tensors in place where one inference runs alone; side by side where several do
    Run
    take_results   where the results are, their shapes; strings become the protocol's BYTES
"""

from libc.stdint cimport int64_t, uint32_t, uintptr_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy
from backend.inference.batch cimport batch_drop_inputs, tg_result
from backend.inference.inference cimport tg_inference, tg_operand
from backend.inference.model cimport tg_model, tg_spec
from backend.ort.c_api cimport (
    ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING, ONNXTensorElementDataType, OrtAllocator, OrtStatus,
    OrtTensorTypeAndShapeInfo, OrtValue,
)
from backend.ort.library cimport api, host_memory
from lb.inference.datatypes cimport DT_BYTES, element_size
from lb.net.link cimport tg_link
from lb.net.poller cimport monotonic_ns

cdef extern from "<stdlib.h>" nogil:
    int posix_memalign(void **into, size_t alignment, size_t size)

cdef enum:
    ALIGNMENT = 64                    # of copies: a cache line, and the widest registers
    ALIGNED = 16                      # of tensors that are read in place: what malloc gives
    MOST_DIMENSIONS = 64

NO_MEMORY = b"out of memory"
cdef const char *OUT_OF_MEMORY = NO_MEMORY


cdef int fail(tg_batch *batch, const char *problem) noexcept nogil:
    batch.problem = problem
    return -1


cdef int failed(tg_batch *batch, OrtStatus *status) noexcept nogil:
    batch.status = status
    return -1


cdef int take_inputs(tg_batch *batch) noexcept nogil:
    cdef const tg_model *model = batch.model
    cdef const tg_inference *first = <tg_inference *>batch.members.next.owner
    cdef const tg_spec *spec
    cdef int64_t shape[64]
    cdef int i
    for i in range(model.input_count):
        spec = &model.inputs[i]
        batch.names[i] = spec.name
        memcpy(shape, first.operands[i].shape, spec.rank * sizeof(int64_t))
        if batch.count > 1:
            shape[0] = batch.rows
        if spec.datatype == DT_BYTES:
            if take_strings(batch, i, shape) < 0:
                return -1
        elif take_tensor(batch, i, shape) < 0:
            return -1
    return 0


cdef int take_tensor(tg_batch *batch, int i, const int64_t *shape) noexcept nogil:
    cdef const tg_spec *spec = &batch.model.inputs[i]
    cdef tg_inference *member = <tg_inference *>batch.members.next.owner
    cdef tg_link *link = batch.members.next
    cdef void *data = <void *>member.operands[i].data
    cdef size_t size = 0, at = 0
    cdef OrtStatus *status
    if batch.count > 1 or <uintptr_t>data & (ALIGNED - 1):
        while link != &batch.members:
            member = <tg_inference *>link.owner
            size += member.operands[i].size
            link = link.next
        if posix_memalign(&batch.copies[i], ALIGNMENT, size + 1):
            batch.copies[i] = NULL
            return fail(batch, OUT_OF_MEMORY)
        data = batch.copies[i]
        link = batch.members.next
        while link != &batch.members:
            member = <tg_inference *>link.owner
            memcpy(<char *>data + at, member.operands[i].data, member.operands[i].size)
            at += member.operands[i].size
            link = link.next
    else:
        size = member.operands[i].size
    status = api.CreateTensorWithDataAsOrtValue(
        host_memory, data, size, shape, <size_t>spec.rank, <ONNXTensorElementDataType>spec.element, &batch.values[i])
    return 0 if status == NULL else failed(batch, status)


cdef int take_strings(tg_batch *batch, int i, const int64_t *shape) noexcept nogil:
    cdef const tg_spec *spec = &batch.model.inputs[i]
    cdef const tg_operand *operand
    cdef tg_link *link = batch.members.next
    cdef OrtAllocator *allocator = NULL
    cdef OrtStatus *status
    cdef const char *at
    cdef const char *end
    cdef char *into = NULL
    cdef uint32_t length
    cdef size_t index = 0
    status = api.GetAllocatorWithDefaultOptions(&allocator)
    if status == NULL:
        status = api.CreateTensorAsOrtValue(
            allocator, shape, <size_t>spec.rank, <ONNXTensorElementDataType>spec.element, &batch.values[i])
    if status != NULL:
        return failed(batch, status)
    while link != &batch.members:
        operand = &(<tg_inference *>link.owner).operands[i]
        at = operand.data
        end = at + operand.size
        while at < end:                           # the lengths were checked
            memcpy(&length, at, 4)
            status = api.GetResizedStringTensorElementBuffer(batch.values[i], index, length, &into)
            if status != NULL:
                return failed(batch, status)
            memcpy(into, at + 4, length)
            at += 4 + <size_t>length
            index += 1
        link = link.next
    return 0


cdef int take_result(tg_batch *batch, int i) noexcept nogil:
    cdef tg_result *result = &batch.results[i]
    cdef const tg_spec *spec = &batch.model.outputs[batch.wanted[i]]
    cdef OrtValue *value = batch.values[batch.model.input_count + i]
    cdef OrtTensorTypeAndShapeInfo *info = NULL
    cdef ONNXTensorElementDataType element
    cdef OrtStatus *status
    cdef size_t rank = 0, count = 0
    cdef void *data = NULL
    cdef int is_tensor = 0
    status = api.IsTensor(value, &is_tensor)
    if status != NULL:
        return failed(batch, status)
    if not is_tensor:
        return fail(batch, b"an output is no tensor")
    status = api.GetTensorTypeAndShape(value, &info)
    if status == NULL:
        status = api.GetTensorElementType(info, &element)
    if status == NULL:
        status = api.GetTensorShapeElementCount(info, &count)
    if status == NULL:
        status = api.GetDimensionsCount(info, &rank)
    if status == NULL and rank <= MOST_DIMENSIONS:
        result.shape = <int64_t *>malloc((rank + 1) * sizeof(int64_t))
        if result.shape != NULL:
            status = api.GetDimensions(info, result.shape, rank)
    if info != NULL:
        api.ReleaseTensorTypeAndShapeInfo(info)
    if status != NULL:
        return failed(batch, status)
    if rank > MOST_DIMENSIONS:
        return fail(batch, b"an output has more than 64 dimensions")
    if result.shape == NULL:
        return fail(batch, OUT_OF_MEMORY)
    if <int>element != spec.element:
        return fail(batch, b"an output has another type than the model says")
    result.rank = <int>rank
    if element == ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING:
        return take_texts(batch, result, value, count)
    result.size = count * element_size(spec.datatype)
    if count:
        status = api.GetTensorMutableData(value, &data)
        if status != NULL:
            return failed(batch, status)
        if is_input(batch, data):                 # its memory goes before the answer is written
            result.text = <char *>malloc(result.size)
            if result.text == NULL:
                return fail(batch, OUT_OF_MEMORY)
            memcpy(result.text, data, result.size)
            data = result.text
    result.data = <const char *>data
    return 0


cdef bint is_input(const tg_batch *batch, const void *data) noexcept nogil:
    """Whether an output is the memory of an input, as where a graph hands one through."""
    cdef void *start
    cdef int i
    for i in range(batch.model.input_count):
        if batch.model.inputs[i].datatype != DT_BYTES:
            start = NULL
            if api.GetTensorMutableData(batch.values[i], &start) == NULL and start == data:
                return True
    return False


cdef int take_texts(tg_batch *batch, tg_result *result, const OrtValue *value, size_t count) noexcept nogil:
    """The protocol's BYTES: each element behind its length."""
    cdef size_t size = 0, index, length, row = 0, rows
    cdef size_t *starts = NULL
    cdef char *text = NULL
    cdef char *at
    cdef uint32_t short_length
    cdef OrtStatus *status
    cdef int rc = 0
    if result.rank and result.shape[0] == 0:
        count = 0
    if count == 0:
        return 0
    rows = <size_t>result.shape[0] if result.rank else 1
    status = api.GetStringTensorDataLength(value, &size)
    if status != NULL:
        return failed(batch, status)
    starts = <size_t *>malloc((count + 1) * sizeof(size_t))
    text = <char *>malloc(size + 1)
    result.text = <char *>malloc(size + 4 * count)
    result.ends = <size_t *>malloc((rows + 1) * sizeof(size_t))
    if starts == NULL or text == NULL or result.text == NULL or result.ends == NULL:
        rc = fail(batch, OUT_OF_MEMORY)
    else:
        status = api.GetStringTensorContent(value, text, size, starts, count)
        if status != NULL:
            rc = failed(batch, status)
    if rc == 0:
        starts[count] = size
        at = result.text
        for index in range(count):
            length = starts[index + 1] - starts[index]
            short_length = <uint32_t>length
            memcpy(at, &short_length, 4)
            memcpy(at + 4, text + starts[index], length)
            at += 4 + length
            if (index + 1) % (count // rows) == 0 and row < rows:
                result.ends[row] = <size_t>(at - result.text)
                row += 1
        result.data = result.text
        result.size = size + 4 * count
    free(starts)
    free(text)
    return rc


cdef void run(tg_batch *batch) noexcept nogil:
    cdef const tg_model *model = batch.model
    cdef int inputs = model.input_count, i
    batch.began = batch.inferring = batch.inferred = monotonic_ns()
    for i in range(batch.wanted_count):
        batch.names[inputs + i] = model.outputs[batch.wanted[i]].name
    if take_inputs(batch) == 0:
        batch.inferring = monotonic_ns()
        batch.status = api.Run(
            model.session, model.options if batch.options == NULL else batch.options, batch.names,
            <const OrtValue *const *>batch.values, <size_t>inputs, batch.names + inputs, <size_t>batch.wanted_count,
            batch.values + inputs)
        batch.inferred = monotonic_ns()
        if batch.status == NULL:
            for i in range(batch.wanted_count):
                if take_result(batch, i) < 0:
                    break
    batch_drop_inputs(batch)
    batch.ended = monotonic_ns()
