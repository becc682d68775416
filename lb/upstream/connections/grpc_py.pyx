"""gRPC calls made by Python code: health checks, metadata, tests. The data path subclasses GrpcCall itself."""

import asyncio

from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free
from lb.net.buffer cimport tg_buffer_head, tg_buffer_size
from lb.net.poller cimport NEVER, monotonic_ns
from lb.upstream.connections.http2 cimport Http2Channel

from lb.errors import UpstreamError
from lb.failure import ALL

KINDS = {
    1: "no connection",
    2: "refused by the endpoint",
    3: "the connection or the stream was reset",
    4: "no answer in time",
    5: "the answer is not valid gRPC",
    6: "the message is too large",
}


class CallFailed(UpstreamError):
    """A call ended without an answer; `failure` is its kind in lb.failure."""

    def __init__(self, kind: int, address: str) -> None:
        super().__init__(f"{address}: {KINDS[kind]}")
        self.kind = kind
        self.failure = ALL[kind]


cdef class PyCall(GrpcCall):
    """One call, sending the concatenation of `parts`, which may be started again when it is over.

    `told(kind, status, message, reply)` is called from the loop when it is over: kind 0 and the answer, or a FAIL
    number. It may start and cancel calls, this one included.
    """

    def __cinit__(self, parts, told):
        cdef Py_ssize_t i
        cdef bytes part
        self.memory = tuple(parts)
        self.vector = <iovec *>calloc(max(1, len(self.memory)), sizeof(iovec))
        if self.vector == NULL:
            raise MemoryError
        for i in range(len(self.memory)):
            part = self.memory[i]
            self.vector[i].iov_base = <void *><const char *>part
            self.vector[i].iov_len = len(part)
            self.message_size += self.vector[i].iov_len
        self.parts = self.vector
        self.part_count = len(self.memory)
        self.told = told

    def __dealloc__(self):
        free(self.vector)

    def start(self, Http2Channel channel not None, bytes path not None, timeout=None):
        """Starts the call; `timeout` in seconds, None waits for ever. RuntimeError when it runs already."""
        cdef uint64_t deadline = NEVER
        if self.dispatcher is not None:
            raise RuntimeError("the call runs already")
        if timeout is not None:
            deadline = monotonic_ns() + <uint64_t>max(0, int(timeout * 1e9))
        if self.call_path(path, len(path)) < 0:
            raise MemoryError
        channel.start(self, deadline)

    def cancel(self):
        """`told` will not be called; nothing happens when it was called already."""
        if self.dispatcher is not None:
            (<Http2Channel>self.dispatcher).cancel(self)

    cdef void on_done(self, int status, const char *message, size_t n) noexcept:
        reply = tg_buffer_head(&self.reply)[:tg_buffer_size(&self.reply)] if tg_buffer_size(&self.reply) else b""
        self.told(0, status, message[:n].decode("utf-8", "replace") if n else "", reply)

    cdef void on_failed(self, int kind) noexcept:
        self.told(kind, 0, "", b"")


async def unary(channel: Http2Channel, path: bytes, message: bytes, timeout: float | None = None) -> tuple:
    """Call `path` ("/package.Service/Method") with `message`; returns (status, status message, reply message).

    `timeout` is in seconds, None waits for ever. Raises CallFailed when no answer came.
    """
    future = asyncio.get_running_loop().create_future()

    def told(kind, status, text, reply):
        if future.done():
            return
        if kind:
            future.set_exception(CallFailed(kind, channel.address.text))
        else:
            future.set_result((status, text, reply))

    call = PyCall((message,), told)
    call.start(channel, path, timeout)
    try:
        return await future
    finally:
        call.cancel()                     # the waiting task was cancelled; otherwise the call is over
