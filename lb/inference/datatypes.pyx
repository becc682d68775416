"""Datatypes and shapes of the Open Inference Protocol."""

from libc.stdint cimport INT64_MAX, int64_t, uint32_t
from libc.string cimport memcmp, memcpy, strlen


cdef struct Kind:
    const char *name
    size_t size


cdef Kind[15] KINDS
KINDS[DT_UNKNOWN] = Kind("", 0)
KINDS[DT_BOOL] = Kind("BOOL", 1)
KINDS[DT_UINT8] = Kind("UINT8", 1)
KINDS[DT_UINT16] = Kind("UINT16", 2)
KINDS[DT_UINT32] = Kind("UINT32", 4)
KINDS[DT_UINT64] = Kind("UINT64", 8)
KINDS[DT_INT8] = Kind("INT8", 1)
KINDS[DT_INT16] = Kind("INT16", 2)
KINDS[DT_INT32] = Kind("INT32", 4)
KINDS[DT_INT64] = Kind("INT64", 8)
KINDS[DT_FP16] = Kind("FP16", 2)
KINDS[DT_BF16] = Kind("BF16", 2)
KINDS[DT_FP32] = Kind("FP32", 4)
KINDS[DT_FP64] = Kind("FP64", 8)
KINDS[DT_BYTES] = Kind("BYTES", 0)


cdef int datatype_of(const char *name, size_t n) noexcept nogil:
    cdef int dt
    if n < 4 or n > 6:
        return DT_UNKNOWN
    for dt in range(DT_BOOL, DT_BYTES + 1):
        if strlen(KINDS[dt].name) == n and memcmp(KINDS[dt].name, name, n) == 0:
            return dt
    return DT_UNKNOWN


cdef const char *datatype_name(int dt) noexcept nogil:
    return KINDS[dt].name


cdef size_t element_size(int dt) noexcept nogil:
    return KINDS[dt].size


cdef int64_t element_count(const int64_t *shape, int rank) noexcept nogil:
    cdef int64_t product = 1
    cdef bint empty = False
    cdef int i
    for i in range(rank):
        if shape[i] < 0:
            return -1
        if shape[i] == 0:
            empty = True
        elif product > INT64_MAX // shape[i]:
            return -1
        else:
            product *= shape[i]
    return 0 if empty else product


cdef int64_t tensor_size(int dt, int64_t count) noexcept nogil:
    cdef int64_t size = <int64_t>KINDS[dt].size
    return -1 if count > INT64_MAX // size else count * size


cdef int look_at_framing(tg_framing *framing, int64_t most) noexcept nogil:
    cdef const char *at = framing.at
    cdef size_t left = <size_t>(framing.end - at)
    cdef int64_t elements = min(most, framing.left)
    cdef uint32_t length
    for _ in range(elements):
        if left < 4:
            return FRAMING_WRONG
        memcpy(&length, at, 4)
        if length > left - 4:
            return FRAMING_WRONG
        at += 4 + <size_t>length
        left -= 4 + <size_t>length
    framing.at = at
    framing.left -= elements
    if framing.left:
        return FRAMING_MORE
    return FRAMING_WRONG if left else FRAMING_DONE


cdef bint bytes_framing_ok(const char *data, size_t n, int64_t count) noexcept nogil:
    cdef tg_framing framing = tg_framing(data, data + n, count)
    return look_at_framing(&framing, count) == FRAMING_DONE
