"""Sessions that end when their endpoint is marked down, or when a better one is marked up.

A worker looks every fifth of a second, and only while it has such sessions; what changed between two looks counts, so
that sessions which an endpoint got although it was down stay with it.
"""

from lb.net.poller cimport Source
from lb.upstream.pool cimport Pool


cdef class PoolMarks:
    """The sessions of one form of a pool; a reload that changes the pool leaves them with the form they began under."""
    cdef Pool pool
    cdef list sessions                # per endpoint: a set
    cdef list up                      # per endpoint: whether it was at the last look
    cdef Py_ssize_t count

    cdef list look(self)


cdef class Marks(Source):
    """All such sessions of a worker. Each has the method `marked()`, which ends it."""
    cdef dict pools                   # Pool -> PoolMarks

    # A session has begun at an endpoint of a pool that ends sessions.
    cdef void enter(self, Pool pool, int endpoint, object session) noexcept
    # It is over; to be called once for each `enter`.
    cdef void leave(self, Pool pool, int endpoint, object session) noexcept
