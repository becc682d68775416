"""One inference: see inference.pxd."""

from cpython.bytes cimport PyBytes_AS_STRING
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF, Py_XDECREF
from libc.stdint cimport INT64_MAX, UINT64_MAX, int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy
from backend.inference.batch cimport batch_release
from backend.inference.model cimport ANY_FILLED, ANY_SIZE, Served, tg_model, tg_spec
from lb.http.grpc.protobuf cimport span
from lb.inference.answer cimport (
    PARAMETER_BOOL, PARAMETER_INT64, PARAMETER_STRING, PARAMETER_UINT64, OutputTensor, Parameter, read_output,
    read_parameter,
)
from lb.inference.datatypes cimport DT_BOOL, DT_BYTES, bytes_framing_ok, tensor_size
from lb.inference.jsontext cimport valid_utf8
from lb.inference.message cimport RequestedOutput, RequestMessage, read_requested
from lb.net.link cimport link_init, link_remove


cdef class Waiter(Timed):

    def __cinit__(self):
        link_init(&self.turns)

    cdef void answered(self, tg_inference *inference) noexcept:
        inference_free(inference)


cdef inline bint is_text(const span *one, const char *text, size_t size) noexcept:
    return one.size == size and memcmp(one.data, text, size) == 0


cdef bint asks_more(const span *parameters, int count) noexcept:
    """Whether parameters of a tensor ask for what is not done here."""
    cdef Parameter parameter
    cdef int i
    for i in range(count):
        if read_parameter(&parameter, &parameters[i]) != NULL:
            return True
        if is_text(&parameter.key, b"shared_memory_region", 20) or is_text(&parameter.key, b"classification", 14):
            return True
    return False


cdef bint accepts(const tg_spec *spec, const OutputTensor *tensor) noexcept:
    cdef int64_t size
    cdef int axis
    if tensor.rank != spec.rank or tensor.datatype != spec.datatype:
        return False
    for axis in range(spec.rank):
        size = tensor.shape[axis]
        if spec.shape[axis] != size and spec.shape[axis] != ANY_SIZE and (spec.shape[axis] != ANY_FILLED or size == 0):
            return False
    return True


cdef bint texts(const char *data, size_t size) noexcept:
    """Whether each BYTES element, whose lengths are right, is UTF-8."""
    cdef uint32_t length
    while size:
        memcpy(&length, data, 4)
        if not valid_utf8(data + 4, length):
            return False
        data += 4 + <size_t>length
        size -= 4 + <size_t>length
    return True


cdef bint right_data(const tg_spec *spec, const OutputTensor *tensor, const span *raw) noexcept:
    """Whether the bytes are the tensor. Those of a BOOL that are neither 0 nor 1 are true (as for Triton), and made 1
    here: a model may compute with them."""
    cdef char *at
    cdef char *end
    if spec.datatype == DT_BYTES:
        return bytes_framing_ok(raw.data, raw.size, tensor.count) and texts(raw.data, raw.size)
    if tensor_size(spec.datatype, tensor.count) != <int64_t>raw.size:
        return False
    if spec.datatype == DT_BOOL:
        at = <char *>raw.data                     # the message is ours
        end = at + raw.size
        while at < end:
            if at[0] & ~1:
                at[0] = 1
            at += 1
    return True


cdef tg_inference *inference_new(Served served, int wanted_count) noexcept:
    """With room for all that has the model's size. NULL: no memory."""
    cdef const tg_model *model = &served.c
    cdef size_t ranks = 0, size
    cdef char *at
    cdef int64_t *shape
    cdef tg_inference *made
    cdef int i
    for i in range(model.input_count):
        ranks += <size_t>model.inputs[i].rank
    size = sizeof(tg_inference) + model.input_count * sizeof(tg_operand) + 2 * ranks * sizeof(int64_t)
    size += 2 * <size_t>wanted_count * sizeof(int64_t) + sizeof(int64_t)
    at = <char *>malloc(size)
    if at == NULL:
        return NULL
    made = <tg_inference *>at
    made.link.next = made.turn.next = NULL
    made.link.owner = made.turn.owner = made
    made.waiter = NULL
    made.block = NULL
    made.parts = NULL
    made.id = span(NULL, 0)
    made.final = False
    made.finish = NULL
    made.rows = 1
    made.operands = <tg_operand *>(at + sizeof(tg_inference))
    shape = <int64_t *>&made.operands[model.input_count]
    for i in range(model.input_count):
        made.operands[i].shape = shape
        made.operands[i].data = NULL
        shape += model.inputs[i].rank
    made.wanted = <int *>shape
    made.wanted_count = wanted_count
    made.key = <char *>(shape + wanted_count)
    made.key_size = 0
    made.alone = False
    made.starts = made.ends = False
    made.sequence_id = span(NULL, 0)
    made.sequence_number = 0
    made.sequence = NULL
    made.kept = NULL
    made.state = INFERENCE_NEW
    made.since = 0
    made.deadline = UINT64_MAX
    made.priority = made.timeout_us = 0
    made.level = 0
    made.group = NULL
    made.batch = NULL
    made.first_row = 0
    made.status = 0
    made.problem = NULL
    made.problem_size = 0
    Py_INCREF(served)
    made.served = <PyObject *>served
    made.queue = NULL
    made.begun = 0
    return made


