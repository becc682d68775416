"""Timers of the data path, armed from Python."""

from libc.stdint cimport uint64_t
from lb.net.timers cimport Alarms
from lb.net.poller cimport Poller, Timed, monotonic_ns


class AlarmProbe:
    """Alarms: `after(ns, call)` calls once that is over, unless what it gives is let go of before."""

    def __init__(self, Poller poller):
        self.alarms = Alarms(poller)
        (<Alarms>self.alarms).open()

    def after(self, delay, call):
        timed = ProbeAlarm(call)
        (<Alarms>self.alarms).arm(<Timed>timed, monotonic_ns() + <uint64_t>delay)
        return timed

    @property
    def rung(self):
        return self.alarms.rung

    def close(self):
        self.alarms.close()


cdef class ProbeAlarm(Timed):
    cdef object call

    def __init__(self, call):
        self.call = call

    cdef void on_timer(self) noexcept:
        self.call()
