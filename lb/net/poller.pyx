"""The readiness loop of a worker's compiled core: see poller.pxd for the contract."""

import logging

from cpython.object cimport PyTypeObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.errno cimport EINTR, errno
from libc.stdint cimport UINT64_MAX, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport strerror
from lb.net.ending cimport tg_end_by
from lb.net.stack cimport Stack
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec
from posix.unistd cimport close

cdef extern from "<sys/epoll.h>" nogil:
    enum:
        EPOLLIN
        EPOLLOUT
        EPOLLRDHUP
        EPOLLERR
        EPOLLHUP
        EPOLLET
        EPOLLEXCLUSIVE
        EPOLL_CTL_ADD
        EPOLL_CTL_DEL
        EPOLL_CTL_MOD
        EPOLL_CLOEXEC
    ctypedef union epoll_data_t:
        void *ptr
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int flags)
    int epoll_ctl(int epfd, int op, int fd, epoll_event *event)
    int epoll_wait(int epfd, epoll_event *events, int maxevents, int timeout)

log = logging.getLogger("tidegate.core")

NEVER = UINT64_MAX

cdef enum:
    BATCH = 256                       # events taken at once
    ROUNDS = 16                       # batches before uvloop gets its turn
    # Times that a source is flushed in one batch: a client whose requests are answered at once marks itself each time,
    # and would go on for as long as it sends. The rest waits for the others' turn.
    GENERATIONS = 4
    SLOTS = 1024                      # of the timer wheel: one revolution is 20 s
    SCRATCH = 256 * 1024

cdef uint32_t STREAM = <uint32_t>(EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET)


cdef uint64_t monotonic_ns() noexcept nogil:
    cdef timespec ts
    clock_gettime(CLOCK_MONOTONIC, &ts)   # cannot fail for this clock and a valid pointer
    return <uint64_t>ts.tv_sec * 1_000_000_000u + <uint64_t>ts.tv_nsec


cdef inline void unlink(tg_timer *node) noexcept nogil:
    node.previous.next = node.next
    node.next.previous = node.previous
    node.next = NULL
    node.previous = NULL


cdef class Timed:

    def __cinit__(self):
        self.timer.owner = <void *>self
        self.deadline = UINT64_MAX

    cdef void on_timer(self) noexcept:
        pass


cdef void end_timed(void *timed) noexcept:
    if (<Timed>timed).timer.next != NULL:
        unlink(&(<Timed>timed).timer)


tg_end_by(<PyTypeObject *>Timed, end_timed)


cdef class Source(Timed):

    def __cinit__(self):
        self.fd = -1

    def __dealloc__(self):
        if self.timer.next != NULL:
            unlink(&self.timer)

    cdef void on_ready(self, uint32_t events) noexcept:
        pass

    cdef void on_flush(self) noexcept:
        pass

    cdef void on_close(self) noexcept:
        pass


