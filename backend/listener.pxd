"""A listening socket, whose connections speak HTTP/1.1 or HTTP/2."""

from backend.grpc.front cimport Front
from lb.net.poller cimport Source


cdef class Listener(Source):
    cdef Front front
    cdef bint tcp

    cdef void accept(self) noexcept
    cdef void accepted(self, int fd) noexcept
