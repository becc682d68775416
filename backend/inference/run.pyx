"""A run of a model on a batch: see run.pxd.

    take_inputs    tensors in place where one inference runs alone; side by side where several do
    Run
    take_results   where the results are, their shapes; strings become the protocol's BYTES
"""

from libc.stdint cimport int64_t, uint32_t, uintptr_t
from libc.stdio cimport snprintf
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from backend.inference.batch cimport batch_drop_inputs, tg_result
from backend.inference.inference cimport tg_inference, tg_kept, tg_operand
from backend.inference.model cimport (
    ANY_FILLED, ANY_SIZE, FILL_END, FILL_ID, FILL_START, FILL_STATE, tg_fill, tg_model, tg_spec, tg_state,
)
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


cdef OrtStatus *new_value(const tg_spec *spec, const int64_t *shape, OrtValue **into) noexcept nogil:
    """A tensor in memory of ONNX Runtime's."""
    cdef OrtAllocator *allocator = NULL
    cdef OrtStatus *status = api.GetAllocatorWithDefaultOptions(&allocator)
    if status == NULL:
        status = api.CreateTensorAsOrtValue(
            allocator, shape, <size_t>spec.rank, <ONNXTensorElementDataType>spec.element, into)
    return status


cdef int make_input(tg_batch *batch, int i, void *data, size_t size, const int64_t *shape) noexcept nogil:
    """Input `i`, whose bytes are at `data` and stay there."""
    cdef const tg_spec *spec = &batch.model.inputs[i]
    cdef OrtStatus *status = api.CreateTensorWithDataAsOrtValue(
        host_memory, data, size, shape, <size_t>spec.rank, <ONNXTensorElementDataType>spec.element, &batch.values[i])
    return 0 if status == NULL else failed(batch, status)


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
    for i in range(model.input_count, model.fed_count):
        if fill_input(batch, i, &model.fills[i - model.input_count]) < 0:
            return -1
    return 0


cdef int fill_input(tg_batch *batch, int i, const tg_fill *fill) noexcept nogil:
    """An input that says of each row where its sequence is, or has the sequence's state."""
    cdef const tg_spec *spec = &batch.model.inputs[i]
    cdef int64_t shape[64]
    cdef int axis
    batch.names[i] = spec.name
    if fill.kind == FILL_STATE:
        return fill_state(batch, i, &batch.model.states[fill.state], fill.state)
    for axis in range(spec.rank):
        shape[axis] = 1
    if batch.count > 1:                           # then the first dimension is the rows
        shape[0] = batch.rows
    if spec.datatype == DT_BYTES:
        return fill_names(batch, i, shape)
    return fill_elements(batch, i, fill, shape)


cdef int fill_elements(tg_batch *batch, int i, const tg_fill *fill, const int64_t *shape) noexcept nogil:
    cdef const tg_spec *spec = &batch.model.inputs[i]
    cdef size_t size = element_size(spec.datatype), at = 0
    cdef const tg_inference *member
    cdef tg_link *link = batch.members.next
    cdef const void *value
    cdef bint said
    if posix_memalign(&batch.copies[i], ALIGNMENT, size * <size_t>batch.count):
        batch.copies[i] = NULL
        return fail(batch, OUT_OF_MEMORY)
    while link != &batch.members:
        member = <const tg_inference *>link.owner
        if fill.kind == FILL_ID:
            value = &member.sequence_number       # little-endian, and known to fit
        else:
            said = member.starts if fill.kind == FILL_START else member.ends if fill.kind == FILL_END else True
            value = fill.values[1 if said else 0]
        memcpy(<char *>batch.copies[i] + at, value, size)
        at += size
        link = link.next
    return make_input(batch, i, batch.copies[i], at, shape)


cdef int fill_names(tg_batch *batch, int i, const int64_t *shape) noexcept nogil:
    """The ids of sequences as texts; a number in decimal digits."""
    cdef const tg_inference *member
    cdef tg_link *link = batch.members.next
    cdef OrtStatus *status
    cdef char digits[24]
    cdef const char *text
    cdef char *into = NULL
    cdef size_t index = 0, size
    status = new_value(&batch.model.inputs[i], shape, &batch.values[i])
    if status != NULL:
        return failed(batch, status)
    while link != &batch.members:
        member = <const tg_inference *>link.owner
        text, size = member.sequence_id.data, member.sequence_id.size
        if text == NULL:
            text = digits
            size = <size_t>snprintf(digits, sizeof(digits), b"%llu", <unsigned long long>member.sequence_number)
        status = api.GetResizedStringTensorElementBuffer(batch.values[i], index, size, &into)
        if status != NULL:
            return failed(batch, status)
        memcpy(into, text, size)
        index += 1
        link = link.next
    return 0


