"""gRPC calls awaited by Python code."""

from lb.core.stream cimport iovec
from lb.upstream.grpc cimport GrpcCall


cdef class PyCall(GrpcCall):
    cdef iovec part
    cdef bytes message                # keeps the memory of `part`
    cdef str endpoint
    cdef readonly object future       # of (status, message, reply)
