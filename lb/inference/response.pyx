"""Inference answers: from `ModelInferResponse` messages to HTTP bodies of the Open Inference Protocol.

JSON has no NaN and no infinities: they are written as the strings "NaN", "Infinity" and "-Infinity", as the protobuf
JSON mapping does (NumPy and most parsers of floating-point text take them). FP32 is written with the digits that a
float32 needs, FP16 and BF16 as the numbers they are.
"""

cimport cython
from cpython.object cimport PyTypeObject
from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, strlen
from lb.net.buffer cimport (
    tg_buffer, tg_buffer_append, tg_buffer_clear, tg_buffer_free, tg_buffer_head, tg_buffer_reserve, tg_buffer_size,
)
from lb.net.ending cimport tg_end_by
from lb.net.stream cimport iovec
from lb.inference.answer cimport (
    MAX_PARAMETERS, PARAMETER_BOOL, PARAMETER_DOUBLE, PARAMETER_INT64, PARAMETER_NONE, PARAMETER_STRING, Answer,
    OutputTensor, Parameter, Slice, find_data, read_answer, read_output, read_parameter,
)
from lb.inference.datatypes cimport MAX_TENSORS, datatype_name
from lb.inference.jsontext cimport TEXT_NOT_UTF8, append_double, append_int, append_string, append_tensor, append_uint
from lb.http.grpc.protobuf cimport cursor, field, next_field, span, start_cursor
from lb.inference.request cimport InferRequest
from lb.inference.template cimport Template

from lb.errors import UpstreamError
from lb.inference.errors import OipError

cdef enum:
    COPY_MAX = 512                    # bytes of a tensor that are cheaper copied than sent as a part of their own
    ID_FIELD = 3
    KEPT_MAX = 4096                   # bytes of a message, and of its JSON form, that are kept with a template


@cython.final
@cython.freelist(256)
@cython.no_gc
cdef class InferResponse:
    def body(self) -> bytes:
        """The body as bytes."""
        cdef int i
        cdef const iovec *parts = self.parts
        return b"".join([(<const char *>parts[i].iov_base)[:parts[i].iov_len] for i in range(self.part_count)])

    def part_sizes(self):
        """Bytes of each part of the body."""
        cdef int i
        return [self.parts[i].iov_len for i in range(self.part_count)]


cdef void end_response(void *response) noexcept:
    free(<void *>(<InferResponse>response).parts)
    tg_buffer_free(&(<InferResponse>response).head)
    tg_buffer_free(&(<InferResponse>response).packed)


tg_end_by(<PyTypeObject *>InferResponse, end_response)


cdef object malformed(const char *why):
    return UpstreamError(f"the endpoint's answer is malformed: {why.decode()}")


cdef int checked(int result, const char *why) except -1:
    """Turns the result of an append into an exception."""
    if result == TEXT_NOT_UTF8:
        raise malformed(why)
    if result < 0:
        raise MemoryError
    return 0


cdef int put(tg_buffer *out, const char *text) except -1:
    if tg_buffer_append(out, text, strlen(text)) < 0:
        raise MemoryError
    return 0


cdef int put_string(tg_buffer *out, const char *data, size_t size) except -1:
    return checked(append_string(out, data, size), "a name or text that is not UTF-8")


cdef int put_value(tg_buffer *out, const Parameter *parameter) except -1:
    cdef double real
    if parameter.choice == PARAMETER_STRING:
        return put_string(out, parameter.text.data, parameter.text.size)
    if parameter.choice == PARAMETER_BOOL:
        return put(out, "true" if parameter.value else "false")
    if parameter.choice == PARAMETER_INT64:
        return checked(append_int(out, <int64_t>parameter.value), "")
    if parameter.choice == PARAMETER_DOUBLE:
        memcpy(&real, &parameter.value, 8)
        return checked(append_double(out, real), "")
    return checked(append_uint(out, parameter.value), "")


cdef bint same(const span *a, const span *b) noexcept nogil:
    return a.size == b.size and (a.size == 0 or memcmp(a.data, b.data, a.size) == 0)


cdef bint of_the_hop(const span *key) noexcept nogil:
    """Parameters of an output that do not go on: `binary_data_size` is written anew. Where an output is in shared
    memory the client said itself, and Triton's C++ client takes any parameters for a sign of binary data."""
    return (key.size == 16 and memcmp(key.data, b"binary_data_size", 16) == 0
            or key.size >= 14 and memcmp(key.data, b"shared_memory_", 14) == 0)


