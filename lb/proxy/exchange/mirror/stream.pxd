"""Copies of requests for a pool that speaks HTTP/2, gRPC included: see mirror.pxd."""

from libc.stdint cimport uint64_t
from lb.http.head cimport Field
from lb.net.poller cimport Poller
from lb.proxy.exchange.mirror.comparison cimport Comparison
from lb.proxy.exchange.mirror.mirror cimport Mirror
from lb.upstream.connections.http2_call cimport Http2Call


cdef class MirrorStream(Http2Call):
    cdef Mirror mirror
    cdef Comparison comparison        # None: its answer is not compared
    cdef size_t size                  # of the request, its fields included
    cdef size_t received              # bytes of the answer's body
    cdef int status                   # of HTTP; 0 = no answer yet
    cdef int code                     # of gRPC; -1 = none
    cdef bint grpc
    cdef char timeout[12]             # the value of grpc-timeout

    cdef void find_code(self, const Field *fields, int count) noexcept


# A request is complete and has been handed to its endpoint by `call`: sends a copy where the mirror wants one, and all
# of the request is kept. `grpc`: it is a call. Where the answers are to be compared, what takes the original's body;
# else None.
cdef Comparison mirror_stream(Mirror mirror, Poller poller, Http2Call call, uint64_t key, bint grpc)
