"""Typed tensor contents (`InferTensorContents`) turned into raw tensor data."""

from lb.net.buffer cimport tg_buffer


# Appends the elements of a serialized InferTensorContents as raw data of the datatype. 0; -1 when it is malformed,
# holds values of another type or out of range; -2 when memory is out.
cdef int append_contents(tg_buffer *out, int dt, const char *message, size_t size) noexcept nogil
