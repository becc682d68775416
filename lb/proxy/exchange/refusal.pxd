"""Answers of our own: whose fault it was, in the words of the protocol that the client speaks."""

from libc.stdint cimport uint64_t
from lb.net.buffer cimport tg_buffer
from lb.http.head cimport Scan
from lb.net.stream cimport iovec


cdef enum:
    # How a client is told what went wrong.
    SPEAKS_HTTP = 0                   # by the status of HTTP
    SPEAKS_GRPC = 1                   # by a gRPC status (Trailers-Only), HTTP's being 200
    SPEAKS_WEB = 2                    # the same in gRPC-Web
    SPEAKS_WEB_TEXT = 3


cdef class Refusal:
    cdef int status                   # of HTTP
    cdef tg_buffer head               # field lines
    cdef iovec part                   # the body
    cdef bytes body


# The answer to a request that failed with an HTTP `status`, in gRPC `code`; `speaks` says how. `fields` are lines to
# add, in the place of the Retry-After that some answers have (may be NULL). `after`: nanoseconds after which waiting
# may have helped, where that is known, else 0; clients of gRPC are told more exactly than Retry-After can.
cdef Refusal refusal(int status, int code, str message, int speaks, const tg_buffer *fields, uint64_t after)
# The value of Grpc-Message for a text (gRPC over HTTP2, "Responses": percent-encoded).
cdef bytes grpc_message(str text)
# Whether a request speaks gRPC: its content type says so (gRPC over HTTP2, section Requests), gRPC-Web's does not.
cdef bint speaks_grpc(Scan *scan) noexcept
