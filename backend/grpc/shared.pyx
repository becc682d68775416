"""A message in memory that its sender may change at any time: see shared.pxd."""

from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memset
from lb.http.grpc.protobuf cimport WIRE_BYTES, cursor, span, start_cursor, take_varint
from lb.inference.answer cimport OutputTensor, read_output
from lb.inference.counts cimport count_request
from lb.inference.datatypes cimport (
    DT_BF16, DT_FP16, DT_FP32, DT_FP64, DT_INT8, DT_INT16, DT_UINT8, DT_UINT16, MAX_TENSORS,
)
from lb.inference.message cimport RequestMessage, read_request
from lb.net.buffer cimport tg_buffer, tg_buffer_append, tg_buffer_free, tg_buffer_size

cdef extern from *:
    """
    static void tg_copy_shared(uint8_t *into, const volatile uint8_t *data, size_t size)
    {
        while (size--)
            *into++ = *data++;
    }
    """
    void tg_copy_shared(uint8_t *into, const uint8_t *data, size_t size) noexcept nogil

cdef enum:
    RAW_CONTENTS = 7                  # of ModelInferRequest
    LARGE = 4096                      # bytes of a tensor that stays
    HEAD_MOST = 2 * 10                # bytes of a field's tag and length: two of VARINT_MAX
    REST_MOST = 1024 * 1024           # bytes beside large tensors
    TOP_MOST = 4096                   # fields, those of tensors aside; a larger message is read as others are

# A tensor without bytes: the place of one that stays.
cdef const char *EMPTY = b"\x3a\x00"
cdef size_t EMPTY_SIZE = 2


cdef void copy_shared(uint8_t *into, const char *data, size_t size) noexcept nogil:
    tg_copy_shared(into, <const uint8_t *>data, size)


cdef int take_head(const uint8_t *at, size_t left, uint8_t *head, bint *raw, size_t *size) noexcept:
    """The bytes of a field's tag and length, which are copied to `head`; `size` is of what follows, within `left`. -1:
    it has no length, or is cut off."""
    cdef size_t n = min(left, <size_t>HEAD_MOST)
    cdef uint64_t tag = 0, length = 0
    cdef cursor c
    tg_copy_shared(head, at, n)
    start_cursor(&c, <const char *>head, n)
    if take_varint(&c, &tag) < 0 or tag & 7 != WIRE_BYTES or take_varint(&c, &length) < 0:
        return -1
    n = <size_t>(c.at - head)
    if length > left - n:
        return -1
    raw[0] = tag >> 3 == RAW_CONTENTS
    size[0] = <size_t>length
    return <int>n


cdef bint is_read_once(const span *input) noexcept:
    """Whether a run looks at each element of a tensor once. Text is measured and then copied, a wide integer may be an
    index, which is checked and then used, and a BOOL is made 0 or 1 in place."""
    cdef OutputTensor tensor
    if read_output(&tensor, input) != NULL:
        return False
    return tensor.datatype in (DT_FP32, DT_FP16, DT_BF16, DT_FP64, DT_UINT8, DT_INT8, DT_UINT16, DT_INT16)


cdef char *read_shared(RequestMessage *request, const char *message, size_t size) noexcept:
    cdef span stay[MAX_TENSORS]
    cdef size_t places[MAX_TENSORS]               # of the empty tensors in the copy
    cdef uint8_t head[HEAD_MOST]
    cdef const uint8_t *at = <const uint8_t *>message
    cdef const uint8_t *end = at + size
    cdef tg_buffer copy
    cdef size_t length = 0
    cdef bint raw = False, fine = True
    cdef int count = 0, fields = 0, n, i, known = 0
    memset(&copy, 0, sizeof(copy))
    while fine and at < end:
        n = take_head(at, <size_t>(end - at), head, &raw, &length)
        fields += 1
        if n < 0 or count == MAX_TENSORS or fields > TOP_MOST:
            fine = False
            break
        if raw and length >= LARGE:
            fine = tg_buffer_append(&copy, EMPTY, EMPTY_SIZE) == 0
            stay[count] = span(<const char *>at + n, length)
            places[count] = tg_buffer_size(&copy)
            count += 1
        else:
            fine = (length <= REST_MOST and tg_buffer_size(&copy) <= REST_MOST
                    and tg_buffer_append(&copy, head, <size_t>n) == 0
                    and tg_buffer_append(&copy, at + n, length) == 0)
        at += n + <Py_ssize_t>length
    if (fine and count and count_request(copy.data, copy.end, &fields) == NULL
            and read_request(request, copy.data, copy.end) == NULL):
        for i in range(request.raw_count):
            if known < count and request.raw[i].data == copy.data + places[known]:
                if i >= request.input_count or not is_read_once(&request.inputs[i]):
                    break
                request.raw[i] = stay[known]
                known += 1
        if known == count:
            return copy.data
    tg_buffer_free(&copy)
    return NULL
