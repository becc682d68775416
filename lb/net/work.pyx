"""Work that is too long for one turn of the loop: see work.pxd."""

from collections import deque

from libc.stdint cimport uint64_t
from lb.net.poller cimport Poller, Source, monotonic_ns

cdef enum:
    TURN_NS = 1_000_000               # of all works in a turn of the loop
    SHARE_NS = 250_000                # of one, before the next one goes on


cdef class Work:
    cdef bint go_on(self, uint64_t until) noexcept:
        return True


cdef class WorkQueue(Source):
    cdef void begin(self, Work work) noexcept:
        if not work.go_on(monotonic_ns() + SHARE_NS):
            self.works.append(work)
            self.poller.defer(self)

    cdef void on_flush(self) noexcept:
        cdef uint64_t now = monotonic_ns()
        cdef uint64_t end = now + TURN_NS
        cdef Work work
        while self.works and now < end:
            work = <Work>self.works.popleft()
            if not work.go_on(min(end, now + SHARE_NS)):
                self.works.append(work)
            now = monotonic_ns()
        if self.works:
            self.poller.defer(self)


cdef WorkQueue new_work_queue(Poller poller):
    cdef WorkQueue queue = WorkQueue()
    queue.poller = poller
    queue.works = deque()
    return queue
