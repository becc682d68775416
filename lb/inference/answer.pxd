"""Reading `ModelInferResponse` messages in place."""

from libc.stdint cimport int64_t, uint64_t
from lb.net.buffer cimport tg_buffer
from lb.inference.datatypes cimport MAX_RANK, MAX_TENSORS
from lb.http.grpc.protobuf cimport span


cdef enum:
    MAX_PARAMETERS = 128              # of the answer, and of an output


cdef struct Answer:
    span model
    span version
    int output_count
    int raw_count
    int parameter_count
    span[MAX_TENSORS] outputs
    span[MAX_TENSORS] raw
    span[MAX_PARAMETERS] parameters   # map entries


cdef struct OutputTensor:
    span name
    span datatype_name
    int datatype
    int rank
    int64_t[MAX_RANK] shape
    int64_t count                     # product of the shape
    bint has_contents
    span contents
    int parameter_count
    span[MAX_PARAMETERS] parameters


cdef enum:                            # what a parameter holds (InferParameter.parameter_choice)
    PARAMETER_NONE = 0
    PARAMETER_BOOL = 1
    PARAMETER_INT64 = 2
    PARAMETER_STRING = 3
    PARAMETER_DOUBLE = 4
    PARAMETER_UINT64 = 5


cdef struct Parameter:
    span key
    int choice
    uint64_t value                    # bits of a bool, int64, uint64 or double
    span text

cdef struct Slice:                    # data of an output, or a part of it
    const char *data                  # NULL: in the buffer of typed contents that became raw
    size_t at                         # there
    size_t size

# NULL, or what is wrong with the message.
cdef const char *read_answer(Answer *answer, const char *message, size_t size) noexcept nogil
cdef const char *read_output(OutputTensor *output, const span *message) noexcept nogil
cdef const char *read_parameter(Parameter *parameter, const span *entry) noexcept nogil
# Finds the data of an output as raw bytes and checks it against datatype and shape. `raw` counts the answer's raw
# contents that outputs before it had. Typed contents are appended to `packed` as raw ones. 0; -1 and what is wrong; -2:
# memory is out.
cdef int find_data(const OutputTensor *output, const Answer *answer, int *raw, tg_buffer *packed, Slice *data,
                   const char **wrong) noexcept nogil
