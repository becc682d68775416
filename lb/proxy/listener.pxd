"""A listening socket in one worker, and what its plan says of the connections it accepts."""

from libc.stdint cimport uint64_t
from lb.core.http1 cimport Scan
from lb.core.http2 cimport h2_options
from lb.core.poller cimport Poller, Source
from lb.core.segment cimport Segment
from lb.telemetry.accesslog cimport AccessLog


cdef enum:
    FORWARDED_OFF = 0
    FORWARDED_APPEND = 1
    FORWARDED_REPLACE = 2
    FORWARDED_PRESERVE = 3


cdef struct Http2Limits:
    bint enabled
    h2_options options
    uint64_t max_age                  # ns; 0 = none
    uint64_t control_rate             # per second
    uint64_t reset_rate


cdef class Listener(Source):
    cdef readonly str name
    cdef readonly bint tcp
    cdef object table                 # RouteTable, or the Pool of a tcp listener
    cdef object factory               # makes the connection: factory.accepted(listener, fd)
    cdef AccessLog access
    cdef object connections           # the worker's set of all client connections
    cdef uint64_t *series
    cdef Segment segment
    cdef unsigned int series_index
    cdef int skips                    # accepts left to less loaded workers in a row
    cdef readonly uint64_t header_timeout
    cdef readonly uint64_t body_timeout
    cdef readonly uint64_t idle_timeout
    cdef readonly uint64_t send_timeout
    cdef readonly size_t max_header_bytes
    cdef readonly int max_headers
    cdef readonly Py_ssize_t max_connections
    cdef readonly int forwarded
    cdef readonly size_t retry_buffer
    cdef Http2Limits http2
    cdef tuple upgrades               # protocols that requests may change to, in lower case
    cdef readonly uint64_t upgrade_idle_timeout
    cdef Py_ssize_t open              # connections accepted here and not closed yet
    cdef bint paused
    cdef readonly bint draining

    # Whether the protocol that a request asks to change to is one of `upgrades`.
    cdef bint may_upgrade(self, Scan *scan) noexcept
    cdef void accept_all(self) noexcept
    cdef bint crowded(self) noexcept
    cdef void stop(self) noexcept
    cdef void resume(self) noexcept
    cdef void closed_one(self) noexcept


cdef class Acceptor:
    """Makes connections of a protocol: subclassed by connection.pyx and tunnel.pyx."""
    cdef void accepted(self, Listener listener, int fd, const char *ip, int ip_length, int port, bint unix) noexcept
