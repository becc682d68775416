"""Writing JSON: strings, numbers and tensor data (RFC 8259)."""

from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy
from lb.net.buffer cimport tg_buffer, tg_buffer_append, tg_buffer_reserve, tg_buffer_tail
from lb.inference.datatypes cimport (DT_BF16, DT_BOOL, DT_BYTES, DT_FP16, DT_FP32, DT_FP64, DT_INT8, DT_INT16,
                                     DT_INT32, DT_INT64, DT_UINT8, DT_UINT32, element_size)
from lb.inference.floats cimport FLOAT_TEXT_MAX, bfloat_to_float, half_to_float, write_double, write_float

cdef enum:
    BATCH = 64                        # elements that room is made for at once


cdef char *write_uint(char *at, uint64_t value) noexcept nogil:
    cdef char[20] text
    cdef int n = 0
    while True:
        n += 1
        text[20 - n] = <char>(48 + value % 10)
        value //= 10
        if value == 0:
            break
    memcpy(at, text + 20 - n, <size_t>n)
    return at + n


cdef char *write_int(char *at, int64_t value) noexcept nogil:
    if value < 0:
        at[0] = 45
        return write_uint(at + 1, 0 - <uint64_t>value)
    return write_uint(at, <uint64_t>value)


cdef int append_uint(tg_buffer *out, uint64_t value) noexcept nogil:
    if tg_buffer_reserve(out, 20) < 0:
        return TEXT_MEMORY
    out.end = <size_t>(write_uint(tg_buffer_tail(out), value) - out.data)
    return TEXT_OK


cdef int append_int(tg_buffer *out, int64_t value) noexcept nogil:
    if tg_buffer_reserve(out, 21) < 0:
        return TEXT_MEMORY
    out.end = <size_t>(write_int(tg_buffer_tail(out), value) - out.data)
    return TEXT_OK


cdef int append_double(tg_buffer *out, double value) noexcept nogil:
    if tg_buffer_reserve(out, FLOAT_TEXT_MAX) < 0:
        return TEXT_MEMORY
    out.end = <size_t>(write_double(tg_buffer_tail(out), value) - out.data)
    return TEXT_OK


cdef size_t utf8_sequence(const unsigned char *p, size_t n) noexcept nogil:
    """Bytes of the valid multi-byte sequence at p, 0 when there is none (Unicode standard, table 3-7)."""
    cdef unsigned char low = 0x80
    cdef unsigned char high = 0xBF
    cdef size_t size, i
    if p[0] < 0xC2 or p[0] > 0xF4:
        return 0
    size = 2 if p[0] < 0xE0 else 3 if p[0] < 0xF0 else 4
    if size > n:
        return 0
    if p[0] == 0xE0:
        low = 0xA0
    elif p[0] == 0xED:
        high = 0x9F
    elif p[0] == 0xF0:
        low = 0x90
    elif p[0] == 0xF4:
        high = 0x8F
    if p[1] < low or p[1] > high:
        return 0
    for i in range(2, size):
        if p[i] & 0xC0 != 0x80:
            return 0
    return size


cdef bint valid_utf8(const char *data, size_t n) noexcept nogil:
    cdef const unsigned char *p = <const unsigned char *>data
    cdef size_t size
    while n:
        size = 1 if p[0] < 0x80 else utf8_sequence(p, n)
        if size == 0:
            return False
        p += size
        n -= size
    return True


cdef int append_escape(tg_buffer *out, unsigned char c) noexcept nogil:
    cdef char[6] text
    memcpy(text, b"\\u0000", 6)
    if c == 34 or c == 92:
        text[1] = <char>c
        return tg_buffer_append(out, text, 2)
    text[4] = 48 + (c >> 4)
    c &= 15
    text[5] = <char>(48 + c if c < 10 else 87 + c)
    return tg_buffer_append(out, text, 6)


