"""HTTP/2 upstream: calls over one multiplexed connection to one endpoint.

    channel.start(call, deadline)               # later call.over, once, or
    channel.cancel(call)                        # not at all

The connection is made when a call needs it and shared by all; calls over the peer's stream limit wait in order.
"""

from libc.stdint cimport uint64_t
from lb.net.link cimport tg_link
from lb.upstream.connections.http2_call cimport Dispatcher, Http2Call
from lb.upstream.connections.http2_connection cimport Http2Upstream


cdef class Http2Channel(Dispatcher):
    cdef Http2Upstream current       # connecting or up; None: the next call connects
    cdef list draining                # connections that finish their calls and take no more
    cdef tg_link queue                # calls without a stream
    cdef bint closed
    cdef bint retiring                # its endpoint is in no plan any more
    cdef uint64_t retry_at            # no connect before
    cdef readonly bint local          # messages went, or were to go, through shared memory: what was logged last
    cdef bint told                    # whether it was logged at all
    cdef str problem                  # why messages of the connection of now do not; "" where nothing is known
    cdef readonly int failures        # connects failed in a row
    cdef int why                      # how the last of them did: FAIL_…
    cdef readonly uint64_t connects
    cdef readonly uint64_t connect_failures
    cdef readonly uint64_t started

    # `deadline` is CLOCK_MONOTONIC ns or NEVER. A call may be started again once it is over.
    cdef void start(self, Http2Call call, uint64_t deadline) noexcept
    # No callback comes any more, and the parts may go. Nothing happens when the call is over or was never started.
    cdef void cancel(self, Http2Call call) noexcept
    # More of a streamed body, which waits in the call's queue; its end. 0 or -1 (no memory).
    cdef int write(self, Http2Call call, const void *data, size_t size) noexcept
    cdef void finish(self, Http2Call call) noexcept
    # `size` bytes that the call held back are dealt with.
    cdef void consume(self, Http2Call call, size_t size) noexcept
    cdef void take_away(self, Http2Call call) noexcept
    cdef void after(self, Http2Upstream connection) noexcept
    cdef void connect(self) noexcept
    cdef void fail_waiting(self, int kind) noexcept
