"""gRPC calls awaited by Python code: health checks, metadata, tests. The data path subclasses GrpcCall instead."""

import asyncio

from libc.stdint cimport uint64_t
from lb.core.buffer cimport tg_buffer_head, tg_buffer_size
from lb.core.poller cimport NEVER, monotonic_ns
from lb.upstream.grpc cimport FAIL_CONNECT, FAIL_REFUSED, FAIL_TIMEOUT, GrpcChannel

from lb.errors import UpstreamError

KINDS = {
    1: "no connection",
    2: "refused by the endpoint",
    3: "the connection or the stream was reset",
    4: "no answer in time",
    5: "the answer is not valid gRPC",
    6: "the message is too large",
}


class CallFailed(UpstreamError):
    """A call ended without an answer; `kind` is the FAIL number of lb.upstream.grpc."""

    def __init__(self, kind: int, address: str) -> None:
        super().__init__(f"{address}: {KINDS[kind]}")
        self.kind = kind
        self.retryable = kind in (FAIL_CONNECT, FAIL_REFUSED)
        if kind == FAIL_TIMEOUT:
            self.status = 504
            self.grpc_status = 4


cdef class PyCall(GrpcCall):
    """One call; `future` gets (status, message, reply) or CallFailed."""

    def __init__(self, bytes message not None):
        self.message = message
        self.part.iov_base = <void *><const char *>message
        self.part.iov_len = len(message)
        self.parts = &self.part
        self.part_count = 1
        self.message_size = len(message)

    def start(self, GrpcChannel channel not None, bytes path not None, timeout: float | None):
        """Starts the call now; `timeout` in seconds. Raises RuntimeError outside of a running loop or when it runs already."""
        cdef uint64_t deadline = NEVER
        if self.dispatcher is not None:
            raise RuntimeError("the call runs already")
        self.future = asyncio.get_running_loop().create_future()
        if timeout is not None:
            deadline = monotonic_ns() + <uint64_t>max(0, int(timeout * 1e9))
        self.endpoint = channel.address.text
        channel.start(self, path, len(path), deadline)
        return self.future

    def cancel(self):
        """Cancels the call and its future."""
        if self.dispatcher is not None:
            (<GrpcChannel>self.dispatcher).cancel(self)
        if self.future is not None:
            self.future.cancel()

    cdef void on_done(self, int status, const char *message, size_t n) noexcept:
        if not self.future.done():
            reply = tg_buffer_head(&self.reply)[:tg_buffer_size(&self.reply)] if tg_buffer_size(&self.reply) else b""
            text = message[:n].decode("utf-8", "replace") if n else ""
            self.future.set_result((status, text, reply))

    cdef void on_failed(self, int kind) noexcept:
        if not self.future.done():
            self.future.set_exception(CallFailed(kind, self.endpoint))


async def unary(channel: GrpcChannel, path: bytes, message: bytes, timeout: float | None = None) -> tuple:
    """Call `path` ("/package.Service/Method") with `message`; (status, status message, reply message).

    `timeout` is in seconds, None waits for ever. Raises CallFailed when no answer came.
    """
    call = PyCall(message)
    call.start(channel, path, timeout)
    try:
        return await call.future
    except asyncio.CancelledError:
        call.cancel()
        raise
