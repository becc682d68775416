"""Deadlines to the millisecond, for the few things that cannot wait for the poller's coarse tick."""

from libc.stdint cimport uint32_t, uint64_t
from lb.net.poller cimport Poller, Source, Timed, tg_timer


cdef class Timers(Source):
    """One timerfd for all of them. A Timed that is armed here must not be armed by a poller as well: it has one node.

    Nothing is held: whoever goes, goes off the list. Answers that come in time cost a timer nothing but its place.
    """
    cdef tg_timer *wheel
    cdef uint64_t turned              # the tick up to which slots were looked at
    cdef uint64_t rings_at            # tick for which the timerfd is set; NEVER = it is not
    cdef readonly uint64_t rung

    # Make the timerfd, where there is none yet. Raises OSError.
    cdef int open(self) except -1
    # `timed.on_timer` comes once `when` (monotonic ns) is over, up to TIMER_NS later.
    cdef void arm(self, Timed timed, uint64_t when) noexcept
    cdef void place(self, tg_timer *node, uint64_t tick) noexcept
    cdef void set(self, uint64_t tick) noexcept
    # Calls those whose time has come at `now`, and sets the timerfd for the next.
    cdef void turn(self, uint64_t now) noexcept


cdef enum:
    TIMER_NS = 1_000_000
