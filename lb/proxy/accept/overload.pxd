"""The limits of a worker as a whole: beyond them new requests are refused at once, before the machine decides."""

from libc.stdint cimport uint64_t


cdef class Overload:
    cdef readonly Py_ssize_t max_in_flight    # exchanges at once; 0 = no limit
    cdef readonly uint64_t max_memory         # resident bytes; 0 = no limit
    cdef readonly uint64_t memory             # at the last look
    cdef readonly bint full                   # over max_memory, until there is room again
    cdef readonly uint64_t refused
    cdef object loop
    cdef object handle
    cdef object statm

    # Whether a new exchange is to be refused when there are `in_flight` of them with it.
    cdef bint refuses(self, Py_ssize_t in_flight) noexcept
