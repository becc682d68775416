"""The answer to an inference as a ModelInferResponse, whose tensors are written from where the run left them."""

from backend.inference.inference cimport tg_inference
from lb.http.grpc.protobuf cimport span
from lb.net.buffer cimport tg_buffer


# The fields that say which inference it was. 0, or -1: no memory.
cdef int reply_name(tg_buffer *out, const tg_inference *inference) noexcept
# All fields but the tensors: appended to `out`. 0, or -1: no memory.
cdef int reply_fields(tg_buffer *out, const tg_inference *inference) noexcept
# The parameter that marks a request's last answer: appended to `out`. 0, or -1: no memory.
cdef int reply_final(tg_buffer *out) noexcept
# The raw bytes of the output that was asked for at place `i`: this inference's rows of it.
cdef span reply_tensor(const tg_inference *inference, int i) noexcept
# What precedes the bytes of a tensor. 0, or -1: no memory.
cdef int reply_tensor_head(tg_buffer *out, size_t size) noexcept
# The whole answer where Python makes it (`finish`): a ModelInferResponse. Raises BackendError.
cdef bytes reply_finished(const tg_inference *inference)
# Bytes that a tensor's head takes.
cdef size_t reply_tensor_head_size(size_t size) noexcept
