"""Two answers to one inference, compared: see compare.pxd."""

from libc.math cimport INFINITY, fabs, isfinite, isnan
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy
from lb.http.grpc.protobuf cimport span
from lb.inference.answer cimport Answer, OutputTensor, Slice, find_data, read_answer, read_output
from lb.inference.datatypes cimport (
    DT_BF16, DT_BYTES, DT_FP16, DT_FP32, DT_FP64, DT_INT8, DT_INT16, DT_INT32, DT_INT64, DT_UINT16, DT_UINT32,
    DT_UINT64, element_size,
)
from lb.inference.floats cimport half_to_float
from lb.net.buffer cimport tg_buffer, tg_buffer_free


cdef struct Output:                   # of an answer that is read
    span name
    Slice data
    bint met                          # the other answer has it, too

cdef struct Side:
    Answer answer
    Output *outputs
    tg_buffer packed                  # typed contents as raw ones


cdef int compare_answers(const char *first, size_t first_size, const char *second, size_t second_size,
                         const tg_tolerance *tolerance, tg_comparison *found) noexcept nogil:
    cdef Side *sides = <Side *>malloc(2 * sizeof(Side))
    cdef int result, i
    if sides == NULL:
        return COMPARED_NO_MEMORY
    for i in range(2):
        sides[i].outputs = NULL
        sides[i].packed = tg_buffer(NULL, 0, 0, 0)
    found.output_count = 0
    result = read_side(&sides[0], first, first_size)
    if result == 0:
        result = read_side(&sides[1], second, second_size)
    if result == 0:
        found.model = sides[0].answer.model
        result = compare_sides(&sides[0], &sides[1], tolerance, found)
    for i in range(2):
        free(sides[i].outputs)
        tg_buffer_free(&sides[i].packed)
    free(sides)
    return result


cdef int read_side(Side *side, const char *message, size_t size) noexcept nogil:
    """Finds the outputs of a message. 0, or COMPARED_MALFORMED or COMPARED_NO_MEMORY."""
    cdef OutputTensor output
    cdef const char *wrong
    cdef int i, raw = 0, result
    if read_answer(&side.answer, message, size) != NULL:
        return COMPARED_MALFORMED
    if side.answer.output_count == 0:
        return 0
    side.outputs = <Output *>malloc(side.answer.output_count * sizeof(Output))
    if side.outputs == NULL:
        return COMPARED_NO_MEMORY
    for i in range(side.answer.output_count):
        if read_output(&output, &side.answer.outputs[i]) != NULL:
            return COMPARED_MALFORMED
        result = find_data(&output, &side.answer, &raw, &side.packed, &side.outputs[i].data, &wrong)
        if result < 0:
            return COMPARED_MALFORMED if result == -1 else COMPARED_NO_MEMORY
        side.outputs[i].name = output.name
        side.outputs[i].met = False
    return 0


cdef bint is_named(const Output *output, const span *name) noexcept nogil:
    return (output.name.size == name.size and not output.met
            and (name.size == 0 or memcmp(output.name.data, name.data, name.size) == 0))


cdef int compare_sides(Side *first, Side *second, const tg_tolerance *tolerance, tg_comparison *found) noexcept nogil:
    cdef tg_output result
    cdef bint different = False
    cdef int i, j, other
    for i in range(first.answer.output_count):
        other = -1
        # Most often they stand in the same order.
        if i < second.answer.output_count and is_named(&second.outputs[i], &first.outputs[i].name):
            other = i
        else:
            for j in range(second.answer.output_count):
                if is_named(&second.outputs[j], &first.outputs[i].name):
                    other = j
                    break
        begin(&result, &first.outputs[i].name)
        if other < 0:
            result.what = OUTPUT_MISSING
        else:
            second.outputs[other].met = True
            compare_output(first, i, second, other, tolerance, &result)
        different = keep(found, &result) or different
    for j in range(second.answer.output_count):
        if not second.outputs[j].met:
            begin(&result, &second.outputs[j].name)
            result.what = OUTPUT_ADDED
            different = keep(found, &result) or different
    return COMPARED_DIFFERENT if different else COMPARED_SAME


cdef void begin(tg_output *result, const span *name) noexcept nogil:
    result.name = name[0]
    result.what = OUTPUT_SAME
    result.count = result.different = 0
    result.absolute = result.relative = result.first = result.second = 0.0
    result.at = -1


cdef bint keep(tg_comparison *found, const tg_output *result) noexcept nogil:
    """Describes an output where there is room. Whether it differs."""
    if found.output_count < COMPARED_MOST:
        found.outputs[found.output_count] = result[0]
        found.output_count += 1
    return result.what != OUTPUT_SAME


