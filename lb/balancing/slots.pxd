from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t

from lb.balancing.bound cimport Bound
from lb.endpoints.choice cimport Choice


cdef class SlotTable:
    cdef readonly tuple members
    cdef int size
    cdef uint16_t[::1] owners
    # By rank in the order of addresses, which settles ties:
    cdef int[::1] order
    cdef int[::1] weights
    cdef uint32_t[::1] offsets
    cdef uint32_t[::1] skips
    cdef uint32_t[::1] inverses
    cdef uint32_t[::1] shifts
    cdef uint32_t[::1] phases
    # Shared by all tables:
    cdef uint32_t[::1] cubes
    cdef uint32_t[::1] roots
    cdef uint64_t[::1] times

    cdef void fill(self, uint64_t total)
    cdef uint64_t arrival(self, int rank, uint32_t position) noexcept
    cdef uint32_t slot_at(self, int rank, uint32_t position) noexcept
    cdef uint32_t position_of(self, int rank, uint32_t slot) noexcept
    cpdef int owner(self, uint64_t key) noexcept
    cdef int first_available(self, Choice choice, Bound bound) noexcept
