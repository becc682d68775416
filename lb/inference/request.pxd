"""Inference requests: from HTTP bodies of the Open Inference Protocol to `ModelInferRequest` messages."""

from libc.stdint cimport int64_t, uint64_t
from lb.net.stream cimport iovec
from lb.inference.datatypes cimport tg_framing
from lb.inference.memo cimport Memo
from lb.inference.reader cimport Reader
from lb.inference.template cimport Template
from lb.inference.tensors cimport tg_packing


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


cdef class Reading:
    """The reading of a request's body in steps: it may be of any size, and others wait for the loop."""
    cdef bytes model
    cdef bytes version
    cdef const char *body
    cdef size_t size
    cdef size_t json_size
    cdef bint json_only
    cdef bint gives_back              # nobody else uses the body: memory of what has been packed is given back
    cdef int stage
    cdef Reader reader
    cdef object schema                # lb.inference.generate.Schema of a generate request, or None
    cdef object document              # what the reader kept
    cdef Template template
    cdef int index                    # of the input that is being packed or looked at
    cdef size_t released              # bytes of the body whose memory has been given back
    cdef tg_packing packing
    cdef tg_framing framing
    cdef size_t tail_at               # of the binary data of that input
    cdef InferRequest request         # once it is done

    # Goes on until it is done, and then returns True, or until the clock (monotonic ns) says so. Raises OipError,
    # MemoryError.
    cdef bint go_on(self, uint64_t until) except -1

    cdef int take_step(self) except -1
    cdef int read(self) except -1
    cdef int describe(self) except -1
    cdef int make_room(self) except -1
    cdef int begin_input(self, int index) except -1
    cdef int next_input(self) except -1
    cdef int pack(self) except -1
    cdef void give_back(self, size_t end) noexcept
    cdef int next_tail(self) except -1
    cdef int look_at_tail(self) except -1
    cdef int assemble(self) except -1


# `model` and `version` (b"" = not said) come from the path; `json_length` is Inference-Header-Content-Length, -1 when
# absent. The body stays where it is as long as the request. Raises OipError.
cdef Reading begin_reading(bytes model, bytes version, const char *body, size_t size, Py_ssize_t json_length)
# As for an inference, of the body of a generate request: its keys are the inputs that `schema` has.
cdef Reading begin_generate(bytes model, bytes version, const char *body, size_t size, object schema)
# The request, where its JSON part has been seen before, and what follows is little; else None. Raises OipError.
cdef InferRequest remembered(bytes model, bytes version, const char *body, size_t size, Py_ssize_t json_length)
# All of it at once: for bodies whose size is known to be small.
cdef InferRequest parse_http(bytes model, bytes version, const char *body, size_t size, Py_ssize_t json_length)
# Of a raw binary request: `header` is the JSON part that it is short for (lb.inference.raw_input), `data` its tensor,
# which stays valid as long as the request. Raises OipError.
cdef InferRequest parse_raw(bytes model, bytes version, bytes header, const char *data, size_t size)
# The key of a request in the result cache: BLAKE2b-256 keyed by `secret` over model, version, inputs sorted by name
# (name, datatype, shape, parameters, data), requested outputs with their parameters, and request parameters. `id`,
# `timeout`, `priority` and the binary_data parameters do not count, nor does the encoding. `tensors` are the data of
# the inputs, in the order of the request. 0, or -1 when hashing failed.
cdef int digest_of(Template template, const iovec *tensors, const unsigned char *secret, unsigned char *out) noexcept