cdef int put_parameters(tg_buffer *out, const span *entries, int count, int64_t binary_size) except -1:
    """`,"parameters":{…}` when there are any; `binary_size` of -1: no binary_data_size."""
    cdef Parameter[MAX_PARAMETERS] parameters
    cdef const char *wrong
    cdef const char *lead = ',"parameters":{'
    cdef bint last
    cdef int i, j
    for i in range(count):
        wrong = read_parameter(&parameters[i], &entries[i])
        if wrong != NULL:
            raise malformed(wrong)
    if binary_size >= 0:
        put(out, ',"parameters":{"binary_data_size":')
        checked(append_int(out, binary_size), "")
        lead = ","
    for i in range(count):
        # A map: the last entry of a key counts.
        last = parameters[i].choice != PARAMETER_NONE and not of_the_hop(&parameters[i].key)
        for j in range(i + 1, count):
            last = last and not same(&parameters[i].key, &parameters[j].key)
        if not last:
            continue
        put(out, lead)
        lead = ","
        put_string(out, parameters[i].key.data, parameters[i].key.size)
        put(out, ":")
        put_value(out, &parameters[i])
    if lead[1] == 0:
        put(out, "}")
    return 0


cdef int pass_over(const Answer *answer, int *raw) except -1:
    """An output in shared memory has an empty entry among the raw data, where each output has one."""
    if answer.raw_count == answer.output_count:
        if answer.raw[raw[0]].size:
            raise malformed("an output in shared memory with data")
        raw[0] += 1
    return 0


cdef int resolve(InferResponse response, const OutputTensor *output, const Answer *answer, int *raw,
                 Slice *data) except -1:
    """Finds the data of an output as raw bytes, and checks it against datatype and shape."""
    cdef const char *wrong = ""
    cdef int result = find_data(output, answer, raw, &response.packed, data, &wrong)
    if result == -1:
        raise malformed(wrong)
    if result < 0:
        raise MemoryError
    return 0


cdef int put_output(InferResponse response, const OutputTensor *output, const Slice *data, bint binary) except -1:
    """`data` is NULL where the output is in shared memory."""
    cdef tg_buffer *out = &response.head
    cdef int result
    cdef int i
    put(out, '{"name":')
    put_string(out, output.name.data, output.name.size)
    put(out, ',"datatype":"')
    put(out, datatype_name(output.datatype))
    put(out, '","shape":[')
    for i in range(output.rank):
        if i:
            put(out, ",")
        checked(append_int(out, output.shape[i]), "")
    put(out, "]")
    put_parameters(out, output.parameters, output.parameter_count, <int64_t>data.size if binary else -1)
    if not binary and data != NULL:
        put(out, ',"data":')
        result = append_tensor(out, output.datatype, data.data if data.data != NULL else response.packed.data + data.at,
                               data.size)
        if result == TEXT_NOT_UTF8:
            name = output.name.data[:output.name.size].decode()
            raise OipError(f"output '{name}' holds bytes that are not UTF-8 text: ask for it as binary data "
                           "(parameter binary_data)")
        checked(result, "")
    put(out, "}")
    return 0


cdef int gather(InferResponse response, const Slice *slices, int count) except -1:
    """Lays out the parts: the JSON part, then the binary outputs, small ones copied behind what comes before them."""
    cdef iovec *parts
    cdef char *start
    cdef const char *data
    cdef size_t copied = 0
    cdef int n = 0
    cdef int i
    for i in range(count):
        if slices[i].size <= COPY_MAX:
            copied += slices[i].size
    parts = <iovec *>malloc((2 * <size_t>count + 1) * sizeof(iovec))
    response.parts = parts
    if parts == NULL or tg_buffer_reserve(&response.head, copied) < 0:
        raise MemoryError
    start = tg_buffer_head(&response.head)
    response.size = tg_buffer_size(&response.head) + copied
    for i in range(count):
        data = slices[i].data if slices[i].data != NULL else response.packed.data + slices[i].at
        if slices[i].size <= COPY_MAX:
            tg_buffer_append(&response.head, data, slices[i].size)   # cannot fail: the room is there
            continue
        if response.head.data + response.head.end > start:
            parts[n].iov_base = start
            parts[n].iov_len = <size_t>(response.head.data + response.head.end - start)
            n += 1
            start = response.head.data + response.head.end
        parts[n].iov_base = <void *>data
        parts[n].iov_len = slices[i].size
        n += 1
        response.size += slices[i].size
    if response.head.data + response.head.end > start:
        parts[n].iov_base = start
        parts[n].iov_len = <size_t>(response.head.data + response.head.end - start)
        n += 1
    response.part_count = n
    return 0


