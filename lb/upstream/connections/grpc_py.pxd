"""gRPC calls made by Python code."""

from lb.net.stream cimport iovec
from lb.upstream.connections.grpc_call cimport GrpcCall


cdef class PyCall(GrpcCall):
    cdef tuple memory                 # keeps what `vector` points to
    cdef iovec *vector
    cdef object told