cdef const char *data_of(const Side *side, int i) noexcept nogil:
    cdef const Slice *data = &side.outputs[i].data
    return data.data if data.data != NULL else side.packed.data + data.at


cdef void compare_output(const Side *first, int i, const Side *second, int j, const tg_tolerance *tolerance,
                         tg_output *result) noexcept nogil:
    cdef OutputTensor a, b
    cdef size_t size = first.outputs[i].data.size
    cdef bint same
    # Both have been read before.
    read_output(&a, &first.answer.outputs[i])
    read_output(&b, &second.answer.outputs[j])
    result.count = a.count
    if a.datatype != b.datatype:
        result.what = OUTPUT_DATATYPE
    elif a.rank != b.rank or memcmp(a.shape, b.shape, a.rank * sizeof(int64_t)):
        result.what = OUTPUT_SHAPE
    else:
        same = size == second.outputs[j].data.size and (
            size == 0 or memcmp(data_of(first, i), data_of(second, j), size) == 0)
        if same and (tolerance.nan_equal or not is_floating(a.datatype)):
            return
        if a.datatype == DT_BYTES:
            compare_bytes(data_of(first, i), data_of(second, j), a.count, result)
        else:
            compare_numbers(a.datatype, data_of(first, i), data_of(second, j), a.count, tolerance, result)
        if result.different:
            result.what = OUTPUT_VALUES


cdef bint is_floating(int dt) noexcept nogil:
    return dt == DT_FP16 or dt == DT_BF16 or dt == DT_FP32 or dt == DT_FP64


cdef void compare_bytes(const char *a, const char *b, int64_t count, tg_output *result) noexcept nogil:
    """Elements of BYTES, whose framing is right."""
    cdef uint32_t n, m
    cdef int64_t k
    for k in range(count):
        memcpy(&n, a, 4)
        memcpy(&m, b, 4)
        if n != m or memcmp(a + 4, b + 4, n):
            if result.at < 0:
                result.at = k
            result.different += 1
        a += 4 + <size_t>n
        b += 4 + <size_t>m


cdef double number(int dt, const char *at) noexcept nogil:
    """An element as a double; integers beyond 2^53 are rounded."""
    cdef float single
    cdef double real
    cdef uint16_t half
    cdef uint32_t bits
    cdef int64_t signed
    cdef uint64_t unsigned
    if dt == DT_FP32:
        memcpy(&single, at, 4)
        return single
    if dt == DT_FP64:
        memcpy(&real, at, 8)
        return real
    if dt == DT_FP16 or dt == DT_BF16:
        memcpy(&half, at, 2)
        if dt == DT_FP16:
            return half_to_float(half)
        bits = <uint32_t>half << 16
        memcpy(&single, &bits, 4)
        return single
    if dt == DT_INT8:
        return (<const int8_t *>at)[0]
    if dt == DT_INT16:
        memcpy(&half, at, 2)
        return <int16_t>half
    if dt == DT_INT32:
        memcpy(&bits, at, 4)
        return <int32_t>bits
    if dt == DT_INT64:
        memcpy(&signed, at, 8)
        return <double>signed
    if dt == DT_UINT16:
        memcpy(&half, at, 2)
        return half
    if dt == DT_UINT32:
        memcpy(&bits, at, 4)
        return bits
    if dt == DT_UINT64:
        memcpy(&unsigned, at, 8)
        return <double>unsigned
    return (<const uint8_t *>at)[0]                   # UINT8 and BOOL


cdef void compare_numbers(int dt, const char *a, const char *b, int64_t count, const tg_tolerance *tolerance,
                          tg_output *result) noexcept nogil:
    cdef size_t size = element_size(dt)
    cdef bint floating = is_floating(dt)
    cdef double x, y, absolute, relative
    cdef int64_t k
    for k in range(count):
        if memcmp(a, b, size) == 0 and not floating:
            a += size
            b += size
            continue
        x, y = number(dt, a), number(dt, b)
        if x == y and floating:                       # zeros of both signs and infinities, too
            absolute = relative = 0.0
        elif isnan(x) and isnan(y) and tolerance.nan_equal:
            absolute = relative = 0.0
        elif isfinite(x) and isfinite(y):
            absolute = fabs(y - x)
            relative = absolute / fabs(x) if x != 0.0 else INFINITY
        else:
            absolute = relative = INFINITY
        result.absolute = max(result.absolute, absolute)
        result.relative = max(result.relative, relative)
        if (not floating or absolute == INFINITY
                or absolute > tolerance.absolute + tolerance.relative * fabs(x)):
            if result.at < 0:
                result.at, result.first, result.second = k, x, y
            result.different += 1
        a += size
        b += size