cdef void find_key(Served served, tg_inference *inference) noexcept:
    """Inferences of one model may run as one when the same outputs are wanted, and their inputs differ in the first
    dimension alone, which is the number of rows."""
    cdef const tg_model *model = &served.c
    cdef const tg_operand *operand
    cdef char *at = inference.key
    cdef size_t size
    cdef int64_t rows = 0
    cdef int i
    if served.max_batch > 1 and model.input_count:
        rows = inference.operands[0].shape[0]
    for i in range(model.input_count):
        # Without elements the rows may be any number, which nobody should add up.
        if model.inputs[i].rank == 0 or inference.operands[i].shape[0] != rows or inference.operands[i].size == 0:
            rows = 0
            break
    if rows <= 0:
        inference.key = NULL
        return
    size = inference.wanted_count * sizeof(int)
    memcpy(at, inference.wanted, size)
    at += size
    for i in range(model.input_count):
        operand = &inference.operands[i]
        size = (model.inputs[i].rank - 1) * sizeof(int64_t)
        memcpy(at, operand.shape + 1, size)
        at += size
    inference.key_size = <size_t>(at - inference.key)
    inference.rows = rows


cdef bint read_inputs(Served served, tg_inference *inference, const RequestMessage *request) noexcept:
    cdef OutputTensor tensor
    cdef const tg_spec *spec
    cdef tg_operand *operand
    cdef int i, index
    for i in range(request.input_count):
        if read_output(&tensor, &request.inputs[i]) != NULL or tensor.has_contents:
            return False
        spec = &served.c.inputs[i]
        index = i
        if tensor.name.size != spec.name_size or (
                spec.name_size and memcmp(tensor.name.data, spec.name, spec.name_size)):
            index = served.index_of(tensor.name.data, tensor.name.size)
            if index < 0:
                return False
            spec = &served.c.inputs[index]
        operand = &inference.operands[index]
        if operand.data != NULL or not accepts(spec, &tensor):
            return False
        if tensor.parameter_count and asks_more(tensor.parameters, tensor.parameter_count):
            return False
        if not right_data(spec, &tensor, &request.raw[i]):
            return False
        operand.data = request.raw[i].data
        operand.size = request.raw[i].size
        memcpy(operand.shape, tensor.shape, spec.rank * sizeof(int64_t))
    return True


cdef bint read_outputs(Served served, tg_inference *inference, const RequestMessage *request) noexcept:
    cdef RequestedOutput output
    cdef int i, j, index
    if request.output_count == 0:
        for i in range(inference.wanted_count):
            inference.wanted[i] = i
        return True
    for i in range(request.output_count):
        if read_requested(&output, &request.outputs[i]) != NULL or output.name.size == 0:
            return False
        index = served.output_of(output.name.data, output.name.size)
        if index < 0 or (output.parameter_count and asks_more(output.parameters, output.parameter_count)):
            return False
        for j in range(i):
            if inference.wanted[j] == index:
                return False
        inference.wanted[i] = index
    return True


cdef inline uint64_t count_of(const Parameter *parameter) noexcept:
    """A positive number, else 0."""
    if parameter.choice == PARAMETER_UINT64 or (
            parameter.choice == PARAMETER_INT64 and parameter.value <= <uint64_t>INT64_MAX):
        return parameter.value
    return 0


cdef inline void hurry(tg_inference *inference, const Parameter *parameter) noexcept:
    if is_text(&parameter.key, b"priority", 8):
        inference.priority = count_of(parameter)
    elif is_text(&parameter.key, b"timeout", 7):
        inference.timeout_us = count_of(parameter)


cdef void inference_hurry(tg_inference *inference, const RequestMessage *request) noexcept:
    cdef Parameter parameter
    cdef int i
    for i in range(request.parameter_count):
        if read_parameter(&parameter, &request.parameters[i]) == NULL:
            hurry(inference, &parameter)


