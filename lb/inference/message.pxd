"""Reading `ModelInferRequest` messages in place; their inputs are read by `read_output` (lb.inference.answer), whose
fields have the same numbers."""

from lb.http.grpc.protobuf cimport span
from lb.inference.answer cimport MAX_PARAMETERS
from lb.inference.datatypes cimport MAX_TENSORS


cdef struct RequestMessage:
    span model
    span version
    span id
    int input_count
    int output_count
    int raw_count
    int parameter_count
    span[MAX_TENSORS] inputs
    span[MAX_TENSORS] outputs         # that are asked for
    span[MAX_TENSORS] raw
    span[MAX_PARAMETERS] parameters   # map entries


cdef struct RequestedOutput:
    span name
    int parameter_count
    span[MAX_PARAMETERS] parameters


# NULL, or what is wrong with the message, or beyond what is read here.
cdef const char *read_request(RequestMessage *request, const char *message, size_t size) noexcept nogil
cdef const char *read_requested(RequestedOutput *output, const span *message) noexcept nogil
