"""The record of an exchange that is over: the series of its route and endpoint, and a line of the access log."""

from libc.stdint cimport uint64_t
from lb.proxy.exchange cimport Exchange


# In its route's series, as one that took `duration` nanoseconds.
cdef void count_exchange(Exchange exchange, uint64_t duration) noexcept
# What the access log, and the span of a sampled trace, say of it. Dropped when the ring has no room.
cdef void log_exchange(Exchange exchange, uint64_t duration) noexcept
