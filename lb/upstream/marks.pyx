"""Attempts that end when their endpoint is marked: see marks.pxd."""

from libc.stdint cimport uint64_t
from lb.endpoints.set cimport EndpointSet
from lb.net.poller cimport Poller
from lb.shared.atomics cimport tg_load32
from lb.shared.segment cimport TG_HEALTH_DOWN, tg_endpoint
from lb.shared.segment_layout cimport TG_ADMIN_MAINTENANCE

cdef enum:
    LOOK_NS = 200_000_000


cdef bint is_up(EndpointSet endpoints, int endpoint) noexcept:
    cdef tg_endpoint *record = endpoints.records[endpoint]
    return tg_load32(&record.health) != TG_HEALTH_DOWN and tg_load32(&record.admin) != TG_ADMIN_MAINTENANCE


cdef class PoolMarks(Timed):

    def __init__(self, Poller poller not None, EndpointSet endpoints not None, tuple levels not None, bint ends_down,
                 bint ends_backups):
        self.poller = poller
        self.endpoints = endpoints
        self.levels = levels
        self.ends_down = ends_down
        self.ends_backups = ends_backups
        self.attempts = [set() for _ in range(endpoints.size)]
        self.up = [True] * endpoints.size

    cdef void enter(self, int endpoint, object attempt) noexcept:
        cdef int i
        if not self.looking:
            self.looking = True
            for i in range(self.endpoints.size):
                self.up[i] = is_up(self.endpoints, i)
            self.poller.arm(self, self.poller.now + <uint64_t>LOOK_NS)
        (<set>self.attempts[endpoint]).add(attempt)
        self.count += 1

    cdef void leave(self, int endpoint, object attempt) noexcept:
        (<set>self.attempts[endpoint]).discard(attempt)
        self.count -= 1

    cdef list look(self):
        """The endpoints whose attempts end."""
        cdef list ended = []
        cdef int i, other
        cdef bint up
        for i in range(self.endpoints.size):
            up = is_up(self.endpoints, i)
            if up == self.up[i]:
                continue
            self.up[i] = up
            if not up and self.ends_down:
                ended.append(i)
            elif up and self.ends_backups and self.levels and self.levels[i] == 0:
                for other in range(self.endpoints.size):
                    if self.levels[other]:
                        ended.append(other)
        return ended

    cdef void on_timer(self) noexcept:
        for endpoint in self.look():
            for attempt in list(self.attempts[endpoint]):
                if attempt in self.attempts[endpoint]:    # the end of one may be that of another
                    attempt.marked()
        self.looking = self.count > 0
        if self.looking:
            self.poller.arm(self, self.poller.now + <uint64_t>LOOK_NS)
