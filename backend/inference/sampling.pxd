"""Which inferences get spans, as Triton's trace settings say it."""

from libc.stdint cimport int64_t, uint32_t


cdef class Sampling:
    cdef readonly bint on             # False: none does
    cdef readonly uint32_t rate       # one of so many whose caller has no trace; 0: none of these
    cdef readonly int64_t left        # so many of these, and no more; -1: all
    cdef uint32_t passed              # since the last one

    # An inference whose caller has no trace has ended: whether it gets spans.
    cdef bint takes(self) noexcept
