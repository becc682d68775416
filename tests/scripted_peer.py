"""A peer that speaks HTTP/2 frame by frame, as the test says."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from hpack import Decoder, Encoder
from hyperframe.frame import DataFrame, Frame, GoAwayFrame, HeadersFrame, PingFrame, RstStreamFrame, SettingsFrame

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class Peer:
    """One accepted connection of the scripted peer: reads the client's frames, writes whatever it is told to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.encoder = Encoder()
        self.decoder = Decoder()
        self.frames: list[Frame] = []
        self.open: dict[int, tuple[dict[bytes, bytes], bytes]] = {}

    async def next_frame(self) -> Frame:
        frame, size = Frame.parse_frame_header(memoryview(await self.reader.readexactly(9)))
        frame.parse_body(memoryview(await self.reader.readexactly(size)))
        self.frames.append(frame)
        return frame

    async def settle(self, **settings: int) -> None:
        """The preface both ways, and SETTINGS by name."""
        assert await self.reader.readexactly(len(PREFACE)) == PREFACE
        self.send(SettingsFrame(0, {getattr(SettingsFrame, name): value for name, value in settings.items()}))
        self.send(SettingsFrame(0, flags=["ACK"]))

    async def wait_for(self, kind: type[Frame], stream: int | None = None) -> Frame:
        while True:
            frame = await self.next_frame()
            if isinstance(frame, kind) and stream in (None, frame.stream_id) and "ACK" not in frame.flags:
                return frame

    async def request(self) -> tuple[int, dict[bytes, bytes], bytes]:
        """The next complete request: stream, fields, body. Requests may come interleaved."""
        while True:
            frame = await self.next_frame()
            if isinstance(frame, HeadersFrame):
                self.open[frame.stream_id] = dict(self.decoder.decode(frame.data, raw=True)), b""
            elif isinstance(frame, DataFrame) and frame.stream_id in self.open:
                fields, body = self.open[frame.stream_id]
                self.open[frame.stream_id] = fields, body + frame.data
                if "END_STREAM" in frame.flags:
                    return frame.stream_id, *self.open.pop(frame.stream_id)
            elif isinstance(frame, RstStreamFrame):
                self.open.pop(frame.stream_id, None)

    def send(self, *frames: Frame) -> None:
        self.writer.write(b"".join(frame.serialize() for frame in frames))

    def headers(self, stream: int, *fields: tuple[str, str], end: bool = False) -> None:
        flags = ["END_HEADERS", "END_STREAM"] if end else ["END_HEADERS"]
        self.send(HeadersFrame(stream, self.encoder.encode(fields), flags=flags))

    def begin(self, stream: int, *more: tuple[str, str]) -> None:
        self.headers(stream, (":status", "200"), ("content-type", "application/grpc"), *more)

    def data(self, stream: int, data: bytes, end: bool = False) -> None:
        self.send(DataFrame(stream, data, flags=["END_STREAM"] if end else []))

    def finish(self, stream: int, *fields: tuple[str, str]) -> None:
        self.headers(stream, *(fields or (("grpc-status", "0"),)), end=True)

    def answer(self, stream: int, message: bytes) -> None:
        self.begin(stream)
        self.data(stream, framed(message))
        self.finish(stream)

    def reset(self, stream: int, code: int) -> None:
        self.send(RstStreamFrame(stream, code))

    def goaway(self, last: int, code: int = 0) -> None:
        self.send(GoAwayFrame(0, last, code))

    def pong(self, ping: Frame) -> None:
        assert isinstance(ping, PingFrame)
        self.send(PingFrame(0, ping.opaque_data, flags=["ACK"]))


def framed(message: bytes, flag: int = 0) -> bytes:
    return bytes([flag]) + len(message).to_bytes(4, "big") + message


class Scripted:
    """Listens; connection n is handled by scripts[n], the last script takes all further ones."""

    def __init__(self, *scripts: Callable[[Peer], Awaitable[None]]) -> None:
        self.scripts = scripts
        self.connections = 0
        self.peers: list[Peer] = []
        self.errors: list[BaseException] = []

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        script = self.scripts[min(self.connections, len(self.scripts) - 1)]
        self.connections += 1
        peer = Peer(reader, writer)
        self.peers.append(peer)
        try:
            await script(peer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client left, which most scripts wait for
        except BaseException as error:
            self.errors.append(error)
        finally:
            writer.close()

    async def __aenter__(self) -> str:
        self.server = await asyncio.start_server(self.handle, "127.0.0.1", 0)
        host, port = self.server.sockets[0].getsockname()
        return f"{host}:{port}"

    async def __aexit__(self, *_: object) -> None:
        self.server.close()
        for peer in self.peers:
            peer.writer.close()
        await asyncio.sleep(0)
        assert not self.errors, self.errors
