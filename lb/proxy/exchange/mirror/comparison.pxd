"""The answer to a copy and the one to its original, kept until both are whole and then compared."""

from lb.inference.compare cimport tg_comparison, tg_tolerance
from lb.net.buffer cimport tg_buffer


cdef enum:
    UNKNOWN_STATUS = -1               # of gRPC; an answer that has not ended


cdef class Comparer:
    """What a mirror compares by, and what the worker has found. A worker's share of a mirror's limits."""
    cdef tg_tolerance tolerance
    cdef size_t max_answer            # bytes of one answer
    cdef size_t max_held              # bytes of all that are kept
    cdef size_t held
    cdef object report                # lb.proxy.exchange.mirror.report.Report

    # For a copy that has begun. `framed`: what is taken of the original has gRPC's prefix, as all of the copy has.
    cdef Comparison begin(self, bint framed)


cdef class Comparison:
    cdef Comparer comparer
    cdef tg_buffer original
    cdef tg_buffer copy
    cdef int original_status          # of gRPC
    cdef int copy_status
    cdef bint framed
    cdef bint over                    # compared, or given up
    cdef tg_comparison found

    cdef void take_original(self, const char *data, size_t size) noexcept
    cdef void take_copy(self, const char *data, size_t size) noexcept
    cdef void take(self, tg_buffer *answer, const char *data, size_t size) noexcept
    # The answer has come to its end, with that status of gRPC. The second of the two has them compared.
    cdef void original_ended(self, int status) noexcept
    cdef void copy_ended(self, int status) noexcept
    cdef void settle(self) noexcept
    # There is nothing to compare: an answer is too large, or never comes.
    cdef void give_up(self) noexcept
    cdef void clear(self) noexcept
    cdef object compared(self)
