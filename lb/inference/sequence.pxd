"""The sequence that a gRPC inference request belongs to, found in the message without decoding all of it."""

from libc.stdint cimport uint64_t
from lb.core.protobuf cimport span


cdef enum looked:
    LOOK_MORE = 0                     # it cannot be told from what is here
    LOOK_NONE                         # the request belongs to no sequence, or cannot be read
    LOOK_FOUND


cdef struct tg_sequence:
    span model
    span version
    span id                           # of a string; else empty
    uint64_t number                   # else
    bint start
    bint end


# Looks through the beginning of a gRPC body (frames of ModelInferRequest), all of it if `whole`. What `found` points to
# lies in `data`.
cdef looked look_for_sequence(const char *data, size_t size, bint whole, tg_sequence *found) noexcept nogil
# Whether the requests to a path are ModelInferRequests.
cdef bint infers(const char *path, size_t n) noexcept nogil