cdef InferResponse render(InferRequest request, const char *message, size_t size):
    cdef InferResponse response = InferResponse.__new__(InferResponse)
    cdef tg_buffer *out = &response.head
    cdef Answer answer
    cdef OutputTensor output
    cdef Slice[MAX_TENSORS] slices
    cdef Slice data
    cdef const char *wrong = read_answer(&answer, message, size)
    cdef bint binary
    cdef int raw = 0
    cdef int binary_count = 0
    cdef int i
    if wrong != NULL:
        raise malformed(wrong)
    put(out, "{")
    if request.id:
        put(out, '"id":')
        put_string(out, request.id, <size_t>len(request.id))
        put(out, ",")
    put(out, '"model_name":')
    if answer.model.size:
        put_string(out, answer.model.data, answer.model.size)
    else:
        put_string(out, request.model, <size_t>len(request.model))
    if answer.version.size:
        put(out, ',"model_version":')
        put_string(out, answer.version.data, answer.version.size)
    put_parameters(out, answer.parameters, answer.parameter_count, -1)
    put(out, ',"outputs":[')
    for i in range(answer.output_count):
        wrong = read_output(&output, &answer.outputs[i])
        if wrong != NULL:
            raise malformed(wrong)
        if i:
            put(out, ",")
        # Triton does not say in its answer where the output is.
        if request.shares(output.name.data, output.name.size):
            pass_over(&answer, &raw)
            put_output(response, &output, NULL, False)
            continue
        resolve(response, &output, &answer, &raw, &data)
        binary = request.wants_binary(output.name.data, output.name.size)
        put_output(response, &output, &data, binary)
        if binary:
            slices[binary_count] = data
            binary_count += 1
    if raw != answer.raw_count:
        raise malformed("more raw_output_contents than outputs")
    put(out, "]}")
    response.json_length = <Py_ssize_t>tg_buffer_size(out) if binary_count else -1
    gather(response, slices, binary_count)
    return response


cdef InferResponse render_again(InferRequest request, const char *message, size_t size):
    cdef Template template = request.template
    cdef InferResponse response
    if template.binary_inputs or request.id:
        return render(request, message, size)
    if (size and size == tg_buffer_size(&template.answered)
            and memcmp(tg_buffer_head(&template.answered), message, size) == 0):
        return <InferResponse>template.rendered
    response = render(request, message, size)
    # One part is the object's own memory, whose life does not depend on the message's.
    if response.part_count == 1 and size <= KEPT_MAX and response.size <= KEPT_MAX:
        tg_buffer_clear(&template.answered)
        template.rendered = response
        if tg_buffer_append(&template.answered, message, size) < 0:
            template.rendered = None
    return response


cdef int check(const char *message, size_t size) except -1:
    """Raises UpstreamError, MemoryError."""
    cdef InferResponse response = InferResponse.__new__(InferResponse)
    cdef Answer answer
    cdef OutputTensor output
    cdef Slice data
    cdef const char *wrong = read_answer(&answer, message, size)
    cdef int raw = 0
    cdef int i
    if wrong != NULL:
        raise malformed(wrong)
    if answer.model.size:
        put_string(&response.head, answer.model.data, answer.model.size)
    if answer.version.size:
        put_string(&response.head, answer.version.data, answer.version.size)
    put_parameters(&response.head, answer.parameters, answer.parameter_count, -1)
    for i in range(answer.output_count):
        wrong = read_output(&output, &answer.outputs[i])
        if wrong != NULL:
            raise malformed(wrong)
        resolve(response, &output, &answer, &raw, &data)
        put_output(response, &output, NULL, False)
    if raw != answer.raw_count:
        raise malformed("more raw_output_contents than outputs")
    return 0


cdef bint is_sound(const char *message, size_t size) noexcept:
    try:
        check(message, size)
    except (UpstreamError, MemoryError):
        return False
    return True


cdef int store_form(const char *message, size_t size, tg_buffer *out) noexcept:
    cdef cursor c
    cdef field f
    cdef size_t before = tg_buffer_size(out)
    cdef const char *at
    cdef int more
    # Room for all of it first: the appends below neither move nor fail.
    if tg_buffer_reserve(out, size) < 0:
        return -1
    start_cursor(&c, message, size)
    while True:
        at = <const char *>c.at
        more = next_field(&c, &f)
        if more == 0:
            return 0
        if more < 0:
            out.end = out.start + before
            return -1
        if f.number != ID_FIELD:
            tg_buffer_append(out, at, <size_t>(<const char *>c.at - at))


def part_sizes(InferRequest request, bytes message):
    """Bytes of each part of what `render` gives."""
    return render(request, message, <size_t>len(message)).part_sizes()
