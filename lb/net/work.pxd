"""Work that is too long for one turn of the loop."""

from libc.stdint cimport uint64_t
from lb.net.poller cimport Poller, Source


cdef class Work:
    """Something that is done in steps."""

    # Goes on until it is done, and then returns True, or until the clock (monotonic ns) says so. A step between two
    # looks at the clock takes a fraction of a millisecond, whatever a peer has sent.
    cdef bint go_on(self, uint64_t until) noexcept


cdef class WorkQueue(Source):
    """The works of a worker: each turn of the loop gives them a millisecond in all, and each in turn a part of it."""
    cdef object works                 # deque of Work

    # Does the beginning of `work` now, and the rest, if there is any, in the next turns.
    cdef void begin(self, Work work) noexcept


# The queue of a poller that is driven by a loop.
cdef WorkQueue new_work_queue(Poller poller)
