"""Tensor data of JSON requests, packed into the protocol's raw form.

The elements go from the text of the request straight into the tensor, without a Python object for each. The arrays are
flat, or nested as the shape is. Reading stops every so many bytes, for a tensor may be as large as the request.
"""

from libc.math cimport INFINITY, NAN, isinf
from libc.stdint cimport INT8_MAX, INT16_MAX, INT32_MAX, INT64_MAX, int64_t
from libc.stdint cimport UINT8_MAX, UINT16_MAX, UINT32_MAX, UINT64_MAX, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset
from lb.net.buffer cimport tg_buffer, tg_buffer_append, tg_buffer_reserve, tg_buffer_tail
from lb.inference.datatypes cimport (DT_BOOL, DT_BYTES, DT_FP16, DT_FP32, DT_FP64, DT_INT8, DT_INT16,
                                     DT_INT32, DT_INT64, DT_UINT8, DT_UINT16, DT_UINT32, DT_UINT64, MAX_RANK,
                                     datatype_name, element_size)
from lb.inference.decimals cimport read_number
from lb.inference.floats cimport bfloat_from_double, half_from_double

from lb.inference.errors import OipError

cdef enum:                            # what an array holds
    UNKNOWN = 0
    ARRAYS
    VALUES

cdef enum:                            # problems
    NO_ARRAY = 1
    TOO_DEEP
    LENGTHS
    DEPTHS
    SIDE_BY_SIDE
    TOO_MANY
    TOO_FEW
    NESTING
    NOT_INTEGER
    NOT_NUMBER
    NOT_VALUE
    NOT_STRING
    RANGE
    STRING_LENGTH

cdef enum:
    SHOWN = 40                        # characters of an element that errors show

# Largest value, and the size of the least one, of each datatype of integers.
cdef uint64_t[DT_BYTES + 1] HIGH
cdef uint64_t[DT_BYTES + 1] LOW
memset(HIGH, 0, sizeof(HIGH))
memset(LOW, 0, sizeof(LOW))
HIGH[DT_UINT8] = UINT8_MAX
HIGH[DT_UINT16] = UINT16_MAX
HIGH[DT_UINT32] = UINT32_MAX
HIGH[DT_UINT64] = UINT64_MAX
HIGH[DT_INT8] = INT8_MAX
HIGH[DT_INT16] = INT16_MAX
HIGH[DT_INT32] = INT32_MAX
HIGH[DT_INT64] = <uint64_t>INT64_MAX
LOW[DT_INT8] = <uint64_t>INT8_MAX + 1
LOW[DT_INT16] = <uint64_t>INT16_MAX + 1
LOW[DT_INT32] = <uint64_t>INT32_MAX + 1
LOW[DT_INT64] = <uint64_t>INT64_MAX + 1


cdef inline int refuse(tg_packing *p, int problem) noexcept nogil:
    p.problem = problem
    p.token = p.at
    return PACK_REFUSED


cdef inline const unsigned char *token_end(const tg_packing *p) noexcept nogil:
    """Behind the number or word at `at`."""
    cdef const unsigned char *at = p.at
    while at < p.end and at[0] > 32 and at[0] != c',' and at[0] != c']' and at[0] != c'}':
        at += 1
    return at


cdef inline int pack_integer(tg_packing *p, char *to) noexcept nogil:
    cdef const unsigned char *at = p.at
    cdef bint negative = at[0] == c'-'
    cdef uint64_t value = 0
    cdef uint64_t digit
    cdef bint fits = True
    at += negative
    if at == p.end or at[0] < c'0' or at[0] > c'9':
        return refuse(p, NOT_INTEGER)
    while at < p.end and c'0' <= at[0] <= c'9':
        digit = at[0] - c'0'
        if value > (UINT64_MAX - digit) // 10:
            fits = False
        value = value * 10 + digit
        at += 1
    if at < p.end and (at[0] == c'.' or at[0] == c'e' or at[0] == c'E'):
        return refuse(p, NOT_INTEGER)
    if not fits or value > (LOW[p.dt] if negative else HIGH[p.dt]):
        return refuse(p, RANGE)
    if negative:
        value = 0 - value
    memcpy(to, &value, element_size(p.dt))        # little-endian: the low bytes
    p.at = at
    return PACK_MORE


