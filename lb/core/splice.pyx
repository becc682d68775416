"""Bytes from one socket to another through a pipe: see splice.pxd."""

from libc.errno cimport EAGAIN, EINTR, errno
from lb.core.stream cimport IO_AGAIN, IO_ERROR

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <fcntl.h>
    #include <unistd.h>
    extern int pipe2(int ends[2], int flags);
    extern ssize_t splice(int in, long *in_offset, int out, long *out_offset, size_t size, unsigned flags);
    #ifndef SPLICE_F_MOVE
    #define SPLICE_F_MOVE 1
    #define SPLICE_F_NONBLOCK 2
    #endif
    #ifndef F_SETPIPE_SZ
    #define F_SETPIPE_SZ 1031
    #endif
    """
    int pipe2(int *ends, int flags) nogil
    ssize_t splice(int source, long *source_offset, int target, long *target_offset, size_t size, unsigned flags) nogil
    int fcntl(int fd, int command, int value) nogil
    int close(int fd) nogil
    enum:
        SPLICE_F_MOVE
        SPLICE_F_NONBLOCK
        F_SETPIPE_SZ
        O_NONBLOCK
        O_CLOEXEC

cdef enum:
    PIPE_SIZE = 512 * 1024


cdef class Pipe:

    def __cinit__(self):
        self.read_end = -1
        self.write_end = -1

    def __dealloc__(self):
        if self.read_end >= 0:
            close(self.read_end)
            close(self.write_end)

    cdef bint open(self) noexcept:
        cdef int ends[2]
        if pipe2(ends, O_NONBLOCK | O_CLOEXEC) < 0:
            return False
        self.read_end = ends[0]
        self.write_end = ends[1]
        # Refused to the unprivileged past their quota: the smaller default works too.
        fcntl(self.write_end, F_SETPIPE_SZ, PIPE_SIZE)
        return True

    cdef Py_ssize_t fill(self, int fd, size_t size) noexcept:
        cdef ssize_t n
        while True:
            n = splice(fd, NULL, self.write_end, NULL, size, SPLICE_F_MOVE | SPLICE_F_NONBLOCK)
            if n >= 0:
                self.held += n
                return n
            if errno == EINTR:
                continue
            return IO_AGAIN if errno == EAGAIN else IO_ERROR

    cdef Py_ssize_t drain(self, int fd) noexcept:
        cdef ssize_t n
        while True:
            n = splice(self.read_end, NULL, fd, NULL, <size_t>self.held, SPLICE_F_MOVE | SPLICE_F_NONBLOCK)
            if n >= 0:
                self.held -= n
                return n
            if errno == EINTR:
                continue
            return IO_AGAIN if errno == EAGAIN else IO_ERROR
