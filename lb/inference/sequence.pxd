"""The sequence that a gRPC inference request belongs to, found in the message without decoding all of it."""

from libc.stdint cimport uint64_t
from lb.http.grpc.protobuf cimport span


cdef enum:
    GRPC_FRAME = 5                    # before a message: compressed or not, and its length
    LOOK_MOST = 64 * 1024             # bytes of a message that are waited for


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
# The length of the message behind a frame's head, of which all GRPC_FRAME bytes are here.
cdef uint64_t message_length(const char *data) noexcept nogil
# From how many bytes on a message is looked at again, of which `size` bytes, fewer than LOOK_MOST, have not told: each
# look begins at its head, and a client may send it byte by byte.
cdef size_t next_look(const char *data, size_t size) noexcept nogil
# Whether the requests to a path are ModelInferRequests.
cdef bint infers(const char *path, size_t n) noexcept nogil