cdef double[23] TENS
TENS[0] = 1
for _power in range(22):
    TENS[_power + 1] = TENS[_power] * 10


cdef inline const unsigned char *read_short(const unsigned char *at, const unsigned char *end,
                                            double *value) noexcept nogil:
    """A number whose digits and power of ten are doubles, so that one division rounds right (W. D. Clinger, How to read
    floating point numbers accurately, 1990): most are. NULL: it is none of these."""
    cdef bint negative = at[0] == c'-'
    cdef const unsigned char *start
    cdef uint64_t digits = 0
    cdef Py_ssize_t size
    cdef Py_ssize_t fraction = 0
    at += negative
    start = at
    while at < end and c'0' <= at[0] <= c'9':
        digits = digits * 10 + (at[0] - c'0')
        at += 1
    size = at - start
    if at < end and at[0] == c'.':
        at += 1
        start = at
        while at < end and c'0' <= at[0] <= c'9':
            digits = digits * 10 + (at[0] - c'0')
            at += 1
        fraction = at - start
        size += fraction
    # 19 digits are below 2^64.
    if size > 19 or digits > <uint64_t>1 << 53 or at < end and (at[0] | 32) == c'e':
        return NULL
    value[0] = <double>digits / TENS[fraction]
    if negative:
        value[0] = -value[0]
    return at


cdef inline int read_real(tg_packing *p, double *value) noexcept nogil:
    """Sets `value`, and `at` behind it."""
    cdef const unsigned char *at = p.at
    cdef size_t left = <size_t>(p.end - at)
    cdef bint quoted = at[0] == c'"'
    cdef bint negative
    if not quoted and (at[0] == c'-' or c'0' <= at[0] <= c'9') and not (left > 1 and at[1] == c'I'):
        at = read_short(at, p.end, value)
        p.at = at if at != NULL else <const unsigned char *>read_number(
            <const char *>p.at, <const char *>p.end, value)
        return PACK_MORE
    # What JSON has no number for is spelled as in answers, or as Python's json module does.
    at += quoted
    left -= quoted
    negative = left > 0 and at[0] == c'-'
    at += negative
    left -= negative
    if left >= 8 and memcmp(at, b"Infinity", 8) == 0:
        value[0] = -INFINITY if negative else INFINITY
        at += 8
    elif left >= 3 and not negative and memcmp(at, b"NaN", 3) == 0:
        value[0] = NAN
        at += 3
    else:
        return refuse(p, NOT_NUMBER)
    if quoted:
        if at == p.end or at[0] != c'"':
            return refuse(p, NOT_NUMBER)
        at += 1
    p.at = at
    return PACK_MORE


cdef inline int pack_real(tg_packing *p, char *to) noexcept nogil:
    cdef const unsigned char *start = p.at
    cdef double value = 0
    cdef float single
    cdef bint word
    cdef bint fits = True
    if read_real(p, &value) < 0:
        return PACK_REFUSED
    word = start[0] == c'"' or (p.at - 1)[0] > c'9'   # an infinity that was asked for
    if p.dt == DT_FP64:
        fits = not isinf(value) or word
        memcpy(to, &value, 8)
    elif p.dt == DT_FP32:
        single = <float>value
        fits = not isinf(single) or word
        memcpy(to, &single, 4)
    elif isinf(value) and not word:
        fits = False
    elif p.dt == DT_FP16:
        fits = half_from_double(value, <uint16_t *>to)
    else:
        fits = bfloat_from_double(value, <uint16_t *>to)
    if not fits:
        p.at = start
        return refuse(p, RANGE)
    return PACK_MORE


cdef int pack_bool(tg_packing *p, char *to) noexcept nogil:
    cdef const unsigned char *end = token_end(p)
    cdef size_t size = <size_t>(end - p.at)
    if (size == 4 and memcmp(p.at, b"true", 4) == 0) or (size == 1 and p.at[0] == c'1'):
        to[0] = 1
    elif (size == 5 and memcmp(p.at, b"false", 5) == 0) or (size == 1 and p.at[0] == c'0'):
        to[0] = 0
    else:
        return refuse(p, NOT_VALUE)
    p.at = end
    return PACK_MORE


