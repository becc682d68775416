"""Bytes from one socket to another through a pipe, without passing user space (splice(2))."""


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
