"""gRPC calls made by Python code."""

from lb.core.stream cimport iovec
from lb.upstream.grpc_call cimport GrpcCall


cdef class PyCall(GrpcCall):
    cdef tuple memory                 # keeps what `vector` points to
    cdef iovec *vector
    cdef object told
