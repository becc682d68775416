"""What gRPC tests talk to besides `scripted_peer`: a real grpcio server in its own process; and how they do it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from waiting import until

from lb.failure import BY_NAME
from lb.net.address import Address
from lb.net.poller import Poller
from lb.upstream.connections.grpc_py import PyCall
from lb.upstream.connections.http2 import Http2Channel

SERVICE = b"/test.Service/"
CONNECT, REFUSED, RESET, TIMEOUT, PROTOCOL, TOO_LARGE = (
    BY_NAME[name].kind
    for name in (
        "connect",
        "upstream-refused",
        "upstream-reset",
        "timeout",
        "upstream-protocol",
        "upstream-too-large",
    )
)


class Outcome:
    """Collects what a call is told."""

    def __init__(self, *parts: bytes) -> None:
        self.all: list[tuple[int, int, str, bytes]] = []
        self.call = PyCall(parts, self.told)

    def told(self, kind: int, status: int, message: str, reply: bytes) -> None:
        self.all.append((kind, status, message, reply))

    async def wait(self) -> tuple[int, int, str, bytes]:
        await until(lambda: self.all)
        assert len(self.all) == 1
        return self.all[0]

    async def kind(self) -> int:
        return (await self.wait())[0]


@contextlib.asynccontextmanager
async def channel_to(
    address: str, *, connect: float = 5.0, limit: int = 64 << 20, tls: object = None
) -> AsyncIterator[Http2Channel]:
    """A channel on its own poller; leaving checks that nothing is left behind."""
    poller = Poller(asyncio.get_running_loop())
    channel = Http2Channel(poller, Address(address, tls), int(connect * 1e9), limit)
    try:
        yield channel
    finally:
        channel.close()
        assert (channel.active, channel.waiting, poller.sources) == (0, 0, 0)
        poller.close()


def start(channel: Http2Channel, method: bytes = b"Echo", *parts: bytes, timeout: float | None = 30.0) -> Outcome:
    outcome = Outcome(*parts)
    outcome.call.start(channel, SERVICE + method, timeout)
    return outcome


class GrpcServer:
    """tests/upstream/grpc_process.py, started and stopped by the test."""

    def __init__(self, address: str, *options: str) -> None:
        script = Path(__file__).parent / "grpc_process.py"
        self.process = subprocess.Popen(
            [sys.executable, str(script), address, *options], stdout=subprocess.PIPE, text=True, env=os.environ
        )
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()
        assert self.address, "the server did not start"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(20)

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def __enter__(self) -> GrpcServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        assert self.process.stdout is not None
        self.process.stdout.close()