cdef int append_string(tg_buffer *out, const char *data, size_t n) noexcept nogil:
    cdef const unsigned char *p = <const unsigned char *>data
    cdef const unsigned char *start = p
    cdef const unsigned char *end = p + n
    cdef size_t size
    if tg_buffer_reserve(out, n + 2) < 0 or tg_buffer_append(out, b'"', 1) < 0:
        return TEXT_MEMORY
    while p < end:
        if p[0] >= 0x80:
            size = utf8_sequence(p, <size_t>(end - p))
            if size == 0:
                return TEXT_NOT_UTF8
            p += size
        elif p[0] < 32 or p[0] == 34 or p[0] == 92:
            if tg_buffer_append(out, start, <size_t>(p - start)) < 0 or append_escape(out, p[0]) < 0:
                return TEXT_MEMORY
            p += 1
            start = p
        else:
            p += 1
    if tg_buffer_append(out, start, <size_t>(p - start)) < 0 or tg_buffer_append(out, b'"', 1) < 0:
        return TEXT_MEMORY
    return TEXT_OK


cdef char *write_element(char *at, int dt, const char *data) noexcept nogil:
    # Copied out: raw tensors in a message have no alignment.
    cdef uint16_t two
    cdef uint32_t four
    cdef uint64_t eight
    cdef float single
    cdef double wide
    if dt == DT_FP32:
        memcpy(&single, data, 4)
        return write_float(at, single)
    if dt == DT_INT64:
        memcpy(&eight, data, 8)
        return write_int(at, <int64_t>eight)
    if dt == DT_INT32:
        memcpy(&four, data, 4)
        return write_int(at, <int32_t>four)
    if dt == DT_UINT8:
        return write_uint(at, <uint8_t>data[0])
    if dt == DT_FP64:
        memcpy(&wide, data, 8)
        return write_double(at, wide)
    if dt == DT_BOOL:
        if data[0]:
            memcpy(at, b"true", 4)
            return at + 4
        memcpy(at, b"false", 5)
        return at + 5
    if dt == DT_INT8:
        return write_int(at, <int8_t>data[0])
    if dt == DT_UINT32:
        memcpy(&four, data, 4)
        return write_uint(at, four)
    if element_size(dt) == 8:
        memcpy(&eight, data, 8)
        return write_uint(at, eight)
    memcpy(&two, data, 2)
    if dt == DT_FP16:
        return write_float(at, half_to_float(two))
    if dt == DT_BF16:
        return write_float(at, bfloat_to_float(two))
    if dt == DT_INT16:
        return write_int(at, <int16_t>two)
    return write_uint(at, two)


cdef int append_strings(tg_buffer *out, const char *data, size_t n) noexcept nogil:
    cdef uint32_t length
    cdef int result
    while n:
        memcpy(&length, data, 4)
        result = append_string(out, data + 4, length)
        if result < 0:
            return result
        data += 4 + <size_t>length
        n -= 4 + <size_t>length
        if n and tg_buffer_append(out, b",", 1) < 0:
            return TEXT_MEMORY
    return TEXT_OK


cdef int append_numbers(tg_buffer *out, int dt, const char *data, size_t n) noexcept nogil:
    cdef size_t size = element_size(dt)
    cdef size_t left = n // size
    cdef size_t batch
    cdef char *at
    while left:
        batch = BATCH if left > BATCH else left
        if tg_buffer_reserve(out, batch * (FLOAT_TEXT_MAX + 1)) < 0:
            return TEXT_MEMORY
        at = tg_buffer_tail(out)
        left -= batch
        while batch:
            at = write_element(at, dt, data)
            at[0] = 44
            at += 1
            data += size
            batch -= 1
        # Not the comma behind the last one.
        out.end = <size_t>(at - out.data) - (left == 0)
    return TEXT_OK


cdef int append_tensor(tg_buffer *out, int dt, const char *data, size_t n) noexcept nogil:
    cdef int result
    if tg_buffer_append(out, b"[", 1) < 0:
        return TEXT_MEMORY
    result = append_strings(out, data, n) if dt == DT_BYTES else append_numbers(out, dt, data, n)
    if result < 0:
        return result
    return TEXT_MEMORY if tg_buffer_append(out, b"]", 1) < 0 else TEXT_OK
