"""Attempts that end when their endpoint is marked down, or when a better one is marked up.

A worker looks every fifth of a second, and only while it has such attempts; what changed between two looks counts, so
that attempts which an endpoint got although it was down stay with it.
"""

from lb.endpoints.set cimport EndpointSet
from lb.net.poller cimport Poller, Timed


cdef class PoolMarks(Timed):
    """The attempts of one form of a pool; a reload that changes the pool leaves them with the form they began under.
    Each has the method `marked()`, which ends it."""
    cdef Poller poller
    cdef EndpointSet endpoints
    cdef tuple levels                 # per endpoint, 0 = first; () = all are of one level
    cdef bint ends_down               # attempts end when their endpoint is marked down
    cdef bint ends_backups            # those of other levels end when an endpoint of the first one is marked up
    cdef list attempts                # per endpoint: a set
    cdef list up                      # per endpoint: whether it was at the last look
    cdef Py_ssize_t count
    cdef bint looking                 # the next look is due

    # An attempt has taken a slot at an endpoint.
    cdef void enter(self, int endpoint, object attempt) noexcept
    # It has given that back; to be called once for each `enter`.
    cdef void leave(self, int endpoint, object attempt) noexcept
    cdef list look(self)