cdef inline uint32_t four_hex(const unsigned char *at) noexcept nogil:
    cdef uint32_t value = 0
    cdef unsigned char c
    cdef int i
    for i in range(4):
        c = at[i]
        value = value << 4 | <uint32_t>(c - c'0' if c <= c'9' else (c | 32) - c'a' + 10)
    return value


cdef const unsigned char *write_escape(const unsigned char *at, char **to) noexcept nogil:
    """Writes the character of the escape at `at` as UTF-8; what is behind it."""
    cdef uint32_t code
    cdef unsigned char *out = <unsigned char *>to[0]
    cdef unsigned char c = at[1]
    if c != c'u':
        out[0] = (8 if c == c'b' else 12 if c == c'f' else 10 if c == c'n' else 13 if c == c'r' else 9 if c == c't'
                  else c)
        to[0] += 1
        return at + 2
    code = four_hex(at + 2)
    at += 6
    if 0xD800 <= code < 0xDC00:                   # the reader has seen its other half
        code = 0x10000 + ((code - 0xD800) << 10) + (four_hex(at + 2) - 0xDC00)
        at += 6
    if code < 0x80:
        out[0] = <unsigned char>code
        to[0] += 1
    elif code < 0x800:
        out[0] = <unsigned char>(0xC0 | code >> 6)
        out[1] = <unsigned char>(0x80 | (code & 63))
        to[0] += 2
    elif code < 0x10000:
        out[0] = <unsigned char>(0xE0 | code >> 12)
        out[1] = <unsigned char>(0x80 | (code >> 6 & 63))
        out[2] = <unsigned char>(0x80 | (code & 63))
        to[0] += 3
    else:
        out[0] = <unsigned char>(0xF0 | code >> 18)
        out[1] = <unsigned char>(0x80 | (code >> 12 & 63))
        out[2] = <unsigned char>(0x80 | (code >> 6 & 63))
        out[3] = <unsigned char>(0x80 | (code & 63))
        to[0] += 4
    return at


cdef int pack_string(tg_packing *p, tg_buffer *out, const unsigned char *stop) noexcept nogil:
    """Goes on with a string, whose opening quote has been read."""
    cdef const unsigned char *at = p.at
    cdef const unsigned char *start
    cdef char *to
    cdef char *length_at
    cdef size_t size
    cdef uint32_t length
    # A string in UTF-8 is no longer than its text.
    if tg_buffer_reserve(out, <size_t>(stop - at) + 16) < 0:
        return PACK_MEMORY
    to = tg_buffer_tail(out)
    while at < stop and at[0] != c'"':
        if at[0] == c'\\':
            at = write_escape(at, &to)
            continue
        start = at
        while at < stop and at[0] != c'"' and at[0] != c'\\':
            at += 1
        memcpy(to, start, <size_t>(at - start))
        to += at - start
    out.end = <size_t>(to - out.data)
    p.at = at
    length_at = out.data + out.start + p.string_at - 1
    size = <size_t>(to - length_at - 4)
    if size > UINT32_MAX:
        return refuse(p, STRING_LENGTH)
    if at < stop:
        length = <uint32_t>size
        memcpy(length_at, &length, 4)
        p.string_at = 0
        p.at += 1
    return PACK_MORE


