"""Datatypes and shapes of the Open Inference Protocol."""

from libc.stdint cimport int64_t


cdef enum:
    DT_UNKNOWN = 0
    DT_BOOL
    DT_UINT8
    DT_UINT16
    DT_UINT32
    DT_UINT64
    DT_INT8
    DT_INT16
    DT_INT32
    DT_INT64
    DT_FP16
    DT_BF16
    DT_FP32
    DT_FP64
    DT_BYTES

cdef enum:
    MAX_RANK = 64                     # dimensions of a shape (what NumPy allows)
    MAX_TENSORS = 500                 # tensors of a message: two parts each stay below IOV_MAX (1024)

cdef int datatype_of(const char *name, size_t n) noexcept nogil
cdef const char *datatype_name(int dt) noexcept nogil
# Bytes of an element; 0 for BYTES, whose elements carry their own length.
cdef size_t element_size(int dt) noexcept nogil
# Elements of a shape; -1 when a dimension is negative or the product (zero dimensions left out) passes 2^63 - 1.
cdef int64_t element_count(const int64_t *shape, int rank) noexcept nogil
# Bytes of `count` elements of a datatype of fixed size; -1 when that passes 2^63 - 1.
cdef int64_t tensor_size(int dt, int64_t count) noexcept nogil
# Whether data is exactly `count` elements of uint32 (little-endian) length and that many bytes.
cdef bint bytes_framing_ok(const char *data, size_t n, int64_t count) noexcept nogil

# That look, in steps, for there may be as many elements as data has bytes.
cdef struct tg_framing:
    const char *at
    const char *end
    int64_t left                      # elements

cdef enum:
    FRAMING_WRONG = -1
    FRAMING_MORE = 0                  # go on
    FRAMING_DONE = 1

# Looks at `most` elements at most.
cdef int look_at_framing(tg_framing *framing, int64_t most) noexcept nogil
