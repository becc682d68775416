"""Bytes from one socket to another through a pipe: see splice.pxd."""

from libc.errno cimport EAGAIN, EINTR, EINVAL, EPIPE, errno
from libc.stdint cimport uint64_t
from lb.net.buffer cimport tg_buffer, tg_buffer_reserve, tg_buffer_tail
from lb.net.stream cimport IO_AGAIN, IO_ERROR, Stream

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
    ssize_t read(int fd, void *data, size_t size) nogil
    enum:
        SPLICE_F_MOVE
        SPLICE_F_NONBLOCK
        F_SETPIPE_SZ
        O_NONBLOCK
        O_CLOEXEC

cdef enum:
    PIPE_SIZE = 512 * 1024

cdef Pipe between = None              # this process's pipe for `pass_through`: empty whenever that returns


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

    cdef int empty(self, tg_buffer *out) noexcept:
        cdef ssize_t n
        while self.held:
            if tg_buffer_reserve(out, <size_t>self.held) < 0:
                return -1
            n = read(self.read_end, tg_buffer_tail(out), <size_t>self.held)
            if n > 0:
                out.end += <size_t>n
                self.held -= n
            elif n == 0 or errno != EINTR:
                return -1
        return 0


cdef bint open_between() noexcept:
    global between
    cdef Pipe pipe
    if between is None:
        pipe = Pipe.__new__(Pipe)
        if not pipe.open():
            return False
        between = pipe
    return True


cdef Py_ssize_t pass_through(Stream source, Stream target, size_t size) noexcept:
    global between, passed
    cdef Pipe pipe
    cdef Py_ssize_t n, m
    if not open_between():
        return PASS_NOT
    pipe = between
    n = pipe.fill(source.fd, size)
    if n <= 0:
        if n == IO_ERROR:
            source.error = errno
            if errno == EINVAL:
                return PASS_NOT               # a kind of socket that cannot be spliced
        return n
    while pipe.held:
        m = pipe.drain(target.fd)
        if m == IO_AGAIN and pipe.empty(&target.out) == 0:
            break
        if m <= 0:
            target.error = errno if m else EPIPE
            between = None                    # what it holds goes with it
            return PASS_LOST
    passed += <uint64_t>n
    return n
