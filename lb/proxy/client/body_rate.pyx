"""Least speed of a request's body, from Python: see body_rate.pxd. For tests."""

from libc.stdint cimport uint64_t


cdef class Pace:
    """`rate` bytes a second over each `window` ns."""
    cdef tg_pace pace
    cdef uint64_t quota
    cdef uint64_t window

    def __init__(self, uint64_t rate, uint64_t window):
        self.quota = pace_quota(rate, window)
        self.window = window

    def start(self, uint64_t now):
        pace_start(&self.pace, now)

    def advance(self, uint64_t now, uint64_t came):
        """The deadline after `came` bytes came at `now`; 2**64 - 1 = never."""
        return pace_advance(&self.pace, now, came, self.quota, self.window)
