"""How a probe is asked, by the protocol of its pool: `grpc.health.v1.Health/Check`, or a GET by HTTP/2 or HTTP/1.1."""

from lb.net.buffer cimport tg_buffer
from lb.net.stream cimport iovec
from lb.upstream.connections.grpc_call cimport GrpcCall
from lb.upstream.connections.http1 cimport Http1Call, Http1Pool, Http1Upstream
from lb.upstream.connections.http2 cimport Http2Channel
from lb.upstream.connections.http2_call cimport Http2Call
from lb.upstream.load.prober cimport Probe


cdef class CheckCall(GrpcCall):
    cdef GrpcProbe probe              # None: it is not under way, so that neither holds the other


cdef class GrpcProbe(Probe):
    cdef Http2Channel channel
    cdef CheckCall call
    cdef bytes message
    cdef iovec part


cdef class GetCall(Http2Call):
    cdef Http2Probe probe
    cdef bytes path
    cdef tg_buffer report
    cdef int kind                     # REPORT_…
    cdef size_t size                  # of the answer's fields and body


cdef class Http2Probe(Probe):
    cdef Http2Channel channel
    cdef GetCall call


cdef class Get1Call(Http1Call):
    cdef Http1Probe probe
    cdef Http1Upstream upstream
    cdef bytes request
    cdef tg_buffer report
    cdef int kind
    cdef size_t size

    # The connection is let go; `reusable`: another call may have it.
    cdef void let_go(self, bint reusable) noexcept


cdef class Http1Probe(Probe):
    cdef Http1Pool pool
    cdef Get1Call call