cdef class Poller:
    """A worker's epoll, its receive buffer and its timer wheel, driven by `loop` (uvloop or asyncio).

    Raises OSError when the kernel gives no epoll instance, MemoryError when there is no memory.
    """

    def __cinit__(self, loop):
        self.fd = -1
        self.scratch_size = SCRATCH
        self.scratch = <char *>malloc(SCRATCH)
        self.wheel = <tg_timer *>calloc(SLOTS, sizeof(tg_timer))
        if self.scratch == NULL or self.wheel == NULL:
            raise MemoryError
        cdef int i
        for i in range(SLOTS):
            self.wheel[i].next = &self.wheel[i]
            self.wheel[i].previous = &self.wheel[i]

    def __init__(self, loop: Any) -> None:
        self.loop = loop
        self.dirty = Stack()
        self.later = []
        self.graveyard = []
        self.batch = 1
        self.now = monotonic_ns()
        self.wheel_tick = self.now / TICK_NS
        self.fd = epoll_create1(EPOLL_CLOEXEC)
        if self.fd < 0:
            raise OSError(errno, strerror(errno).decode())
        self.flush_callback = self._flush_later
        loop.add_reader(self.fd, self._run)

    def __dealloc__(self):
        cdef int i
        if self.wheel != NULL:
            for i in range(SLOTS):
                while self.wheel[i].next != &self.wheel[i]:
                    unlink(self.wheel[i].next)
        free(self.wheel)
        free(self.scratch)
        if self.fd >= 0:
            close(self.fd)

    def close(self) -> None:
        """Stop watching; sources that are still registered stay open until they are dropped."""
        if self.fd < 0:
            return
        self.loop.remove_reader(self.fd)
        if self.tick_handle is not None:
            self.tick_handle.cancel()
            self.tick_handle = None
        close(self.fd)
        self.fd = -1

    cdef int add(self, Source source, int fd, bint level) except -1:
        self.register(source, fd, <uint32_t>(EPOLLIN | EPOLLEXCLUSIVE) if level else STREAM)
        source.level = level
        return 0

    cdef int add_input(self, Source source, int fd) except -1:
        return self.register(source, fd, <uint32_t>(EPOLLIN | EPOLLET))

    cdef int register(self, Source source, int fd, uint32_t mask) except -1:
        cdef epoll_event event
        event.events = mask
        event.data.ptr = <void *>source
        if epoll_ctl(self.fd, EPOLL_CTL_ADD, fd, &event) < 0:
            raise OSError(errno, strerror(errno).decode())
        self.adopt(source, fd)
        source.unwatched = False
        return 0

    cdef void adopt(self, Source source, int fd) noexcept:
        Py_INCREF(source)
        source.fd = fd
        source.poller = self
        source.since = self.batch
        source.level = False
        source.unwatched = True
        self.sources += 1

    cdef int observe(self, Source source) noexcept:
        cdef epoll_event event
        event.events = STREAM
        event.data.ptr = <void *>source
        if epoll_ctl(self.fd, EPOLL_CTL_ADD, source.fd, &event) < 0:
            return -1
        source.unwatched = False
        return 0

    def ignore(self, Source source not None):
        """No more events of `source` from the next batch on; its descriptor stays open, and is `remove`'s to close.
        Raises OSError."""
        cdef epoll_event event
        if epoll_ctl(self.fd, EPOLL_CTL_DEL, source.fd, &event) < 0:
            raise OSError(errno, strerror(errno).decode())

    cdef void remove(self, Source source) noexcept:
        cdef epoll_event event
        if source.fd < 0:
            return
        source.on_close()
        if source.level:
            # Other processes hold the same open file, so that closing alone would leave it registered here.
            epoll_ctl(self.fd, EPOLL_CTL_DEL, source.fd, &event)
        close(source.fd)
        source.fd = -1
        source.deadline = UINT64_MAX
        self.sources -= 1
        if self.running:
            self.graveyard.append(source)   # the rest of the batch may still point to it
        Py_DECREF(source)

    cdef int hand_over(self, Source source, Source target) noexcept:
        cdef epoll_event event
        event.events = STREAM
        event.data.ptr = <void *>target
        if epoll_ctl(self.fd, EPOLL_CTL_ADD if source.unwatched else EPOLL_CTL_MOD, source.fd, &event) < 0:
            return -1
        Py_INCREF(target)
        target.fd = source.fd
        target.poller = self
        target.since = self.batch
        target.level = False
        target.unwatched = False
        source.fd = -1
        source.deadline = UINT64_MAX
        if self.running:
            self.graveyard.append(source)   # the rest of the batch may still point to it
        Py_DECREF(source)
        return 0

    cdef int detach(self, Source source) noexcept:
        cdef epoll_event event
        cdef int fd = source.fd
        if fd < 0:
            return -1
        if not source.unwatched and epoll_ctl(self.fd, EPOLL_CTL_DEL, fd, &event) < 0:
            # It would go on telling of a source that may be gone by then; closing ends that, too.
            log.error("epoll_ctl: %s", strerror(errno).decode())
            close(fd)
            fd = -1
        source.fd = -1
        source.deadline = UINT64_MAX
        self.sources -= 1
        if self.running:
            self.graveyard.append(source)
        Py_DECREF(source)
        return fd

    cdef void watch(self, Source source, bint on) noexcept:
        cdef epoll_event event
        event.events = EPOLLIN | EPOLLEXCLUSIVE      # which EPOLL_CTL_MOD does not allow: delete and add
        event.data.ptr = <void *>source
        if source.fd >= 0 and epoll_ctl(self.fd, EPOLL_CTL_ADD if on else EPOLL_CTL_DEL, source.fd, &event) < 0:
            log.error("epoll_ctl: %s", strerror(errno).decode())

    cdef void mark(self, Source source) noexcept:
        if source.dirty:
            return
        source.dirty = True
        self.dirty.push(source)
        if not self.running and not self.flush_scheduled:
            self.flush_scheduled = True
            self.loop.call_soon(self.flush_callback)

    cdef void defer(self, Source source) noexcept:
        if source.deferred:
            return
        source.deferred = True
        self.later.append(source)
        if not self.flush_scheduled:
            self.flush_scheduled = True
            self.loop.call_soon(self.flush_callback)

    cdef void finish_batch(self) noexcept:
        cdef Py_ssize_t i = 0, generation_end = self.dirty.count
        cdef int generations = 1
        cdef Source source
        while i < self.dirty.count:          # on_flush may mark more
            if i == generation_end:
                generation_end = self.dirty.count
                generations += 1
            source = <Source>self.dirty.items[i]
            i += 1
            source.dirty = False
            if generations <= GENERATIONS:
                source.on_flush()
            else:
                self.defer(source)
        self.dirty.clear()
        if self.graveyard:
            self.graveyard.clear()

    cdef uint64_t clock(self) noexcept:
        return monotonic_ns()

    def _flush_later(self):
        self.flush_scheduled = False
        self.running = True
        self.now = self.clock()
        later, self.later = self.later, []
        for source in later:
            (<Source>source).deferred = False
            self.mark(<Source>source)
        self.finish_batch()
        self.running = False

    cdef void dispatch(self) noexcept:
        cdef epoll_event events[BATCH]
        cdef int count, i, _round
        cdef Source source
        for _round in range(ROUNDS):
            count = epoll_wait(self.fd, events, BATCH, 0)
            if count <= 0:
                if count < 0 and errno != EINTR:
                    log.error("epoll_wait: %s", strerror(errno).decode())
                return
            self.batch += 1
            self.running = True
            for i in range(count):
                source = <Source>events[i].data.ptr
                # Removed, or removed and registered anew, by an earlier event of this batch.
                if source.fd >= 0 and source.since != self.batch:
                    self.now = monotonic_ns()
                    source.on_ready(events[i].events)
            self.finish_batch()
            self.running = False

    def _run(self):
        self.dispatch()

    cdef void link(self, tg_timer *node, uint64_t tick) noexcept:
        if tick <= self.wheel_tick:
            tick = self.wheel_tick + 1
        cdef tg_timer *slot = &self.wheel[tick % SLOTS]
        node.tick = tick
        node.previous = slot.previous
        node.next = slot
        slot.previous.next = node
        slot.previous = node

    cdef void arm(self, Timed timed, uint64_t when) noexcept:
        cdef uint64_t tick
        timed.deadline = when
        if when == UINT64_MAX:
            return
        tick = when / TICK_NS + 1
        if timed.timer.next != NULL:
            if timed.timer.tick <= tick:
                return
            unlink(&timed.timer)
        self.link(&timed.timer, tick)
        if self.tick_handle is None:
            self.start_ticking()

    cdef void disarm(self, Timed timed) noexcept:
        timed.deadline = UINT64_MAX

    def start_ticking(self):
        if self.fd >= 0:
            self.tick_handle = self.loop.call_later(TICK_NS / 1e9, self._tick)

    def _tick(self):
        """Look at every timer that is due; go on ticking while any is linked."""
        cdef uint64_t target
        cdef tg_timer local
        cdef tg_timer *slot
        cdef tg_timer *node
        cdef Timed owner
        cdef bint left = False
        cdef int i
        self.now = self.clock()
        target = self.now / TICK_NS
        if target > self.wheel_tick + SLOTS:
            self.wheel_tick = target - SLOTS   # asleep for more than a revolution: one pass sees every slot
        self.running = True
        self.batch += 1
        while self.wheel_tick < target:
            self.wheel_tick += 1
            slot = &self.wheel[self.wheel_tick % SLOTS]
            if slot.next == slot:
                continue
            # Take the list off the slot first: a timer that is linked again into it waits for the next revolution.
            local.next = slot.next
            local.previous = slot.previous
            local.next.previous = &local
            local.previous.next = &local
            slot.next = slot
            slot.previous = slot
            while local.next != &local:
                node = local.next
                unlink(node)
                owner = <Timed>node.owner
                if owner.deadline == UINT64_MAX:
                    continue
                if owner.deadline <= self.now:
                    owner.deadline = UINT64_MAX
                    owner.on_timer()
                else:
                    self.link(node, owner.deadline / TICK_NS + 1)
        self.finish_batch()
        self.running = False
        for i in range(SLOTS):
            if self.wheel[i].next != &self.wheel[i]:
                left = True
                break
        self.tick_handle = None
        if left:
            self.start_ticking()