cdef bint read_parameters(tg_inference *inference, const RequestMessage *request) noexcept:
    cdef Parameter parameter
    cdef int i
    for i in range(request.parameter_count):
        if read_parameter(&parameter, &request.parameters[i]) != NULL:
            return False
        if is_text(&parameter.key, b"triton_enable_empty_final_response", 34):
            inference.final = parameter.choice == PARAMETER_BOOL and parameter.value
        elif is_text(&parameter.key, b"sequence_start", 14):
            inference.starts = parameter.choice == PARAMETER_BOOL and parameter.value != 0
        elif is_text(&parameter.key, b"sequence_end", 12):
            inference.ends = parameter.choice == PARAMETER_BOOL and parameter.value != 0
        elif is_text(&parameter.key, b"sequence_id", 11):
            inference.sequence_id = span(NULL, 0)
            inference.sequence_number = 0
            if parameter.choice == PARAMETER_STRING and parameter.text.size:
                inference.sequence_id = parameter.text
            elif parameter.choice == PARAMETER_INT64 or parameter.choice == PARAMETER_UINT64:
                inference.sequence_number = parameter.value
        else:
            hurry(inference, &parameter)
    return True


cdef bint in_sequence(Served served, const tg_inference *inference) noexcept:
    """Whether the inference says which sequence it is of, in a way that the model takes, or needs not say it."""
    if not served.c.sequential:
        return True
    if inference.sequence_id.data == NULL:
        return 0 < inference.sequence_number <= served.most_id
    return not served.numbered and valid_utf8(inference.sequence_id.data, inference.sequence_id.size)


cdef tg_inference *inference_read(Served served, const RequestMessage *request, char *block) noexcept:
    cdef tg_inference *inference
    if request.input_count != served.c.input_count or request.raw_count != request.input_count:
        return NULL
    if request.id.size and not valid_utf8(request.id.data, request.id.size):
        return NULL
    inference = inference_new(served, request.output_count if request.output_count else served.c.output_count)
    if inference == NULL:
        return NULL
    if not (read_inputs(served, inference, request) and read_outputs(served, inference, request)
            and read_parameters(inference, request) and in_sequence(served, inference)):
        inference_free(inference)
        return NULL
    inference.id = request.id
    inference.block = block
    find_key(served, inference)
    return inference


cdef tg_inference *inference_of(Served served, list operands, list wanted, bytes id, bint final, object finish,
                                tuple sequence) except NULL:
    cdef tg_inference *inference = inference_new(served, <int>len(wanted))
    cdef tg_operand *operand
    cdef bytes raw
    cdef int i, axis
    if inference == NULL:
        raise MemoryError
    held = (operands, id, sequence)
    Py_INCREF(held)
    inference.parts = <PyObject *>held
    for i in range(served.c.input_count):
        shape, raw = operands[i]
        operand = &inference.operands[i]
        operand.data = PyBytes_AS_STRING(raw)
        operand.size = len(raw)
        for axis in range(served.c.inputs[i].rank):
            operand.shape[axis] = shape[axis]
    for i in range(inference.wanted_count):
        inference.wanted[i] = wanted[i]
    inference.id = span(PyBytes_AS_STRING(id), len(id))
    inference.final = final
    if sequence is not None:
        if isinstance(sequence[0], bytes):
            inference.sequence_id = span(PyBytes_AS_STRING(sequence[0]), <size_t>len(sequence[0]))
        else:
            inference.sequence_number = sequence[0]
        inference.starts, inference.ends = sequence[1], sequence[2]
    if finish is not None:
        Py_INCREF(finish)
        inference.finish = <PyObject *>finish
    find_key(served, inference)
    return inference


cdef tg_inference *inference_refused(int status, bytes problem, bytes answer) except NULL:
    cdef tg_inference *inference = <tg_inference *>calloc(1, sizeof(tg_inference))
    if inference == NULL:
        raise MemoryError
    inference.link.owner = inference.turn.owner = inference
    inference.state = INFERENCE_DONE
    inference.deadline = UINT64_MAX
    Py_INCREF(answer)
    inference.parts = <PyObject *>answer
    inference_fail(inference, status, PyBytes_AS_STRING(problem), <size_t>len(problem))
    return inference


cdef void inference_fail(tg_inference *inference, int status, const char *problem, size_t size) noexcept:
    free(inference.problem)
    inference.status = status
    inference.problem = <char *>malloc(size + 1)
    inference.problem_size = 0
    if inference.problem != NULL:                 # else the status has to do without
        memcpy(inference.problem, problem, size)
        inference.problem_size = size


cdef void inference_free(tg_inference *inference) noexcept:
    link_remove(&inference.link)
    link_remove(&inference.turn)
    if inference.batch != NULL:
        batch_release(inference.batch)
    Py_XDECREF(inference.parts)
    Py_XDECREF(inference.finish)
    Py_XDECREF(inference.sequence)
    Py_XDECREF(inference.served)
    Py_XDECREF(inference.queue)
    free(inference.block)
    free(inference.problem)
    free(inference)
