"""Time that is simulated: see _clock.pxd.

The poller, its timer wheel, the fine timers and the wakeups are those of the daemon. What they ask of the kernel (the
clock, a call later, a timerfd, an eventfd) they ask of an agenda here.
"""

from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport UINT64_MAX, uint64_t
from libc.stdlib cimport free, realloc
from lb.net.poller cimport Poller, Source, TICK_NS
from lb.net.stack cimport Stack
from lb.net.timers cimport TIMER_NS, Timers
from lb.net.wakeups cimport Wakeups

cdef enum:
    FIRST_ROOM = 1024


cdef inline bint before(const tg_happening *a, const tg_happening *b) noexcept nogil:
    return a.at < b.at or (a.at == b.at and a.number < b.number)


cdef class Agenda:
    """Happenings in the order of their times, from `now` (ns) on."""

    def __init__(self, uint64_t now):
        self.now = now

    def __dealloc__(self):
        self.clear()
        free(self.heap)

    cdef void clear(self) noexcept:
        while self.count:                     # what goes may end others, but asks for nothing
            self.count -= 1
            Py_DECREF(<object>self.heap[self.count].who)

    cdef int add(self, uint64_t at, int what, object who) except -1:
        cdef size_t place, parent
        cdef tg_happening one
        cdef void *grown
        if self.count == self.room:
            grown = realloc(self.heap, max(2 * self.room, <size_t>FIRST_ROOM) * sizeof(tg_happening))
            if grown == NULL:
                raise MemoryError
            self.heap = <tg_happening *>grown
            self.room = max(2 * self.room, <size_t>FIRST_ROOM)
        one.at = max(at, self.now)
        one.number = self.numbers
        one.what = what
        one.who = <void *>who
        Py_INCREF(who)
        self.numbers += 1
        place = self.count
        self.count += 1
        while place:
            parent = (place - 1) // 2
            if not before(&one, &self.heap[parent]):
                break
            self.heap[place] = self.heap[parent]
            place = parent
        self.heap[place] = one
        return 0

    cdef object take(self, uint64_t end, int *what):
        cdef tg_happening last
        cdef size_t place = 0, child
        cdef object who
        if self.count == 0 or self.heap[0].at >= end:
            return None
        self.now = self.heap[0].at
        what[0] = self.heap[0].what
        who = <object>self.heap[0].who
        Py_DECREF(who)                        # `add` has taken it
        self.count -= 1
        last = self.heap[self.count]
        while True:
            child = 2 * place + 1
            if child >= self.count:
                break
            if child + 1 < self.count and before(&self.heap[child + 1], &self.heap[child]):
                child += 1
            if not before(&self.heap[child], &last):
                break
            self.heap[place] = self.heap[child]
            place = child
        self.heap[place] = last
        return who


cdef class Callback:

    def __init__(self, function):
        self.function = function

    def cancel(self):
        """It is not called any more."""
        self.function = None


cdef class SimulatedLoop:
    """What a poller asks of an asyncio loop."""

    def __init__(self, Agenda agenda not None):
        self.agenda = agenda

    def call_soon(self, function):
        """At this moment, behind what was asked for before."""
        return self.call_later(0.0, function)

    def call_later(self, double seconds, function):
        """`seconds` from now."""
        callback = Callback(function)
        self.agenda.add(self.agenda.now + <uint64_t>(seconds * 1e9), CALL_DUE, callback)
        return callback


cdef class SimulatedPoller(Poller):
    """A worker's poller without an epoll instance."""

    def __init__(self, Agenda agenda not None):
        self.agenda = agenda
        self.loop = SimulatedLoop(agenda)
        self.dirty = Stack()
        self.later = []
        self.graveyard = []
        self.batch = 1
        self.now = agenda.now
        self.wheel_tick = self.now // TICK_NS
        self.flush_callback = self._flush_later

    def start_ticking(self):
        self.tick_handle = self.loop.call_later(TICK_NS / 1e9, self._tick)

    cdef uint64_t clock(self) noexcept:
        return self.agenda.now

    cdef void begin_batch(self) noexcept:
        self.now = self.agenda.now
        self.batch += 1
        self.running = True

    cdef void end_batch(self) noexcept:
        self.finish_batch()
        self.running = False


cdef class SimulatedTimers(Timers):
    """Fine timers without a timerfd."""

    def __init__(self, SimulatedPoller poller not None):
        self.poller = poller
        self.agenda = poller.agenda
        self.turned = self.agenda.now // TIMER_NS

    cdef int open(self) except -1:
        return 0

    cdef void set(self, uint64_t tick) noexcept:
        self.rings_at = tick
        self.agenda.add(tick * TIMER_NS, TIMERS_DUE, self)

    cdef void ring_now(self) noexcept:
        cdef SimulatedPoller poller = <SimulatedPoller>self.poller
        if self.rings_at == UINT64_MAX or self.agenda.now < self.rings_at * TIMER_NS:
            return                            # another moment was asked for since
        self.rings_at = UINT64_MAX
        poller.begin_batch()
        self.turn(self.agenda.now)
        poller.end_batch()


cdef class SimulatedWakeups(Wakeups):
    """Wakeups without eventfds, `delay` ns each; `all` are those of the daemon's workers, to be filled in."""

    def __init__(self, SimulatedPoller poller not None, int own, list all not None, uint64_t delay):
        Wakeups.__init__(self, poller, own, ())
        self.poller = poller
        self.agenda = poller.agenda
        self.all = all
        self.delay = delay

    cdef void ring(self, int worker) noexcept:
        cdef SimulatedWakeups other
        if not 0 <= worker < len(self.all) or worker == self.own:
            return
        other = <SimulatedWakeups>self.all[worker]
        if not other.rung:
            other.rung = True
            self.agenda.add(self.agenda.now + self.delay, WAKEUP_COMES, other)

    cdef void come(self) noexcept:
        cdef SimulatedPoller poller = <SimulatedPoller>self.poller
        self.rung = False
        poller.begin_batch()
        for source in self.wakes:
            poller.mark(<Source>source)
        poller.end_batch()
