from libc.stdint cimport int64_t, uint32_t, uint64_t


cdef class Ring:
    cdef readonly int size
    cdef int shift
    cdef uint64_t[::1] positions
    cdef int[::1] owners
    cdef uint32_t[::1] starts

    cdef void fill(self, int[::1] order, int[::1] counts, uint64_t[::1] seeds)
    cdef int seek(self, uint64_t key) noexcept
    cpdef int owner(self, uint64_t key) noexcept
