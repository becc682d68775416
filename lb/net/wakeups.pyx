"""Wakeups between workers: see wakeups.pxd."""

import logging
import os

from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport strerror
from posix.unistd cimport read, write
from lb.net.poller cimport Poller

log = logging.getLogger("tidegate.core")


cdef class Wakeups(Source):
    """The wakeups of all workers, of which `own` is this one's. `fds` are non-blocking eventfds, one for each worker,
    and stay the caller's; without any there is nobody to ring for.

    Raises OSError when ours cannot be watched.
    """

    def __init__(self, Poller poller not None, int own, fds):
        cdef int i
        self.wakes = set()
        self.own = own
        self.others = <int *>calloc(len(fds) + 1, sizeof(int))
        if self.others == NULL:
            raise MemoryError
        for i, fd in enumerate(fds):
            self.others[i] = fd
        self.count = len(fds)
        if fds:
            copy = os.dup(fds[own])           # the poller closes what is registered with it
            try:
                poller.add_input(self, copy)
            except OSError:
                os.close(copy)
                raise

    def __dealloc__(self):
        free(self.others)

    cdef void ring(self, int worker) noexcept:
        cdef uint64_t one = 1
        cdef ssize_t n
        if not 0 <= worker < self.count or worker == self.own:
            return
        while True:
            n = write(self.others[worker], &one, sizeof(one))
            if n >= 0 or errno == EAGAIN:     # full: it rings already
                return
            if errno != EINTR:
                log.error("the wakeup of worker %d does not ring: %s", worker, strerror(errno).decode())
                return

    cdef void on_ready(self, uint32_t events) noexcept:
        cdef uint64_t rung
        while read(self.fd, &rung, sizeof(rung)) < 0 and errno == EINTR:
            pass
        for source in self.wakes:
            self.poller.mark(<Source>source)

    def close(self):
        """Stop listening."""
        self.wakes = set()
        if self.fd >= 0:
            self.poller.remove(self)
