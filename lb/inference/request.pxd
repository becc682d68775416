"""Inference requests: from HTTP bodies of the Open Inference Protocol to `ModelInferRequest` messages."""

from libc.stdint cimport int64_t, uint64_t
from lb.net.stream cimport iovec
from lb.inference.memo cimport Memo
from lb.inference.template cimport Template


# JSON parts in front of binary tensors, and bodies that are JSON only: apart, so that the latter cannot push out the
# former.
cdef Memo headers
cdef Memo bodies


cdef class InferRequest:
    """One request, ready to be sent. `parts` are the bytes of the ModelInferRequest; what they point to is owned by
    this object, except that binary tensors stay where they were in the HTTP body: that memory must outlive the parts'
    use."""
    cdef readonly bytes model
    cdef readonly bytes version       # b"" = not said
    cdef readonly bytes id            # b"" = none
    cdef const iovec *parts
    cdef int part_count
    cdef size_t message_size          # sum of the parts
    cdef readonly int64_t batch       # first dimension of the first input; 1 where it has none
    cdef readonly bint cacheable
    cdef readonly uint64_t timeout_us  # the protocol's `timeout` parameter; 0 = none
    cdef readonly bytes sequence      # sequence_id: digits, or a text behind a quote; b"" = none
    cdef readonly bint sequence_start
    cdef readonly bint sequence_end
    cdef Template template
    cdef iovec *tensors               # data of every input, in the order of the request
    cdef object owner                 # keeps the body's memory, where Python code made the request

    # As `digest_of` says.
    cdef int digest(self, const unsigned char *secret, unsigned char *out) noexcept
    # Whether an output is to be answered in binary form.
    cdef bint wants_binary(self, const char *name, size_t n) noexcept
    # Whether an output goes to shared memory.
    cdef bint shares(self, const char *name, size_t n) noexcept


# `model` and `version` (b"" = not said) come from the path; `json_length` is Inference-Header-Content-Length, -1 when
# absent. Raises OipError.
cdef InferRequest parse_http(bytes model, bytes version, const char *body, size_t size, Py_ssize_t json_length)
# Of a raw binary request: `header` is the JSON part that it is short for (lb.inference.raw_input), `data` its tensor,
# which stays valid as long as the request. Raises OipError.
cdef InferRequest parse_raw(bytes model, bytes version, bytes header, const char *data, size_t size)
# The key of a request in the result cache: BLAKE2b-256 keyed by `secret` over model, version, inputs sorted by name
# (name, datatype, shape, parameters, data), requested outputs with their parameters, and request parameters. `id`,
# `timeout`, `priority` and the binary_data parameters do not count, nor does the encoding. `tensors` are the data of
# the inputs, in the order of the request. 0, or -1 when hashing failed.
cdef int digest_of(Template template, const iovec *tensors, const unsigned char *secret, unsigned char *out) noexcept
