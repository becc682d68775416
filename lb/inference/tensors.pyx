"""Tensor data of JSON requests, packed into the protocol's raw form."""

from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_CheckExact
from cpython.list cimport PyList_CheckExact, PyList_GET_ITEM, PyList_GET_SIZE
from cpython.long cimport PyLong_AsDouble, PyLong_AsLongLongAndOverflow, PyLong_AsUnsignedLongLong, PyLong_CheckExact
from cpython.unicode cimport PyUnicode_CheckExact
from libc.math cimport INFINITY, NAN, isinf
from libc.stdint cimport INT8_MAX, INT8_MIN, INT16_MAX, INT16_MIN, INT32_MAX, INT32_MIN, INT64_MAX, INT64_MIN
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t
from libc.stdint cimport UINT8_MAX, UINT16_MAX, UINT32_MAX, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy
from lb.net.buffer cimport tg_buffer, tg_buffer_reserve, tg_buffer_tail
from lb.inference.datatypes cimport (DT_BOOL, DT_BYTES, DT_FP16, DT_FP32, DT_FP64, DT_INT8, DT_INT16,
                                     DT_INT32, DT_INT64, DT_UINT8, DT_UINT16, DT_UINT32, MAX_RANK,
                                     datatype_name, element_size)
from lb.inference.floats cimport bfloat_from_double, half_from_double

from lb.inference.errors import OipError

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL


cdef struct Nesting:
    int depth                         # of the leaves; 0 = not seen yet
    int64_t[MAX_RANK] lengths         # of the lists at each depth, from 0; -1 = not seen yet
    int64_t left                      # elements still expected


cdef object wrong(str what, int dt, object item, str expected):
    # Never the repr of a container: it may be as large and as deep as the request.
    if isinstance(item, (list, dict)):
        text = "an array" if isinstance(item, list) else "an object"
    else:
        text = repr(item[:40] if isinstance(item, str) else item)
    return OipError(f"{what}: {text} is not {expected} of datatype {datatype_name(dt).decode()}")


cdef int integer(object item, int dt, str what, int64_t low, int64_t high, int64_t *value) except -1:
    cdef int overflow = 0
    if not PyLong_CheckExact(item):
        raise wrong(what, dt, item, "an integer")
    value[0] = PyLong_AsLongLongAndOverflow(item, &overflow)
    if overflow or value[0] < low or value[0] > high:
        raise OipError(f"{what}: {item} is out of the range of datatype {datatype_name(dt).decode()}")
    return 0


cdef double real(object item, int dt, str what) except? -1:
    if PyFloat_CheckExact(item):
        return PyFloat_AS_DOUBLE(item)
    if PyLong_CheckExact(item):
        return PyLong_AsDouble(item)
    # What JSON has no number for is spelled as in answers.
    if item == "NaN":
        return NAN
    if item == "Infinity":
        return INFINITY
    if item == "-Infinity":
        return -INFINITY
    raise wrong(what, dt, item, "a number")


cdef int pack_integer(object item, int dt, char *at, str what) except -1:
    cdef int64_t value = 0
    cdef uint64_t unsigned
    if dt == DT_INT64:
        integer(item, dt, what, INT64_MIN, INT64_MAX, <int64_t *>at)
    elif dt == DT_INT32:
        integer(item, dt, what, INT32_MIN, INT32_MAX, &value)
        (<int32_t *>at)[0] = <int32_t>value
    elif dt == DT_INT16:
        integer(item, dt, what, INT16_MIN, INT16_MAX, &value)
        (<int16_t *>at)[0] = <int16_t>value
    elif dt == DT_INT8:
        integer(item, dt, what, INT8_MIN, INT8_MAX, &value)
        (<int8_t *>at)[0] = <int8_t>value
    elif dt == DT_UINT8:
        integer(item, dt, what, 0, UINT8_MAX, &value)
        (<uint8_t *>at)[0] = <uint8_t>value
    elif dt == DT_UINT16:
        integer(item, dt, what, 0, UINT16_MAX, &value)
        (<uint16_t *>at)[0] = <uint16_t>value
    elif dt == DT_UINT32:
        integer(item, dt, what, 0, UINT32_MAX, &value)
        (<uint32_t *>at)[0] = <uint32_t>value
    else:
        if not PyLong_CheckExact(item):
            raise wrong(what, dt, item, "an integer")
        try:
            unsigned = PyLong_AsUnsignedLongLong(item)
        except OverflowError:
            raise OipError(f"{what}: {item} is out of the range of datatype UINT64") from None
        memcpy(at, &unsigned, 8)
    return 0


