"""What the JSON part of an inference request says, checked once and kept in the forms that requests are built from.

Reserved parameters are handled here. `binary_data_size`, `binary_data` and `binary_data_output` concern this hop only
and are not sent on. `id`, `timeout` and `priority` are sent on but do not decide the answer. Where a tensor is in
shared memory (`shared_memory_region` and its like, registered with the model servers) is sent on in place of data.
"""

cimport cython
from cpython.long cimport PyLong_AsLongLongAndOverflow, PyLong_CheckExact
from libc.stdint cimport INT64_MAX, int64_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, strlen
from lb.net.buffer cimport (
    tg_buffer, tg_buffer_append, tg_buffer_clear, tg_buffer_free, tg_buffer_head, tg_buffer_size,
)
from lb.inference.datatypes cimport (
    DT_BYTES, DT_UNKNOWN, MAX_RANK, MAX_TENSORS, datatype_name, datatype_of, element_count,
)
from lb.inference.datatypes cimport tensor_size
from lb.inference.parameters cimport append_parameter, flag, sorted_parameters
from lb.http.grpc.protobuf cimport WIRE_BYTES, append_field, append_tag, append_varint, varint_size

from lb.inference.errors import OipError

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL

cdef enum:                            # fields of ModelInferRequest
    MODEL_NAME = 1
    MODEL_VERSION = 2
    PARAMETERS = 4
    INPUTS = 5
    OUTPUTS = 6
cdef enum:                            # of InferInputTensor; InferRequestedOutputTensor has its parameters in 2
    TENSOR_NAME = 1
    TENSOR_DATATYPE = 2
    TENSOR_SHAPE = 3
    TENSOR_PARAMETERS = 4
    OUTPUT_PARAMETERS = 2

# Changes whenever the canonical form does, so that entries of an older form are never found.
cdef bytes FORM = b"tidegate oip request 2"


cdef int frame(tg_buffer *out, const char *data, size_t size) except -1:
    """Length and bytes: no two sequences of frames are the same bytes."""
    cdef uint64_t length = size
    if tg_buffer_append(out, &length, sizeof(length)) < 0 or tg_buffer_append(out, data, size) < 0:
        raise MemoryError
    return 0


cdef int put_count(tg_buffer *out, uint64_t count) except -1:
    if tg_buffer_append(out, &count, sizeof(count)) < 0:
        raise MemoryError
    return 0


cdef int64_t natural(object value, str key, str what) except -1:
    """A non-negative int64."""
    cdef int overflow = 0
    cdef int64_t result = -1
    if PyLong_CheckExact(value):
        result = PyLong_AsLongLongAndOverflow(value, &overflow)
    if result < 0 or overflow:
        raise OipError(f"{what}: '{key}' must be a non-negative integer")
    return result


cdef str name_of(object item, str kind, dict seen):
    if not isinstance(item, dict):
        raise OipError(f"each of '{kind}s' must be an object")
    name = (<dict>item).get("name")
    if not isinstance(name, str) or not name:
        raise OipError(f"each of '{kind}s' must have a 'name'")
    if name in seen:
        raise OipError(f"{kind} '{name}' occurs twice")
    seen[name] = None
    return <str>name


cdef list tensor_list(object items, str kind):
    if not isinstance(items, list):
        raise OipError(f"'{kind}s' must be an array")
    if len(<list>items) > MAX_TENSORS:
        raise OipError(f"more than {MAX_TENSORS} {kind}s")
    return <list>items


