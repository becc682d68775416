"""The model and the batch of a gRPC inference request, as far as its first message has come."""

from libc.stdint cimport int64_t
from lb.http.grpc.protobuf cimport span


cdef struct tg_batch:
    span model                        # empty: it names none, or cannot be read
    int64_t size                      # first dimension of the first input, at least 1


# Looks through the beginning of a gRPC body (frames of ModelInferRequest). False: more of it is needed. What `found`
# points to lies in `data`. A message that is compressed or malformed has no model and a batch of 1.
cdef bint first_batch(const char *data, size_t size, tg_batch *found) noexcept nogil
