"""Inference answers: from `ModelInferResponse` messages to HTTP bodies of the Open Inference Protocol."""

from lb.net.buffer cimport tg_buffer
from lb.net.stream cimport iovec
from lb.inference.request cimport InferRequest


cdef class InferResponse:
    """The body of an HTTP answer as `parts`. Large raw tensors stay where they were in the message: that memory must
    outlive the parts' use; everything else is owned by this object."""
    cdef const iovec *parts
    cdef int part_count
    cdef readonly size_t size         # sum of the parts: Content-Length
    # Inference-Header-Content-Length (Content-Type: application/octet-stream); -1: the body is JSON only.
    cdef readonly Py_ssize_t json_length
    cdef tg_buffer head               # JSON part, and small tensors behind it
    cdef tg_buffer packed             # tensors that came as typed contents

# The answer to `request` from a message that came for it, or for another request with the same digest: id and
# encoding are the request's. Raises UpstreamError for a message that cannot be right, OipError(400) for one that JSON
# cannot hold.
cdef InferResponse render(InferRequest request, const char *message, size_t size)

# The same, where the message may have come for the same request before: what was made of it then is given again.
cdef InferResponse render_again(InferRequest request, const char *message, size_t size)

# Appends the message without its id: the form to keep in the result cache. 0; -1 when it is malformed or memory is out
# (`out` is as before).
cdef int store_form(const char *message, size_t size, tg_buffer *out) noexcept

# Whether `render` takes the message for an answer to any request that has its data in itself.
cdef bint is_sound(const char *message, size_t size) noexcept