@cython.final
@cython.no_gc
cdef class Template:
    def __dealloc__(self):
        tg_buffer_free(&self.head)
        tg_buffer_free(&self.meaning)
        tg_buffer_free(&self.row_meaning)
        tg_buffer_free(&self.packed)
        tg_buffer_free(&self.answered)
        free(self.inputs)
        free(self.order)
        free(self.outputs)

    cdef int read_parameters(self, object parameters) except -1:
        cdef str what = "request"
        cdef uint64_t semantic = 0
        cdef size_t count_at
        cdef size_t before
        count_at = self.meaning.end
        put_count(&self.meaning, 0)
        for key, value in sorted_parameters(parameters, what):
            if key == "binary_data_output":
                self.binary_default = flag(value, key, what)
                continue
            before = self.head.end
            append_parameter(&self.head, PARAMETERS, key, value, what)
            if key == "timeout":
                self.timeout_us = <uint64_t>natural(value, key, what)
            elif key == "priority":
                if not PyLong_CheckExact(value) or value < 0:
                    raise OipError(f"{what}: '{key}' must be a non-negative integer")
            else:
                if key == "sequence_id":
                    self.read_sequence(value)
                elif key == "sequence_start":
                    self.sequence_start = flag(value, key, what)
                    self.cacheable &= not self.sequence_start
                elif key == "sequence_end":
                    self.sequence_end = flag(value, key, what)
                    self.cacheable &= not self.sequence_end
                elif key == "triton_enable_empty_final_response":
                    self.cacheable = False
                semantic += 1
                frame(&self.meaning, self.head.data + before, self.head.end - before)
        memcpy(self.meaning.data + count_at, &semantic, sizeof(semantic))
        return 0

    cdef int read_inputs(self, object items, tg_buffer *scratch) except -1:
        cdef list inputs = tensor_list(items, "input")
        cdef dict seen = {}
        cdef list described = []
        cdef int i
        self.input_count = <int>len(inputs)
        self.inputs = <InputSpec *>calloc(<size_t>self.input_count + 1, sizeof(InputSpec))
        self.order = <int *>calloc(<size_t>self.input_count + 1, sizeof(int))
        if self.inputs == NULL or self.order == NULL:
            raise MemoryError
        for i in range(self.input_count):
            name = name_of(inputs[i], "input", seen)
            tg_buffer_clear(scratch)
            self.read_input(i, <dict>inputs[i], name, f"input '{name}'", scratch)
            if append_field(&self.head, INPUTS, tg_buffer_head(scratch), tg_buffer_size(scratch)) < 0:
                raise MemoryError
            described.append((name, i, tg_buffer_head(scratch)[:tg_buffer_size(scratch)]))
        described.sort()
        self.inputs_at = self.meaning.end
        put_count(&self.meaning, <uint64_t>self.input_count)
        for i in range(self.input_count):
            name, index, text = described[i]
            self.order[i] = index
            frame(&self.meaning, <bytes>text, <size_t>len(<bytes>text))
        return 0

    cdef int read_input(self, int index, dict item, str name, str what, tg_buffer *scratch) except -1:
        cdef InputSpec *spec = &self.inputs[index]
        cdef int64_t[MAX_RANK] shape
        cdef int64_t expected
        cdef int rank, i
        cdef size_t shape_size = 0
        cdef Py_ssize_t size
        cdef const char *text
        cdef object dims = item.get("shape")
        cdef object kind = item.get("datatype")
        cdef object binary_size = None
        if not isinstance(kind, str):
            raise OipError(f"{what}: 'datatype' must be a string")
        text = PyUnicode_AsUTF8AndSize(kind, &size)
        spec.datatype = datatype_of(text, <size_t>size)
        if spec.datatype == DT_UNKNOWN:
            raise OipError(f"{what}: unknown datatype '{kind[:40]}'")
        if not isinstance(dims, list) or len(<list>dims) > MAX_RANK:
            raise OipError(f"{what}: 'shape' must be an array of at most {MAX_RANK} dimensions")
        rank = <int>len(<list>dims)
        for i in range(rank):
            shape[i] = natural((<list>dims)[i], "shape", what)
            shape_size += varint_size(<uint64_t>shape[i])
        if index == 0:
            self.batch = max(shape[0], <int64_t>1) if rank else 1
            self.rows = shape[0] if rank else -1
        elif rank == 0 or shape[0] != self.rows:
            self.rows = -1
        spec.value = -1
        spec.count = element_count(shape, rank)
        expected = -1 if spec.count < 0 else 0 if spec.datatype == DT_BYTES else tensor_size(spec.datatype, spec.count)
        if expected < 0:
            raise OipError(f"{what}: the shape is too large")

        text = PyUnicode_AsUTF8AndSize(name, &size)
        if append_field(scratch, TENSOR_NAME, text, <size_t>size) < 0:
            raise MemoryError
        text = datatype_name(spec.datatype)
        if append_field(scratch, TENSOR_DATATYPE, text, strlen(text)) < 0:
            raise MemoryError
        if rank and (append_tag(scratch, TENSOR_SHAPE, WIRE_BYTES) < 0 or append_varint(scratch, shape_size) < 0):
            raise MemoryError
        for i in range(rank):
            if append_varint(scratch, <uint64_t>shape[i]) < 0:
                raise MemoryError
        for key, value in sorted_parameters(item.get("parameters"), what):
            if key == "binary_data_size":
                binary_size = value
            else:
                if key == "shared_memory_region":
                    spec.shared = True
                append_parameter(scratch, TENSOR_PARAMETERS, key, value, what)

        if spec.shared:
            if "data" in item or binary_size is not None:
                raise OipError(f"{what}: data in shared memory and data in the request exclude each other")
            self.cacheable = False                # what the region holds may change
            return 0
        if binary_size is not None:
            if "data" in item:
                raise OipError(f"{what}: 'data' and 'binary_data_size' exclude each other")
            spec.binary = True
            spec.size = <size_t>natural(binary_size, "binary_data_size", what)
            if spec.datatype != DT_BYTES and spec.size != <size_t>expected:
                raise OipError(f"{what}: binary_data_size is {spec.size} where shape and datatype take {expected}")
            if spec.size > <size_t>INT64_MAX - self.binary_size:
                raise OipError(f"{what}: binary_data_size is too large")
            self.binary_size += spec.size
            self.binary_inputs += 1
            return 0
        if "data" not in item:
            raise OipError(f"{what}: neither 'data' nor 'binary_data_size'")
        spec.value = item["data"]
        return 0

    cdef int read_outputs(self, object items, tg_buffer *scratch) except -1:
        cdef list outputs = [] if items is None else tensor_list(items, "output")
        cdef dict seen = {}
        cdef OutputSpec *spec
        cdef bytes text
        cdef int i
        cdef str name
        self.output_count = <int>len(outputs)
        self.outputs = <OutputSpec *>calloc(<size_t>self.output_count + 1, sizeof(OutputSpec))
        if self.outputs == NULL:
            raise MemoryError
        self.names = []
        put_count(&self.meaning, <uint64_t>self.output_count)
        for i in range(self.output_count):
            name = name_of(outputs[i], "output", seen)
            what = f"output '{name}'"
            text = name.encode()
            self.names.append(text)
            spec = &self.outputs[i]
            spec.name.data = text
            spec.name.size = <size_t>len(text)
            spec.binary = -1
            tg_buffer_clear(scratch)
            if append_field(scratch, TENSOR_NAME, text, <size_t>len(text)) < 0:
                raise MemoryError
            for key, value in sorted_parameters((<dict>outputs[i]).get("parameters"), what):
                if key == "binary_data":
                    spec.binary = flag(value, key, what)
                else:
                    if key == "shared_memory_region":
                        spec.shared = True
                        self.cacheable = False    # an answer from the cache would write nothing there
                    append_parameter(scratch, OUTPUT_PARAMETERS, key, value, what)
            if append_field(&self.head, OUTPUTS, tg_buffer_head(scratch), tg_buffer_size(scratch)) < 0:
                raise MemoryError
            frame(&self.meaning, tg_buffer_head(scratch), tg_buffer_size(scratch))
        return 0

    def read_sequence(self, value):
        """`sequence_id`: an unsigned number or a string; 0 and "" are none. A string has a quote in front: it is
        another id than the number of its digits."""
        if isinstance(value, bool) or not isinstance(value, (int, str)) or (isinstance(value, int) and value < 0):
            raise OipError("request: parameter 'sequence_id' must be a non-negative integer or a string")
        if value:
            self.sequence = (f'"{value}' if isinstance(value, str) else str(value)).encode()
            self.cacheable = False


