"""Answers of our own: whose fault it was, in the words of the protocol that the client speaks."""

from lb.core.buffer cimport tg_buffer
from lb.core.http1 cimport Scan
from lb.core.stream cimport iovec


cdef class Refusal:
    cdef int status                   # of HTTP
    cdef tg_buffer head               # field lines
    cdef iovec part                   # the body
    cdef bytes body


# The answer to a request that failed with an HTTP `status`; `grpc` puts it into a gRPC status (Trailers-Only).
cdef Refusal refusal(int status, str message, bint grpc)
# Whether a request speaks gRPC: its content type says so (gRPC over HTTP2, section Requests), gRPC-Web's does not.
cdef bint speaks_grpc(Scan *scan) noexcept
