"""Bytes from one socket to another through a pipe, without passing user space (splice(2))."""

from libc.stdint cimport uint64_t
from lb.net.buffer cimport tg_buffer
from lb.net.stream cimport Stream


cdef enum:
    PASS_NOT = -3                     # not this way: they have to be received and sent
    PASS_LOST = -4                    # who should take them is gone; its `error` holds errno
    PASS_FROM = 128 * 1024            # of a body still to come: from here on a pipe costs less than copying
    PASS_REST = 16 * 1024             # is left to be received: a parser has to see the end of a body
    PASS_MUCH = 64 * 1024             # a read of so much promises more


cdef class Pipe:
    cdef int read_end
    cdef int write_end
    cdef Py_ssize_t held              # bytes in the pipe

    # False when the process is out of descriptors.
    cdef bint open(self) noexcept
    # Moves up to `size` bytes from `fd` into the pipe: >0, 0 = end of file, IO_AGAIN, IO_ERROR (errno is set).
    cdef Py_ssize_t fill(self, int fd, size_t size) noexcept
    # Moves what is held to `fd`: >0, IO_AGAIN, IO_ERROR.
    cdef Py_ssize_t drain(self, int fd) noexcept
    # Reads what is held to the end of `out`: 0, or -1 (errno says why).
    cdef int empty(self, tg_buffer *out) noexcept


# Bytes of bodies that went through this process's pipe.
cdef uint64_t passed

# Opens this process's pipe, unless it has one: at its start, so that it has the same descriptors from then on. Without
# it `pass_through` tries again.
cdef bint open_between() noexcept
# Moves up to `size` bytes from one plain stream's socket to another's, whose `out` is empty: what that socket does not
# take at once is in `out` then. >0 = how many, 0 = end of file, IO_AGAIN, IO_ERROR (the source's), PASS_NOT, PASS_LOST.
cdef Py_ssize_t pass_through(Stream source, Stream target, size_t size) noexcept
