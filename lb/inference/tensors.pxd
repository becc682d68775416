"""Tensor data of JSON requests, packed into the protocol's raw form."""

from libc.stdint cimport int64_t
from lb.net.buffer cimport tg_buffer
from lb.inference.datatypes cimport MAX_RANK


cdef enum:
    PACK_DONE = 1
    PACK_MORE = 0                     # go on
    PACK_REFUSED = -1                 # see `packing_error`
    PACK_MEMORY = -2


# The packing of one tensor, which is done in steps.
cdef struct tg_packing:
    const unsigned char *at           # of the text
    const unsigned char *end
    int dt
    int rank
    int64_t[MAX_RANK] shape
    int64_t count                     # product of the shape
    int64_t left                      # elements still expected
    bint single                       # the text is one value instead of an array
    # The arrays that are open, from the outermost.
    int depth
    int leaf                          # depth of the arrays that hold values; 0 = not seen yet
    int64_t[MAX_RANK] lengths         # of the arrays at each depth; -1 = not seen yet
    int64_t[MAX_RANK] seen            # elements of the open ones so far
    unsigned char[MAX_RANK] holds     # arrays or values
    size_t string_at                  # of the string that is being written: offset of its length in `out`, plus 1
    int problem
    const unsigned char *token        # the element that was refused


# `text` is what `data` has in the request: JSON that has been read already (lb.inference.reader).
cdef void begin_packing(tg_packing *packing, const char *text, size_t size, bint single, int dt, int64_t count,
                        const int64_t *shape, int rank) noexcept nogil
# The most bytes that the packed tensor takes.
cdef size_t most_packed(const tg_packing *packing) noexcept nogil
# Appends elements to `out` until `bytes` bytes of the text are read: little-endian, row-major, unpadded; BYTES elements
# with their uint32 length. The beginning of the tensor is aligned to 8 bytes.
cdef int pack_some(tg_packing *packing, tg_buffer *out, size_t bytes) noexcept nogil
# Why the data was refused, as an OipError(400): number, type, range or nesting of the elements do not fit. `what` names
# the tensor.
cdef object packing_error(const tg_packing *packing, str what)
