"""An HTTP/2 endpoint that counts the streams which are open, on all its connections, as their frames come."""

from __future__ import annotations

import asyncio
import random

from hpack import Decoder, Encoder
from hyperframe.frame import DataFrame, Frame, HeadersFrame, PingFrame, RstStreamFrame, SettingsFrame

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class Http2Endpoint:
    """Answers each GET after `quick` seconds, and a share of `late` of them after `slow` seconds. `open` is how many
    streams there are whose request has come and which neither an answer nor a reset has ended, `peak` the most."""

    def __init__(self, quick: float, slow: float, late: float, seed: int) -> None:
        self.quick = quick
        self.slow = slow
        self.late = late
        self.random = random.Random(seed)
        self.open = 0
        self.peak = 0
        self.resets = 0
        self.served = 0
        self.errors: list[BaseException] = []

    async def start(self) -> None:
        self.server = await asyncio.get_running_loop().create_server(lambda: Connection(self), "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self.server.sockets[0].getsockname()[1]}"

    def close(self) -> None:
        self.server.close()


class Connection(asyncio.Protocol):
    def __init__(self, endpoint: Http2Endpoint) -> None:
        self.endpoint = endpoint
        self.rest = b""
        self.greeted = False
        self.open: dict[int, asyncio.TimerHandle] = {}
        self.decoder = Decoder()
        self.encoder = Encoder()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.rest += data
        if not self.greeted:
            if len(self.rest) < len(PREFACE):
                return
            self.greeted = True
            self.rest = self.rest[len(PREFACE) :]
            self.send(SettingsFrame(0))
        while len(self.rest) >= 9 and len(self.rest) >= 9 + int.from_bytes(self.rest[:3], "big"):
            frame, size = Frame.parse_frame_header(memoryview(self.rest[:9]))
            frame.parse_body(memoryview(self.rest[9 : 9 + size]))
            self.rest = self.rest[9 + size :]
            self.take(frame)

    def take(self, frame: Frame) -> None:
        if isinstance(frame, SettingsFrame) and "ACK" not in frame.flags:
            self.send(SettingsFrame(0, flags=["ACK"]))
        elif isinstance(frame, PingFrame) and "ACK" not in frame.flags:
            self.send(PingFrame(0, frame.opaque_data, flags=["ACK"]))
        elif isinstance(frame, HeadersFrame):
            self.begin(frame)
        elif isinstance(frame, RstStreamFrame) and frame.stream_id in self.open:
            self.endpoint.resets += 1
            self.end(frame.stream_id)

    def begin(self, frame: HeadersFrame) -> None:
        endpoint = self.endpoint
        self.decoder.decode(frame.data)
        assert "END_STREAM" in frame.flags
        endpoint.open += 1
        endpoint.peak = max(endpoint.peak, endpoint.open)
        delay = endpoint.slow if endpoint.random.random() < endpoint.late else endpoint.quick
        loop = asyncio.get_running_loop()
        self.open[frame.stream_id] = loop.call_later(delay, self.answer, frame.stream_id)

    def answer(self, stream: int) -> None:
        self.end(stream)
        self.endpoint.served += 1
        fields = self.encoder.encode([(":status", "200"), ("content-length", "2")])
        self.send(HeadersFrame(stream, fields, flags=["END_HEADERS"]), DataFrame(stream, b"ok", flags=["END_STREAM"]))

    def end(self, stream: int) -> None:
        self.open.pop(stream).cancel()
        self.endpoint.open -= 1

    def send(self, *frames: Frame) -> None:
        self.transport.write(b"".join(frame.serialize() for frame in frames))

    def connection_lost(self, error: Exception | None) -> None:
        for stream in list(self.open):
            self.end(stream)
