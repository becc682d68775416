cimport cython
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t

from lb.balancing.bound cimport Bound
from lb.endpoints.choice cimport Choice


# As C globals: a name of the module would be looked up and boxed at every use.
cdef uint64_t _M
cdef int _NOBODY
cdef uint64_t _NEVER


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

    @cython.locals(rank=int, slot=uint32_t, position=uint32_t, unowned=int, horizon=uint64_t, arrival=uint64_t,
                   best=uint64_t[::1], reached=uint32_t[::1])
    cdef void fill(self, uint64_t total)

    @cython.locals(before=uint64_t)
    cdef uint64_t arrival(self, int rank, uint32_t position) noexcept

    @cython.locals(cube=uint64_t)
    cdef uint32_t slot_at(self, int rank, uint32_t position) noexcept

    @cython.locals(cube=uint64_t)
    cdef uint32_t position_of(self, int rank, uint32_t slot) noexcept

    @cython.locals(owner=int)
    cpdef int owner(self, uint64_t key) noexcept

    @cython.locals(rank=int, index=int, best=int, slot=uint32_t, arrival=uint64_t, earliest=uint64_t)
    cdef int first_available(self, Choice choice, Bound bound) noexcept
