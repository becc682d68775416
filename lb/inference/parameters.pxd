"""Parameters (`InferParameter` maps) of requests, from JSON."""

from lb.net.buffer cimport tg_buffer


# Appends the map entry `key: value` as field `number`: bool, int64 (uint64 above 2^63 - 1), string or double. Raises
# OipError(400) for anything else; `what` names the owner in errors.
cdef int append_parameter(tg_buffer *out, int number, str key, object value, str what) except -1
# The entries of a JSON `parameters` object sorted by key, so that equal parameters give equal bytes; an absent one is
# empty.
cdef list sorted_parameters(object parameters, str what)
# The boolean of a reserved parameter.
cdef bint flag(object value, str key, str what) except? -1
