"""Typed tensor contents (`InferTensorContents`) turned into raw tensor data."""

from libc.stdint cimport int64_t
from lb.net.buffer cimport tg_buffer


# Appends the elements of a serialized InferTensorContents as raw data of the datatype. `left` is how many fields and
# varints may be read, each of which takes time, and what is left of that then; packed floats are one field. 0; -1 when
# there are more, it is malformed, holds values of another type or out of range; -2 when memory is out.
cdef int append_contents(tg_buffer *out, int dt, const char *message, size_t size, int64_t *left) noexcept nogil