cdef inline int pack_value(tg_packing *p, tg_buffer *out) noexcept nogil:
    """One element: all of it, or the beginning of a string."""
    cdef size_t size
    cdef int result
    cdef char *to
    if p.at[0] == c'[' or p.at[0] == c'{':
        return refuse(p, NOT_INTEGER if DT_UINT8 <= p.dt < DT_FP16 else NOT_VALUE if p.dt == DT_BOOL
                      else NOT_STRING if p.dt == DT_BYTES else NOT_NUMBER)
    if p.dt == DT_BYTES:
        if p.at[0] != c'"':
            return refuse(p, NOT_STRING)
        p.string_at = out.end - out.start + 1
        p.at += 1
        return PACK_MEMORY if tg_buffer_append(out, b"\0\0\0\0", 4) < 0 else PACK_MORE
    size = element_size(p.dt)
    if tg_buffer_reserve(out, size) < 0:
        return PACK_MEMORY
    to = tg_buffer_tail(out)
    if p.dt >= DT_FP16:
        result = pack_real(p, to)
    elif p.dt == DT_BOOL:
        result = pack_bool(p, to)
    else:
        result = pack_integer(p, to)
    if result == PACK_MORE:
        out.end += size
    return result


cdef int pack_values(tg_packing *p, tg_buffer *out, const unsigned char *stop) noexcept nogil:
    """The elements of the innermost array, as far as they stand one behind the other."""
    cdef int inner = p.depth - 1
    cdef int64_t room = p.left
    cdef int result
    if p.lengths[inner] >= 0:
        room = min(room, p.lengths[inner] - p.seen[inner])
    while True:
        if room == 0:
            return refuse(p, TOO_MANY if p.left == 0 else LENGTHS)
        room -= 1
        p.left -= 1
        p.seen[inner] += 1
        result = pack_value(p, out)
        if result < 0 or p.string_at or p.at >= stop or p.at[0] != c',':
            return result
        p.at += 1
        if p.at < stop and p.at[0] == c' ':
            p.at += 1
        if p.at >= stop or p.at[0] <= 32:
            return PACK_MORE


cdef inline int count_element(tg_packing *p) noexcept nogil:
    """One more element of the innermost array."""
    cdef int inner = p.depth - 1
    p.seen[inner] += 1
    if 0 <= p.lengths[inner] < p.seen[inner]:
        return refuse(p, LENGTHS)
    return PACK_MORE


cdef inline int take_leaf(tg_packing *p) noexcept nogil:
    """The innermost array holds values, or nothing."""
    p.holds[p.depth - 1] = VALUES
    if p.leaf == 0:
        p.leaf = p.depth
    elif p.leaf != p.depth:
        return refuse(p, DEPTHS)
    return PACK_MORE


cdef int open_array(tg_packing *p) noexcept nogil:
    if p.depth == MAX_RANK or p.depth == p.leaf != 0:
        return refuse(p, TOO_DEEP)
    if p.depth:
        p.holds[p.depth - 1] = ARRAYS
        if count_element(p) < 0:
            return PACK_REFUSED
    p.seen[p.depth] = 0
    p.holds[p.depth] = UNKNOWN
    p.depth += 1
    p.at += 1
    return PACK_MORE


cdef int close_array(tg_packing *p) noexcept nogil:
    cdef int inner = p.depth - 1
    if p.holds[inner] == UNKNOWN and take_leaf(p) < 0:
        return PACK_REFUSED
    if p.lengths[inner] < 0:
        p.lengths[inner] = p.seen[inner]
    elif p.lengths[inner] != p.seen[inner]:
        return refuse(p, LENGTHS)
    p.depth = inner
    p.at += 1
    return PACK_MORE


cdef bint fits_shape(const tg_packing *p) noexcept nogil:
    """Whether the nesting is the shape, where dimensions of 1 may be missing on either side."""
    cdef int i = 0
    cdef int j = 0
    while True:
        while i < p.leaf and p.lengths[i] == 1:
            i += 1
        while j < p.rank and p.shape[j] == 1:
            j += 1
        if i == p.leaf or j == p.rank:
            return i == p.leaf and j == p.rank
        if p.lengths[i] != p.shape[j]:
            return False
        i += 1
        j += 1


cdef int finish(tg_packing *p) noexcept nogil:
    if p.left:
        return refuse(p, TOO_FEW)
    if p.count and p.leaf > 1 and not fits_shape(p):
        return refuse(p, NESTING)
    return PACK_DONE


