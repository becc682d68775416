"""Writes lines to a descriptor that may be a pipe which nobody reads: waits for no longer than it is told."""

from libc.stdint cimport uint64_t
from lb.net.buffer cimport tg_buffer


cdef class LogWriter:
    cdef int fd                       # the caller's; it may be replaced underneath
    cdef tg_buffer text               # what is to be written
    cdef readonly uint64_t errors     # of writing
    cdef readonly int error           # errno of the last one; 0 before the first

    # 1: all of the text is out; 0: the descriptor took no more for `wait_ms`; -1: an error, the text is still there.
    cdef int flush(self, int wait_ms) noexcept nogil
    # Forgets the text: how many lines, or ends of lines, that were.
    cdef uint64_t discard(self) noexcept nogil
