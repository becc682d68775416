"""Deferred releases: see deferred_release.pxd."""

from libc.stdint cimport uint64_t
from lb.net.poller cimport NEVER, Poller, Source, Timed, monotonic_ns

cdef enum:
    LONGEST_NS = 1_000_000_000


cdef class DeferredRelease(Timed):

    cdef void give(self, uint64_t now) noexcept:
        pass

    cdef void release(self, uint64_t now) noexcept:
        if not self.released:
            self.released = True
            self.deadline = NEVER
            self.give(now)

    cdef void on_timer(self) noexcept:
        self.release(monotonic_ns())


cdef class DeferredReleases:

    def __init__(self, Poller poller not None):
        self.poller = poller
        self.waiting = []
        self.asked = 1

    cdef int add(self, DeferredRelease release) noexcept:
        # Those whose time was over before they were acknowledged are the first.
        while len(self.waiting) > self.unasked and (<DeferredRelease>self.waiting[0]).released:
            del self.waiting[0]
        try:
            self.waiting.append(release)
        except MemoryError:
            return -1
        self.unasked += 1
        self.poller.arm(release, self.poller.now + LONGEST_NS)
        return 0

    cdef void ask(self) noexcept:
        cdef Py_ssize_t i
        self.asked += 1
        for i in range(len(self.waiting) - self.unasked, len(self.waiting)):
            (<DeferredRelease>self.waiting[i]).number = self.asked
        self.unasked = 0

    cdef void acknowledge(self) noexcept:
        cdef Py_ssize_t count = 0
        self.acknowledged += 1
        while (count < len(self.waiting) - self.unasked
                and (<DeferredRelease>self.waiting[count]).number <= self.acknowledged):
            count += 1
        if count:
            self.settle(count)

    cdef void release_all(self) noexcept:
        self.unasked = 0
        self.settle(len(self.waiting))

    cdef void settle(self, Py_ssize_t count) noexcept:
        """The first `count`. Who is told of it may add others."""
        cdef list released = self.waiting[:count]
        cdef DeferredRelease release
        del self.waiting[:count]
        for release in released:
            release.release(self.poller.now)


cdef class DeferringChannel(Source):

    cdef int defer_release(self, DeferredRelease release) noexcept:
        return -1
