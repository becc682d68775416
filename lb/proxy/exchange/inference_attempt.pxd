"""An attempt at a model server for a request of HTTP: one gRPC call, unary but for streams of generated answers, whose
message the codec has made."""

cimport cython
from libc.stdint cimport uint64_t
from lb.http.trace cimport TRACEPARENT_SIZE
from lb.net.stream cimport iovec
from lb.proxy.exchange.exchange cimport Exchange
from lb.proxy.exchange.inference_body cimport InferenceBody
from lb.proxy.exchange.mirror.comparison cimport Comparison
from lb.upstream.connections.grpc_call cimport GrpcCall


@cython.final
cdef class InferenceAttempt(GrpcCall):
    cdef iovec single                 # the message of a management call
    cdef uint64_t due                 # its deadline, which the endpoint knows as grpc-timeout
    cdef Comparison comparison        # of its answer with that to a mirror's copy; else None
    cdef size_t held                  # bytes of a stream's answer that the endpoint may not send anew yet

    cdef char[TRACEPARENT_SIZE] traceparent

    cdef InferenceBody body(self, Exchange exchange)
    # The call that the codec's message makes. False: out of memory.
    cdef bint prepare(self, InferenceBody body) noexcept
    cdef void failed(self, Exchange exchange, int kind) noexcept
    cdef void answered(self, Exchange exchange, int status, const char *message, size_t n) noexcept
    cdef void take_report(self, Exchange exchange) noexcept
