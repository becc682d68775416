"""Tensor data of JSON requests, packed into the protocol's raw form."""

from libc.stdint cimport int64_t
from lb.net.buffer cimport tg_buffer


# Appends the elements of `data` (the parsed JSON array, flat, or nested as the shape is) to `out`: little-endian,
# row-major, unpadded; BYTES elements with their uint32 length. The end of `out` is aligned to 8 bytes. `count` is the
# product of the shape, `what` names the tensor in errors. Raises OipError(400) when number, type, range or nesting of
# the elements do not fit.
cdef int pack_json(object data, int dt, int64_t count, const int64_t *shape, int rank, tg_buffer *out,
                   str what) except -1
