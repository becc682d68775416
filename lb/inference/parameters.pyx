"""Parameters (`InferParameter` maps) of requests, from JSON."""

from cpython.float cimport PyFloat_AS_DOUBLE
from cpython.long cimport PyLong_AsLongLongAndOverflow, PyLong_AsUnsignedLongLong
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy
from lb.net.buffer cimport tg_buffer, tg_buffer_append
from lb.http.grpc.protobuf cimport (
    WIRE_BYTES, WIRE_FIXED64, WIRE_VARINT, append_field, append_tag, append_varint, put_varint, varint_size,
)

from lb.inference.errors import OipError

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL

cdef enum:                            # InferParameter.parameter_choice
    BOOL_PARAM = 1
    INT64_PARAM = 2
    STRING_PARAM = 3
    DOUBLE_PARAM = 4
    UINT64_PARAM = 5


cdef int append_parameter(tg_buffer *out, int number, str key, object value, str what) except -1:
    cdef char[16] scalar              # the value's message, unless it is a string
    cdef char *end = scalar + 1
    cdef int64_t integer
    cdef double real
    cdef int overflow = 0
    cdef Py_ssize_t key_size
    cdef Py_ssize_t text_size = 0
    cdef const char *key_text = PyUnicode_AsUTF8AndSize(key, &key_size)
    cdef const char *text = NULL
    cdef size_t size
    if isinstance(value, bool):
        scalar[0] = BOOL_PARAM << 3 | WIRE_VARINT
        end = put_varint(end, value is True)
    elif isinstance(value, int):
        integer = PyLong_AsLongLongAndOverflow(value, &overflow)
        scalar[0] = (UINT64_PARAM if overflow else INT64_PARAM) << 3 | WIRE_VARINT
        end = put_varint(end, PyLong_AsUnsignedLongLong(value) if overflow else <uint64_t>integer)
    elif isinstance(value, float):
        real = PyFloat_AS_DOUBLE(value)
        scalar[0] = DOUBLE_PARAM << 3 | WIRE_FIXED64
        memcpy(end, &real, 8)
        end += 8
    elif isinstance(value, str):
        text = PyUnicode_AsUTF8AndSize(value, &text_size)
    else:
        raise OipError(f"{what}: parameter '{key}' must be a string, number or boolean")
    size = 1 + varint_size(<uint64_t>text_size) + <size_t>text_size if text != NULL else <size_t>(end - scalar)
    if (append_tag(out, <uint32_t>number, WIRE_BYTES) < 0
            or append_varint(out, 2 + varint_size(<uint64_t>key_size) + <size_t>key_size + varint_size(size) + size) < 0
            or append_field(out, 1, key_text, <size_t>key_size) < 0
            or append_tag(out, 2, WIRE_BYTES) < 0 or append_varint(out, size) < 0
            or (append_field(out, STRING_PARAM, text, <size_t>text_size) if text != NULL
                else tg_buffer_append(out, scalar, size)) < 0):
        raise MemoryError
    return 0


cdef list sorted_parameters(object parameters, str what):
    if parameters is None:
        return []
    if not isinstance(parameters, dict):
        raise OipError(f"{what}: 'parameters' must be an object")
    return sorted((<dict>parameters).items())


cdef bint flag(object value, str key, str what) except? -1:
    if value is True:
        return True
    if value is False:
        return False
    raise OipError(f"{what}: parameter '{key}' must be a boolean")
