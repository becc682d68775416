cimport cython
from libc.stdint cimport uint64_t


# As C globals: names of the module would be looked up and boxed at every use.
cdef uint64_t _FULL
cdef uint64_t _OFFSET
cdef double _MOST
cdef double _LEAST


cdef class Stride:
    cdef readonly int size
    cdef public uint64_t sequence
    cdef int[::1] weights

    @cython.locals(i=int, share=double, top=double, mean=double, least=double)
    cpdef bint fill(self, weights) except -1

    @cython.locals(index=int)
    cpdef int next(self) noexcept

    @cython.locals(index=uint64_t, generation=uint64_t, weight=uint64_t, at=uint64_t)
    cdef int step(self) noexcept
