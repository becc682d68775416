"""Timers of the data path, armed from Python."""

from libc.stdint cimport uint64_t
from lb.net.timers cimport Timers
from lb.net.poller cimport Poller, Timed, monotonic_ns


class TimersProbe:
    """Timers: `after(ns, call)` calls once that is over, unless what it gives is let go of before."""

    def __init__(self, Poller poller):
        self.timers = Timers(poller)
        (<Timers>self.timers).open()

    def after(self, delay, call):
        timed = ProbeTimer(call)
        (<Timers>self.timers).arm(<Timed>timed, monotonic_ns() + <uint64_t>delay)
        return timed

    @property
    def rung(self):
        return self.timers.rung

    def close(self):
        self.timers.close()


cdef class ProbeTimer(Timed):
    cdef object call

    def __init__(self, call):
        self.call = call

    cdef void on_timer(self) noexcept:
        self.call()