cdef int pack_real(object item, int dt, char *at, str what) except -1:
    cdef double value = real(item, dt, what)
    cdef float single
    cdef bint fits = True
    if dt == DT_FP64:
        memcpy(at, &value, 8)
    elif dt == DT_FP32:
        single = <float>value
        fits = not isinf(single) or isinf(value)
        memcpy(at, &single, 4)
    elif dt == DT_FP16:
        fits = half_from_double(value, <uint16_t *>at)
    else:
        fits = bfloat_from_double(value, <uint16_t *>at)
    if not fits:
        raise OipError(f"{what}: {item} is out of the range of datatype {datatype_name(dt).decode()}")
    return 0


cdef int pack_strings(list items, tg_buffer *out, str what) except -1:
    cdef Py_ssize_t size
    cdef const char *text
    cdef uint32_t length
    for item in items:
        if not PyUnicode_CheckExact(item):
            raise wrong(what, DT_BYTES, item, "a string")
        text = PyUnicode_AsUTF8AndSize(item, &size)
        if size > <Py_ssize_t>UINT32_MAX:
            raise OipError(f"{what}: a string is longer than 4 GiB")
        if tg_buffer_reserve(out, 4 + <size_t>size) < 0:
            raise MemoryError
        length = <uint32_t>size
        memcpy(tg_buffer_tail(out), &length, 4)
        memcpy(tg_buffer_tail(out) + 4, text, <size_t>size)
        out.end += 4 + <size_t>size
    return 0


cdef int pack_leaf(list items, int dt, tg_buffer *out, str what) except -1:
    cdef Py_ssize_t n = PyList_GET_SIZE(items)
    cdef size_t size = element_size(dt)
    cdef Py_ssize_t i
    cdef char *at
    if dt == DT_BYTES:
        return pack_strings(items, out, what)
    if tg_buffer_reserve(out, <size_t>n * size) < 0:
        raise MemoryError
    at = tg_buffer_tail(out)
    for i in range(n):
        item = <object>PyList_GET_ITEM(items, i)
        if dt >= DT_FP16:
            pack_real(item, dt, at, what)
        elif dt != DT_BOOL:
            pack_integer(item, dt, at, what)
        elif item is True or (PyLong_CheckExact(item) and item == 1):
            at[0] = 1
        elif item is False or (PyLong_CheckExact(item) and item == 0):
            at[0] = 0
        else:
            raise wrong(what, dt, item, "a value")
        at += size
    out.end += <size_t>n * size
    return 0


cdef int flatten(list items, int depth, Nesting *nesting, int dt, tg_buffer *out, str what) except -1:
    cdef Py_ssize_t n = PyList_GET_SIZE(items)
    cdef Py_ssize_t i
    if nesting.lengths[depth] < 0:
        nesting.lengths[depth] = n
    elif nesting.lengths[depth] != n:
        raise OipError(f"{what}: nested arrays of different lengths")
    if n and PyList_CheckExact(<object>PyList_GET_ITEM(items, 0)):
        if depth == MAX_RANK - 1 or nesting.depth == depth + 1:
            raise OipError(f"{what}: data is nested too deeply")
        for i in range(n):
            item = <object>PyList_GET_ITEM(items, i)
            if not PyList_CheckExact(item):
                raise OipError(f"{what}: arrays and values side by side")
            flatten(<list>item, depth + 1, nesting, dt, out, what)
        return 0
    if nesting.depth == 0:
        nesting.depth = depth + 1
    elif nesting.depth != depth + 1:
        raise OipError(f"{what}: values at different depths")
    nesting.left -= n
    if nesting.left < 0:
        raise OipError(f"{what}: more elements in data than the shape has")
    return pack_leaf(items, dt, out, what)


cdef bint fits_shape(const Nesting *nesting, const int64_t *shape, int rank) noexcept:
    """Whether the nesting is the shape, where dimensions of 1 may be missing on either side."""
    cdef int i = 0
    cdef int j = 0
    while True:
        while i < nesting.depth and nesting.lengths[i] == 1:
            i += 1
        while j < rank and shape[j] == 1:
            j += 1
        if i == nesting.depth or j == rank:
            return i == nesting.depth and j == rank
        if nesting.lengths[i] != shape[j]:
            return False
        i += 1
        j += 1


cdef int pack_json(object data, int dt, int64_t count, const int64_t *shape, int rank, tg_buffer *out,
                   str what) except -1:
    cdef Nesting nesting
    cdef int i
    if not PyList_CheckExact(data):
        raise OipError(f"{what}: 'data' must be an array")
    for i in range(MAX_RANK):
        nesting.lengths[i] = -1
    nesting.depth = 0
    nesting.left = count
    flatten(<list>data, 0, &nesting, dt, out, what)
    if nesting.left:
        raise OipError(f"{what}: {count - nesting.left} elements in data where the shape has {count}")
    if count and nesting.depth > 1 and not fits_shape(&nesting, shape, rank):
        raise OipError(f"{what}: the nesting of data is not that of the shape")
    return 0
