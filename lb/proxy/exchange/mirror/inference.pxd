"""Copies of inferences for another pool: see mirror.pxd."""

from libc.stdint cimport uint64_t
from lb.net.buffer cimport tg_buffer
from lb.net.poller cimport Poller
from lb.net.stream cimport iovec
from lb.proxy.exchange.mirror.mirror cimport Mirror
from lb.proxy.exchange.mirror.comparison cimport Comparison
from lb.upstream.connections.grpc_call cimport GrpcCall


cdef class MirrorInference(GrpcCall):
    cdef Mirror mirror
    cdef Comparison comparison        # None: its answer is not compared
    cdef tg_buffer request
    cdef iovec part
    cdef size_t received              # bytes of the answer

    # Once: counts the copy, and gives back what it took.
    cdef void ended(self, int status, int code, bint answered, int verdict) noexcept


# The message of an inference has been handed to its endpoint: sends a copy where the mirror wants one. Where the
# answers are to be compared, what takes the original's message; else None.
cdef Comparison mirror_inference(Mirror mirror, Poller poller, const iovec *parts, int count, size_t size,
                                 const char *path, size_t path_length, uint64_t key)
