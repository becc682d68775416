"""Copies of requests for a pool that speaks HTTP/2, gRPC included: see mirror.pxd."""

from libc.stdint cimport uint64_t
from lb.http.head cimport Field
from lb.net.poller cimport Poller
from lb.proxy.exchange.mirror.mirror cimport Mirror
from lb.upstream.connections.http2_call cimport Http2Call


cdef class MirrorStream(Http2Call):
    cdef Mirror mirror
    cdef size_t size                  # of the request, its fields included
    cdef size_t received              # bytes of the answer's body
    cdef int status                   # of HTTP; 0 = no answer yet
    cdef int code                     # of gRPC; -1 = none
    cdef bint grpc
    cdef char timeout[12]             # the value of grpc-timeout

    cdef void find_code(self, const Field *fields, int count) noexcept


# A request is complete and has been handed to its endpoint by `call`: sends a copy where the mirror wants one, and all
# of the request is kept. `grpc`: it is a call.
cdef void mirror_stream(Mirror mirror, Poller poller, Http2Call call, uint64_t key, bint grpc) noexcept
