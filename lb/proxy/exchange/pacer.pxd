"""Answers that go to the client no faster than the route's bandwidth allows."""

from libc.stdint cimport uint64_t
from lb.http.head cimport Scan
from lb.net.buffer cimport tg_buffer
from lb.proxy.client.relay cimport Relay
from lb.proxy.exchange.exchange cimport Exchange
from lb.proxy.routing.bandwidth cimport Bandwidth


cdef enum pacer_end:
    PACER_GOES_ON = 0
    PACER_ENDS                        # the answer is complete; it ends when `rest` is empty
    PACER_CUTS                        # it cannot be completed; likewise


cdef class Pacer(Relay):
    """Between an exchange, its cache or its compressor, and the client. What may not go yet is kept; as `backlog` has
    it, the endpoint is held back meanwhile."""
    cdef Bandwidth rules
    cdef uint64_t key                 # of the bucket that it shares with others
    cdef uint64_t free                # bytes that the limit of the request does not count
    cdef uint64_t paid_at             # by that limit, when what went is paid for, ns
    cdef size_t granted               # bytes that may go from `ready_at` on
    cdef uint64_t ready_at            # monotonic ns
    cdef uint64_t taken               # ns of the key's bucket, for bytes granted of which none went
    cdef tg_buffer rest
    cdef pacer_end ending

    # How many of the next `size` bytes may go now; 0: none, and the timer is set.
    cdef size_t allowed(self, size_t size) noexcept
    # Passes what may go of these bytes on. How many went.
    cdef size_t pass_on(self, const char *data, size_t size) noexcept
    # No memory: the client cannot have the rest.
    cdef void lose(self) noexcept
    # The exchange is over: at once, or when the rest of its answer has gone.
    cdef void leave(self, pacer_end how) noexcept


# A request is about to ask an endpoint, or a cache: its answer is held back as its route says.
cdef void pace(Exchange exchange, const Scan *scan) noexcept
