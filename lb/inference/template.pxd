"""What the JSON part of an inference request says, checked once and kept in the forms that requests are built from."""

from libc.stdint cimport int64_t, uint64_t
from lb.net.buffer cimport tg_buffer
from lb.http.grpc.protobuf cimport span


cdef struct InputSpec:
    int datatype
    bint shared                       # the data is in shared memory of client and model server: none is sent
    bint binary                       # the data follows the JSON part; else it is in Template.packed
    int64_t count                     # elements
    size_t size                       # bytes of data
    size_t packed_at                  # offset in Template.packed
    int value                         # index of the data in the request's text, to be packed; -1: it is not there


cdef struct OutputSpec:
    span name
    int binary                        # -1: not said
    bint shared                       # the model server writes it to shared memory


cdef class Template:
    """Shared by the requests that have the same model, version and JSON part (but for the id). What the request says
    never changes once it is built; what was made of it is kept for the next one."""
    # ModelInferRequest without id and raw_input_contents: the id goes in at `id_at`.
    cdef tg_buffer head
    cdef size_t id_at
    # Everything that decides the answer but the tensor data, in a canonical form.
    cdef tg_buffer meaning
    cdef size_t inputs_at             # offset in `meaning` of the number of inputs, behind which they are described
    cdef tg_buffer row_meaning        # the meaning of one row; empty until it is asked for (lb.inference.rows)
    cdef tg_buffer packed             # data of the JSON tensors, each aligned to 8 bytes
    cdef InputSpec *inputs
    cdef int *order                   # the inputs sorted by name
    cdef int input_count
    cdef int binary_inputs
    cdef size_t binary_size           # sum of the sizes of binary inputs
    cdef OutputSpec *outputs          # requested outputs
    cdef int output_count
    cdef bint binary_default          # binary_data_output
    cdef int64_t batch                # first dimension of the first input; 1 where it has none
    cdef int64_t rows                 # first dimension of all inputs; -1: one has none, or another
    cdef bint cacheable
    cdef uint64_t timeout_us          # 0 = none
    cdef bytes sequence               # sequence_id: digits, or a text behind a quote; b"" = none
    cdef bint sequence_start
    cdef bint sequence_end
    cdef bytes id                     # b"" = none; of the request the template was built from
    cdef bytes model
    cdef bytes version                # b"" = not said
    cdef list names                   # keeps what `outputs` points to
    # Of a request without binary inputs, so that the template has all of it:
    cdef bint keyed
    cdef unsigned char secret[32]     # for which the key was made
    cdef unsigned char key[32]        # in the result cache (lb.inference.request.digest_of)
    cdef tg_buffer answered           # the message that `rendered` was made of; empty = nothing is kept
    cdef object rendered              # an InferResponse (lb.inference.response.render_again)

    cdef int read_parameters(self, object parameters) except -1
    cdef int read_inputs(self, object items, tg_buffer *scratch) except -1
    cdef int read_input(self, int index, dict item, str name, str what, tg_buffer *scratch) except -1
    cdef int read_outputs(self, object items, tg_buffer *scratch) except -1

# `document` is what the reader keeps of the JSON part (lb.inference.reader). The data that is in the text is yet to be
# packed. Raises OipError(400).
cdef Template build_template(bytes model, bytes version, object document)