cdef void begin_packing(tg_packing *packing, const char *text, size_t size, bint single, int dt, int64_t count,
                        const int64_t *shape, int rank) noexcept nogil:
    cdef int i
    memset(packing, 0, sizeof(packing[0]))
    packing.at = <const unsigned char *>text
    packing.end = packing.at + size
    packing.dt = dt
    packing.rank = rank
    memcpy(packing.shape, shape, <size_t>rank * sizeof(int64_t))
    packing.count = packing.left = count
    packing.single = single
    for i in range(MAX_RANK):
        packing.lengths[i] = -1


cdef size_t most_packed(const tg_packing *packing) noexcept nogil:
    cdef size_t size = <size_t>(packing.end - packing.at)
    if packing.dt == DT_BYTES:                    # the shortest element is `"",`, and takes 4 bytes
        return size + size // 3 + 16
    # The shortest one is `1,`.
    return <size_t>min(packing.count, <int64_t>(size // 2 + 1)) * element_size(packing.dt)


cdef int pack_some(tg_packing *packing, tg_buffer *out, size_t bytes) noexcept nogil:
    cdef tg_packing *p = packing
    cdef const unsigned char *stop = p.end if bytes >= <size_t>(p.end - p.at) else p.at + bytes
    cdef unsigned char c
    cdef int result
    if p.depth == 0 and p.leaf == 0:              # the beginning
        if not p.single:
            if p.at[0] != c'[':
                return refuse(p, NO_ARRAY)
            open_array(p)
        else:
            p.depth = 1
    while p.at < stop:
        c = p.at[0]
        if p.string_at:
            # An escape may reach beyond `stop`: it is whole within the text.
            result = pack_string(p, out, stop)
        elif c == c',' or c <= 32:
            p.at += 1
            continue
        elif c == c']':
            result = close_array(p)
        elif c == c'[' and p.holds[p.depth - 1] != VALUES:
            result = open_array(p)
        else:
            if p.holds[p.depth - 1] != VALUES:
                if p.holds[p.depth - 1] == ARRAYS:
                    return refuse(p, SIDE_BY_SIDE)
                if take_leaf(p) < 0:
                    return PACK_REFUSED
            result = pack_values(p, out, stop)
        if result < 0:
            return result
    return PACK_MORE if p.at < p.end else finish(p)


cdef str shown(const tg_packing *p):
    """An element that was refused. Of an array or object there may be as much as the request is large."""
    cdef const unsigned char *at = p.token
    cdef const unsigned char *last = at + min(<Py_ssize_t>(p.end - at), <Py_ssize_t>SHOWN)
    if at[0] == c'[':
        return "an array"
    if at[0] == c'{':
        return "an object"
    if at[0] == c'"':
        at += 1
        while at < last and at[0] != c'"':
            at += 1
        return f"""'{(<const char *>p.token)[1:at - p.token].decode("utf-8", "ignore")}'"""
    while at < last and at[0] > 32 and at[0] != c',' and at[0] != c']' and at[0] != c'}':
        at += 1
    return (<const char *>p.token)[:at - p.token].decode("utf-8", "ignore")


cdef object packing_error(const tg_packing *packing, str what):
    cdef const tg_packing *p = packing
    cdef str kind = datatype_name(p.dt).decode()
    cdef str text = {
        NO_ARRAY: "'data' must be an array",
        TOO_DEEP: "data is nested too deeply",
        LENGTHS: "nested arrays of different lengths",
        DEPTHS: "values at different depths",
        SIDE_BY_SIDE: "arrays and values side by side",
        TOO_MANY: "more elements in data than the shape has",
        TOO_FEW: f"{p.count - p.left} elements in data where the shape has {p.count}",
        NESTING: "the nesting of data is not that of the shape",
        STRING_LENGTH: "a string is longer than 4 GiB",
    }.get(p.problem)
    if text is None:
        text = shown(p) + {
            NOT_INTEGER: f" is not an integer of datatype {kind}",
            NOT_NUMBER: f" is not a number of datatype {kind}",
            NOT_VALUE: f" is not a value of datatype {kind}",
            NOT_STRING: f" is not a string of datatype {kind}",
            RANGE: f" is out of the range of datatype {kind}",
        }[p.problem]
    return OipError(f"{what}: {text}")