cdef Template build_template(bytes model, bytes version, object document):
    cdef Template template = Template.__new__(Template)
    cdef tg_buffer scratch = tg_buffer(NULL, 0, 0, 0)
    if not isinstance(document, dict):
        raise OipError("the request must be a JSON object")
    id_ = (<dict>document).get("id", "")
    if not isinstance(id_, str):
        raise OipError("'id' must be a string")
    if "inputs" not in <dict>document:
        raise OipError("the request has no 'inputs'")
    template.id = (<str>id_).encode()
    template.model = model
    template.version = version
    template.sequence = b""
    template.cacheable = True
    template.rows = -1
    if (append_field(&template.head, MODEL_NAME, model, <size_t>len(model)) < 0
            or (version and append_field(&template.head, MODEL_VERSION, version, <size_t>len(version)) < 0)):
        raise MemoryError
    template.id_at = template.head.end
    frame(&template.meaning, FORM, <size_t>len(FORM))
    frame(&template.meaning, model, <size_t>len(model))
    frame(&template.meaning, version, <size_t>len(version))
    try:
        template.read_parameters((<dict>document).get("parameters"))
        template.read_inputs((<dict>document)["inputs"], &scratch)
        template.read_outputs((<dict>document).get("outputs"), &scratch)
    finally:
        tg_buffer_free(&scratch)
    return template
