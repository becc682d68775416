"""Deadlines to the millisecond: see timers.pxd.

A wheel as the poller's, with a finer tick, that does not turn on its own: a timerfd rings at the first slot that has
anybody in it, and is set again for the next such slot. So it rings at most once a tick, and not at all without timers.
"""

import logging

from libc.errno cimport EINTR, errno
from libc.stdint cimport UINT64_MAX, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset, strerror
from posix.time cimport CLOCK_MONOTONIC, itimerspec
from posix.unistd cimport close, read
from lb.net.poller cimport Poller, Timed, tg_timer

cdef extern from "<sys/timerfd.h>" nogil:
    enum:
        TFD_NONBLOCK
        TFD_CLOEXEC
        TFD_TIMER_ABSTIME
    int timerfd_create(int clock, int flags)
    int timerfd_settime(int fd, int flags, const itimerspec *new, itimerspec *old)

log = logging.getLogger("tidegate.core")

cdef enum:
    SLOTS = 1024                      # one revolution is a second
    SECOND_NS = 1_000_000_000


cdef inline void unlink(tg_timer *node) noexcept nogil:
    node.previous.next = node.next
    node.next.previous = node.previous
    node.next = NULL
    node.previous = NULL


cdef class Timers(Source):
    """The timers of a worker, rung by `poller`. Raises MemoryError."""

    def __cinit__(self, Poller poller not None):
        cdef int i
        self.wheel = <tg_timer *>calloc(SLOTS, sizeof(tg_timer))
        if self.wheel == NULL:
            raise MemoryError
        for i in range(SLOTS):
            self.wheel[i].next = &self.wheel[i]
            self.wheel[i].previous = &self.wheel[i]
        self.rings_at = UINT64_MAX

    def __init__(self, Poller poller not None):
        self.poller = poller

    def __dealloc__(self):
        cdef int i
        if self.wheel == NULL:
            return
        for i in range(SLOTS):
            while self.wheel[i].next != &self.wheel[i]:
                unlink(self.wheel[i].next)
        free(self.wheel)

    cdef int open(self) except -1:
        cdef int fd
        if self.fd >= 0:
            return 0
        fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC)
        if fd < 0:
            raise OSError(errno, strerror(errno).decode())
        try:
            self.poller.add(self, fd, True)
        except OSError:
            close(fd)
            raise
        self.turned = self.poller.clock() // TIMER_NS
        return 0

    def close(self) -> None:
        """No timer rings any more."""
        self.poller.remove(self)

    cdef void arm(self, Timed timed, uint64_t when) noexcept:
        timed.deadline = when
        if timed.timer.next != NULL:
            unlink(&timed.timer)
        if when != UINT64_MAX:
            self.place(&timed.timer, when // TIMER_NS + 1)

    cdef void place(self, tg_timer *node, uint64_t tick) noexcept:
        cdef tg_timer *slot
        if tick <= self.turned:
            tick = self.turned + 1
        slot = &self.wheel[tick % SLOTS]
        node.tick = tick
        node.previous = slot.previous
        node.next = slot
        slot.previous.next = node
        slot.previous = node
        if tick < self.rings_at:
            self.set(tick)

    cdef void set(self, uint64_t tick) noexcept:
        cdef itimerspec when
        memset(&when, 0, sizeof(when))
        when.it_value.tv_sec = tick * TIMER_NS // SECOND_NS
        when.it_value.tv_nsec = tick * TIMER_NS % SECOND_NS
        self.rings_at = tick
        if self.fd >= 0 and timerfd_settime(self.fd, TFD_TIMER_ABSTIME, &when, NULL) < 0:
            log.error("timerfd_settime: %s", strerror(errno).decode())

    cdef void on_ready(self, uint32_t events) noexcept:
        cdef uint64_t rung
        while read(self.fd, &rung, sizeof(rung)) < 0 and errno == EINTR:
            pass
        self.turn(self.poller.clock())

    cdef void turn(self, uint64_t now) noexcept:
        cdef uint64_t target
        cdef tg_timer due
        cdef tg_timer *slot
        cdef tg_timer *node
        cdef Timed owner
        cdef int i
        self.rung += 1
        self.rings_at = UINT64_MAX
        target = now // TIMER_NS
        if target > self.turned + SLOTS:
            self.turned = target - SLOTS          # one pass sees every slot
        while self.turned < target:
            self.turned += 1
            slot = &self.wheel[self.turned % SLOTS]
            if slot.next == slot:
                continue
            # Off the slot first: one that is placed again meanwhile waits for its time.
            due.next = slot.next
            due.previous = slot.previous
            due.next.previous = &due
            due.previous.next = &due
            slot.next = slot
            slot.previous = slot
            while due.next != &due:
                node = due.next
                unlink(node)
                owner = <Timed>node.owner
                if owner.deadline == UINT64_MAX:
                    continue
                if owner.deadline <= now:
                    owner.deadline = UINT64_MAX
                    owner.on_timer()
                else:
                    self.place(node, owner.deadline // TIMER_NS + 1)
        for i in range(1, SLOTS + 1):
            slot = &self.wheel[(self.turned + i) % SLOTS]
            if slot.next != slot:
                if self.turned + i < self.rings_at:
                    self.set(self.turned + i)
                break
