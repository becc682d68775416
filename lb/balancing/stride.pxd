from libc.stdint cimport uint64_t


cdef class Stride:
    cdef readonly int size
    cdef public uint64_t sequence
    cdef int[::1] weights

    cpdef bint fill(self, weights) except -1
    cpdef int next(self) noexcept
    cdef int step(self) noexcept