cdef int fill_state(tg_batch *batch, int i, const tg_state *state, int k) noexcept nogil:
    """The state of one sequence is used where it is; those of several are put side by side."""
    cdef const tg_spec *spec = &batch.model.inputs[i]
    cdef tg_inference *member
    cdef tg_link *link = batch.members.next
    cdef int64_t shape[64]
    cdef size_t at = 0
    cdef void *data = NULL
    cdef OrtStatus *status
    while link != &batch.members:
        member = <tg_inference *>link.owner
        if member.kept.now[k] == NULL and first_state(batch, spec, state, &member.kept.now[k]) < 0:
            return -1
        link = link.next
    if batch.count == 1:
        member = <tg_inference *>batch.members.next.owner
        batch.values[i] = member.kept.now[k]      # `change_states` takes it out again
        return 0
    memcpy(shape, state.shape, spec.rank * sizeof(int64_t))
    shape[0] = batch.rows
    if posix_memalign(&batch.copies[i], ALIGNMENT, state.size * <size_t>batch.count + 1):
        batch.copies[i] = NULL
        return fail(batch, OUT_OF_MEMORY)
    link = batch.members.next
    while link != &batch.members and state.size:
        member = <tg_inference *>link.owner
        status = api.GetTensorMutableData(member.kept.now[k], &data)
        if status != NULL:
            return failed(batch, status)
        memcpy(<char *>batch.copies[i] + at, data, state.size)
        at += state.size
        link = link.next
    return make_input(batch, i, batch.copies[i], at, shape)


cdef int make_state(tg_batch *batch, const tg_spec *spec, const int64_t *shape, const void *data, size_t size,
                    OrtValue **into) noexcept nogil:
    """A value with memory of its own: a copy of `data`, or zeros where that is NULL."""
    cdef void *memory = NULL
    cdef OrtStatus *status
    status = new_value(spec, shape, into)
    if status == NULL and size:
        status = api.GetTensorMutableData(into[0], &memory)
        if status == NULL and data != NULL:
            memcpy(memory, data, size)
        elif status == NULL:
            memset(memory, 0, size)
    return 0 if status == NULL else failed(batch, status)


cdef int first_state(tg_batch *batch, const tg_spec *spec, const tg_state *state, OrtValue **into) noexcept nogil:
    return make_state(batch, spec, state.shape, state.data, state.size, into)


cdef int take_tensor(tg_batch *batch, int i, const int64_t *shape) noexcept nogil:
    cdef tg_inference *member = <tg_inference *>batch.members.next.owner
    cdef tg_link *link = batch.members.next
    cdef void *data = <void *>member.operands[i].data
    cdef size_t size = 0, at = 0
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
    return make_input(batch, i, data, size, shape)


cdef int take_strings(tg_batch *batch, int i, const int64_t *shape) noexcept nogil:
    cdef const tg_operand *operand
    cdef tg_link *link = batch.members.next
    cdef OrtStatus *status
    cdef const char *at
    cdef const char *end
    cdef char *into = NULL
    cdef uint32_t length
    cdef size_t index = 0
    status = new_value(&batch.model.inputs[i], shape, &batch.values[i])
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
    cdef OrtValue *value = batch.values[batch.model.fed_count + i]
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
    for i in range(batch.model.fed_count):
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


cdef int name_outputs(tg_batch *batch) noexcept nogil:
    """The outputs of the run, and where those are that are state. How many."""
    cdef const tg_model *model = batch.model
    cdef int count = batch.wanted_count, i, k
    for i in range(batch.wanted_count):
        batch.names[model.fed_count + i] = model.outputs[batch.wanted[i]].name
    for k in range(model.state_count):
        batch.state_at[k] = -1
        for i in range(batch.wanted_count):
            if batch.wanted[i] == model.states[k].output:
                batch.state_at[k] = model.fed_count + i
        if batch.state_at[k] < 0:
            batch.state_at[k] = model.fed_count + count
            batch.names[model.fed_count + count] = model.outputs[model.states[k].output].name
            count += 1
    return count


