"""One question to a server over a connection of its own, for callers in Python."""

from libc.stdint cimport uint32_t
from lb.net.address cimport Address
from lb.net.poller cimport Source


cdef class Inquiry(Source):
    cdef Address address
    cdef bytes request
    cdef Py_ssize_t sent
    cdef bint connected
    cdef object receive
    cdef object ended                 # None: it is over, and nobody is told any more

    cdef int check_connection(self, uint32_t events) except -1
    cdef void send_on(self) noexcept
    cdef int read_on(self) except -1
    cdef void proceed(self, uint32_t events) noexcept
    cdef void finish(self, object error) noexcept
