"""A piece of memory, as readv(2), writev(2) and sendmsg(2) take them."""


cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void *iov_base
        size_t iov_len