cdef int take_state(tg_batch *batch, int k) noexcept nogil:
    """What a state is in the next inferences of the members' sequences."""
    cdef const tg_state *state = &batch.model.states[k]
    cdef const tg_spec *spec = &batch.model.inputs[state.input]
    cdef OrtValue *value = batch.values[batch.state_at[k]]
    cdef OrtTensorTypeAndShapeInfo *info = NULL
    cdef ONNXTensorElementDataType element
    cdef tg_inference *member
    cdef tg_link *link = batch.members.next
    cdef int64_t shape[64]
    cdef size_t rank = 0, count = 0, size, at = 0
    cdef void *data = NULL
    cdef OrtStatus *status
    cdef bint fits, ours = batch.state_at[k] >= batch.model.fed_count + batch.wanted_count     # in no answer
    cdef int axis
    status = api.GetTensorTypeAndShape(value, &info)
    if status == NULL:
        status = api.GetTensorElementType(info, &element)
    if status == NULL:
        status = api.GetDimensionsCount(info, &rank)
    if status == NULL:
        status = api.GetTensorShapeElementCount(info, &count)
    if status == NULL and rank == <size_t>spec.rank:
        status = api.GetDimensions(info, shape, rank)
    if info != NULL:
        api.ReleaseTensorTypeAndShapeInfo(info)
    if status != NULL:
        return failed(batch, status)
    fits = rank == <size_t>spec.rank and <int>element == spec.element
    if fits and rank and batch.count > 1:
        fits = shape[0] == batch.rows
        shape[0] = 1
    for axis in range(spec.rank if fits else 0):
        if spec.shape[axis] != shape[axis] and spec.shape[axis] != ANY_SIZE and (
                spec.shape[axis] != ANY_FILLED or shape[axis] == 0):
            fits = False
    if not fits:
        return fail(batch, b"a state has another shape than its input takes")
    size = count * element_size(spec.datatype)
    if size:
        status = api.GetTensorMutableData(value, &data)
        if status != NULL:
            return failed(batch, status)
    member = <tg_inference *>link.owner
    if batch.count == 1 and ours and not is_input(batch, data):
        member.kept.next[k] = value
        batch.values[batch.state_at[k]] = NULL
        return 0
    size //= <size_t>batch.count                  # each member has one row
    while link != &batch.members:
        member = <tg_inference *>link.owner
        if make_state(batch, spec, shape, <char *>data + at if size else NULL, size, &member.kept.next[k]) < 0:
            return -1
        at += size
        link = link.next
    return 0


cdef void check_rows(tg_batch *batch) noexcept nogil:
    """Whether each output of several inferences has their rows: members that are run again need the state that they
    had."""
    cdef int i
    for i in range(batch.wanted_count if batch.count > 1 else 0):
        if batch.results[i].rank == 0 or batch.results[i].shape[0] != batch.rows:
            fail(batch, b"an output has other rows than the batch")


cdef void change_states(tg_batch *batch) noexcept nogil:
    """All states of all members change where the run was good; else none does."""
    cdef bint well = batch.status == NULL and batch.problem == NULL
    cdef tg_link *link = batch.members.next
    cdef tg_kept *kept
    cdef OrtValue *gone
    cdef int i, k
    for i in range(batch.model.input_count, batch.model.fed_count):
        if batch.copies[i] == NULL and batch.model.fills[i - batch.model.input_count].kind == FILL_STATE:
            batch.values[i] = NULL                # it is the sequence's
    while link != &batch.members:
        kept = (<tg_inference *>link.owner).kept
        for k in range(batch.model.state_count):
            gone = kept.now[k] if well else kept.next[k]
            if well:
                kept.now[k] = kept.next[k]
            kept.next[k] = NULL
            if gone != NULL:
                api.ReleaseValue(gone)
        link = link.next


cdef void run(tg_batch *batch) noexcept nogil:
    cdef const tg_model *model = batch.model
    cdef int inputs = model.fed_count, outputs, i
    batch.began = batch.inferring = batch.inferred = monotonic_ns()
    outputs = name_outputs(batch)
    if take_inputs(batch) == 0:
        batch.inferring = monotonic_ns()
        batch.status = api.Run(
            model.session, model.options if batch.options == NULL else batch.options, batch.names,
            <const OrtValue *const *>batch.values, <size_t>inputs, batch.names + inputs, <size_t>outputs,
            batch.values + inputs)
        batch.inferred = monotonic_ns()
        if batch.status == NULL:
            for i in range(batch.wanted_count):
                if take_result(batch, i) < 0:
                    break
        if model.state_count and batch.status == NULL and batch.problem == NULL:
            check_rows(batch)
        for i in range(model.state_count):
            if batch.status == NULL and batch.problem == NULL and take_state(batch, i) < 0:
                break
    if model.state_count:
        change_states(batch)
    batch_drop_inputs(batch)
    batch.ended = monotonic_ns()
