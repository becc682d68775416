cimport cython
from libc.stdint cimport int64_t, uint32_t, uint64_t


# As a C global: a name of the module would be looked up and boxed at every use.
cdef uint64_t _STEP


cdef class Ring:
    cdef readonly int size
    cdef int shift
    cdef uint64_t[::1] positions
    cdef int[::1] owners
    cdef uint32_t[::1] starts

    @cython.locals(starts=uint32_t[::1], rank=int, bucket=int64_t, x=uint64_t, total=uint32_t, position=uint64_t,
                   owner=int, i=int, at=int)
    cdef void fill(self, int[::1] order, int[::1] counts, uint64_t[::1] seeds)

    @cython.locals(at=int)
    cdef int seek(self, uint64_t key) noexcept

    @cython.locals(at=int)
    cpdef int owner(self, uint64_t key) noexcept
