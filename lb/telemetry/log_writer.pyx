"""See log_writer.pxd."""

from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint64_t
from lb.net.buffer cimport (
    tg_buffer_clear, tg_buffer_consume, tg_buffer_free, tg_buffer_head, tg_buffer_size,
)

cdef extern from *:
    """
    #include <errno.h>
    #include <limits.h>
    #include <poll.h>
    #include <string.h>
    #include <sys/socket.h>
    #include <sys/stat.h>
    #include <unistd.h>

    /* 1: it takes something, or would say why not; 0: not within wait_ms; -1: see errno. */
    static int tg_log_wait(int fd, int wait_ms) {
        struct pollfd one = {fd, POLLOUT, 0};
        return poll(&one, 1, wait_ms);
    }

    /* As write(2) of what fd takes at once: EAGAIN when that is nothing. The flag O_NONBLOCK may belong to others, who
       have the same description. A pipe gets whole lines of up to PIPE_BUF bytes, between which no others' come. */
    static ssize_t tg_log_write(int fd, const char *data, size_t n) {
        struct stat status;
        if (fstat(fd, &status))
            return -1;
        if (S_ISREG(status.st_mode))
            return write(fd, data, n);
        if (S_ISSOCK(status.st_mode))
            return send(fd, data, n, MSG_DONTWAIT | MSG_NOSIGNAL);
        int ready = tg_log_wait(fd, 0);
        if (ready < 1) {
            if (ready == 0)
                errno = EAGAIN;
            return -1;
        }
        if (n > PIPE_BUF) {
            const char *end = (const char *)memrchr(data, '\\n', PIPE_BUF);
            n = end ? (size_t)(end - data) + 1 : PIPE_BUF;
        }
        return write(fd, data, n);
    }

    static size_t tg_log_lines(const char *data, size_t n) {
        size_t lines = 0;
        for (size_t i = 0; i < n; i++)
            lines += data[i] == '\\n';
        return lines;
    }
    """
    int tg_log_wait(int fd, int wait_ms) nogil
    ssize_t tg_log_write(int fd, const char *data, size_t n) nogil
    size_t tg_log_lines(const char *data, size_t n) nogil


cdef class LogWriter:
    def __init__(self, int fd):
        self.fd = fd

    def __dealloc__(self):
        tg_buffer_free(&self.text)

    cdef int flush(self, int wait_ms) noexcept nogil:
        cdef ssize_t n
        while tg_buffer_size(&self.text):
            n = tg_log_write(self.fd, tg_buffer_head(&self.text), tg_buffer_size(&self.text))
            if n >= 0:
                tg_buffer_consume(&self.text, <size_t>n)
            elif errno == EAGAIN:
                if tg_log_wait(self.fd, wait_ms) == 0:
                    return 0
            elif errno != EINTR:
                self.error = errno
                self.errors += 1          # a full disk, a closed pipe: nothing to be gained by waiting
                return -1
        return 1

    cdef uint64_t discard(self) noexcept nogil:
        cdef uint64_t lines = 0
        if tg_buffer_size(&self.text):
            lines = tg_log_lines(tg_buffer_head(&self.text), tg_buffer_size(&self.text))
        tg_buffer_clear(&self.text)
        return lines
