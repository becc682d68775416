"""gRPC upstream: unary calls over one multiplexed HTTP/2 connection to one endpoint.

    call.parts, call.part_count, call.message_size = …
    channel.start(call, path, n, deadline)      # later exactly one of call.on_done and call.on_failed, or
    channel.cancel(call)                        # neither

The connection is made when a call needs it and shared by all; calls over the peer's stream limit wait in order.
"""

from libc.stdint cimport uint64_t
from lb.core.link cimport tg_link
from lb.core.stream cimport iovec
from lb.upstream.grpc_call cimport (
    FAIL_CONNECT, FAIL_PROTOCOL, FAIL_REFUSED, FAIL_RESET, FAIL_TIMEOUT, FAIL_TOO_LARGE, Dispatcher, GrpcCall,
)
from lb.upstream.grpc_connection cimport GrpcConnection


cdef class GrpcChannel(Dispatcher):
    cdef GrpcConnection current       # connecting or up; None: the next call connects
    cdef list draining                # connections that finish their calls and take no more
    cdef tg_link queue                # calls without a stream
    cdef bint closed
    cdef uint64_t retry_at            # no connect before
    cdef readonly int failures        # connects failed in a row
    cdef readonly uint64_t connects
    cdef readonly uint64_t connect_failures
    cdef readonly uint64_t started

    # `path` is copied; `deadline` is CLOCK_MONOTONIC ns or NEVER. A call may be started again once it is over.
    cdef void start(self, GrpcCall call, const char *path, size_t n, uint64_t deadline) noexcept
    # No callback comes any more, and the parts may go. Nothing happens when the call is over or was never started.
    cdef void cancel(self, GrpcCall call) noexcept
    cdef void take_away(self, GrpcCall call) noexcept
    cdef void after(self, GrpcConnection connection) noexcept
    cdef void connect(self) noexcept
    cdef void fail_waiting(self) noexcept
