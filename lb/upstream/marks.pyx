"""Sessions that end when their endpoint is marked: see marks.pxd."""

from lb.net.poller cimport Poller
from lb.shared.atomics cimport tg_load32
from lb.shared.segment cimport TG_HEALTH_DOWN, tg_endpoint
from lb.shared.segment_layout cimport TG_ADMIN_MAINTENANCE
from lb.upstream.pool cimport Pool

cdef enum:
    LOOK_NS = 200_000_000


cdef bint is_up(Pool pool, int endpoint) noexcept:
    cdef tg_endpoint *record = pool.endpoints.records[endpoint]
    return tg_load32(&record.health) != TG_HEALTH_DOWN and tg_load32(&record.admin) != TG_ADMIN_MAINTENANCE


cdef class PoolMarks:

    def __init__(self, Pool pool not None):
        self.pool = pool
        self.sessions = [set() for _ in pool.channels]
        self.up = [is_up(pool, i) for i in range(len(pool.channels))]

    cdef list look(self):
        """Sessions whose end has come."""
        cdef list ended = []
        cdef Pool pool = self.pool
        cdef int i, other
        cdef bint up
        for i in range(len(self.up)):
            up = is_up(pool, i)
            if up == self.up[i]:
                continue
            self.up[i] = up
            if not up and pool.ends_down:
                ended += self.sessions[i]
            elif up and pool.ends_backups and pool.levels and pool.levels[i] == 0:
                for other in range(len(self.up)):
                    if pool.levels[other]:
                        ended += self.sessions[other]
        return ended


cdef class Marks(Source):

    def __init__(self, Poller poller not None):
        self.poller = poller
        self.pools = {}

    cdef void enter(self, Pool pool, int endpoint, object session) noexcept:
        cdef PoolMarks marks = <PoolMarks>self.pools.get(pool)
        if marks is None:
            if not self.pools:
                self.poller.arm(self, self.poller.now + LOOK_NS)
            marks = PoolMarks(pool)
            self.pools[pool] = marks
        (<set>marks.sessions[endpoint]).add(session)
        marks.count += 1

    cdef void leave(self, Pool pool, int endpoint, object session) noexcept:
        cdef PoolMarks marks = <PoolMarks>self.pools[pool]
        (<set>marks.sessions[endpoint]).discard(session)
        marks.count -= 1

    cdef void on_timer(self) noexcept:
        cdef PoolMarks marks
        for marks in list(self.pools.values()):
            for session in marks.look():
                session.marked()
            if not marks.count:
                del self.pools[marks.pool]
        if self.pools:
            self.poller.arm(self, self.poller.now + LOOK_NS)
