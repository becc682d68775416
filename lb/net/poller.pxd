"""The readiness loop of a worker's compiled core.

One epoll instance holds every socket of the data path, edge-triggered and registered once at most; uvloop watches
only that epoll's descriptor. A batch of events is handled in compiled code from end to end: dispatch to
`Source.on_ready`, then one `on_flush` for every source marked dirty meanwhile, so that writes gather over the batch.
"""

from libc.stdint cimport uint32_t, uint64_t
from lb.net.stack cimport Stack


cdef struct tg_timer:
    tg_timer *previous
    tg_timer *next                    # NULL = not linked
    void *owner                       # the Timed this node is part of
    uint64_t tick                     # wheel tick at which the node is looked at next


cdef class Timed:
    """Anything with one deadline. Arming again with a later deadline is one store: the wheel looks again when it gets
    there.

    Deadlines are coarse: `on_timer` comes up to two ticks of TICK_NS late, never early.
    """
    # The wheel holds no reference; deallocation unlinks.
    cdef tg_timer timer
    cdef uint64_t deadline            # CLOCK_MONOTONIC ns; NEVER = disarmed

    cdef void on_timer(self) noexcept


cdef class Source(Timed):
    """A file descriptor in the poller (fd is -1 when it is not registered)."""
    cdef readonly int fd
    cdef readonly Poller poller
    cdef uint64_t since               # the poller's batch in which it was added
    cdef bint level
    cdef bint unwatched               # taken over by `adopt`, and no event is told of yet
    cdef bint dirty
    cdef bint deferred

    # Readiness changed: a mask of EPOLLIN, EPOLLOUT, EPOLLRDHUP, EPOLLHUP, EPOLLERR. Edge-triggered: whoever stops
    # short of EAGAIN must remember that there may be more.
    cdef void on_ready(self, uint32_t events) noexcept
    # Called once at the end of the batch in which the source was marked dirty.
    cdef void on_flush(self) noexcept
    # Called by `Poller.remove` while the descriptor is still open: the last chance to say goodbye.
    cdef void on_close(self) noexcept


cdef class Poller:
    cdef readonly int fd
    cdef readonly object loop
    # CLOCK_MONOTONIC ns, read once per event: all that comes of one read has the same time, and costs one look at the
    # clock, which takes longer than counting a request.
    cdef uint64_t now
    cdef char *scratch                # receive buffer shared by all sources; valid until the next receive
    cdef size_t scratch_size
    cdef uint64_t batch
    cdef bint running                 # inside a batch: flush and burial happen at its end
    cdef bint flush_scheduled
    cdef Stack dirty                  # marked sources, whose on_flush comes at the end of the batch
    cdef list later
    cdef list graveyard
    cdef readonly Py_ssize_t sources
    cdef tg_timer *wheel
    cdef uint64_t wheel_tick
    cdef object tick_handle
    cdef object flush_callback

    # Takes over `fd` (non-blocking): edge-triggered for input, output and peer shutdown. `level` = level-triggered
    # input only (listening sockets). Keeps a reference to `source` until `remove`. Raises OSError.
    cdef int add(self, Source source, int fd, bint level) except -1
    # Takes over `fd` and tells of nothing until `observe`, which then tells of all that there is: a connection that is
    # over before anybody has to wait for it needs no registration. Keeps a reference to `source` until `remove`.
    cdef void adopt(self, Source source, int fd) noexcept
    # 0, or -1: nothing has changed (errno).
    cdef int observe(self, Source source) noexcept
    # Unregisters and closes the descriptor; events of the current batch for it are dropped. Safe to call twice.
    cdef void remove(self, Source source) noexcept
    # `target` takes the descriptor of `source` over, which is then as if removed. 0, or -1: nothing has changed.
    cdef int hand_over(self, Source source, Source target) noexcept
    # Stop or go on watching a level-triggered source.
    cdef void watch(self, Source source, bint on) noexcept
    # on_flush will be called at the end of this batch (outside of a batch: in the loop's next round).
    cdef void mark(self, Source source) noexcept
    # As `mark`, but after the events of other sources had their turn: for who has more to do than one turn allows.
    cdef void defer(self, Source source) noexcept
    # Give `timed` the deadline `when` (monotonic ns). One store in the common case.
    cdef void arm(self, Timed timed, uint64_t when) noexcept
    cdef void disarm(self, Timed timed) noexcept
    # CLOCK_MONOTONIC, ns. A poller whose time is simulated has its own (bench.simulate).
    cdef uint64_t clock(self) noexcept
    cdef void dispatch(self) noexcept
    cdef void finish_batch(self) noexcept
    cdef void link(self, tg_timer *node, uint64_t tick) noexcept
    # Unregisters without closing: the descriptor, which is the caller's now, or -1 when it had to be closed.
    cdef int detach(self, Source source) noexcept
    # As `add`, edge-triggered for input (and errors) only: for datagrams, whose sender never waits for room. A socket
    # tells of room each time a datagram has left, which nobody would want to hear.
    cdef int add_input(self, Source source, int fd) except -1
    cdef int register(self, Source source, int fd, uint32_t mask) except -1


cdef enum:
    TICK_NS = 20_000_000
    READ_TURNS = 8                    # reads of one source in a row before the others get their turn
cdef uint64_t NEVER
cdef uint64_t monotonic_ns() noexcept nogil
