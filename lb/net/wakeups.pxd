"""Wakeups between workers: an eventfd each, by which another worker wakes it to look at what both share."""

from lb.net.poller cimport Source


cdef class Wakeups(Source):
    cdef int *others                  # each worker's descriptor, our own too
    cdef int count
    cdef int own
    cdef readonly set wakes           # the sources whose on_flush is called when our wakeup comes

    cdef void ring(self, int worker) noexcept
