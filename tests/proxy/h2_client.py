"""An HTTP/2 client of the `h2` library that shows, and can break, every frame."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings

Fields = list[tuple[str, str]]


@dataclass
class Answer:
    """What came on one stream."""

    status: int = 0
    fields: Fields = field(default_factory=list)
    interim: list[Fields] = field(default_factory=list)
    body: bytes = b""
    pieces: list[bytes] = field(default_factory=list)  # of the body, as frames had them
    trailers: Fields = field(default_factory=list)
    reset: int | None = None
    done: asyncio.Event = field(default_factory=asyncio.Event)
    begun: asyncio.Event = field(default_factory=asyncio.Event)

    def field_of(self, name: str) -> str | None:
        return next((value for key, value in self.fields if key == name), None)


class H2Client:
    """One connection. `manual` leaves flow control to the test: nothing is acknowledged on its own. `encoding` is what
    the fields of answers are read as; latin-1 takes all of them."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, manual: bool, encoding: str = "utf-8"
    ) -> None:
        self.reader = reader
        self.writer = writer
        self.manual = manual
        config = h2.config.H2Configuration(client_side=True, header_encoding=encoding, validate_outbound_headers=False)
        self.h2 = h2.connection.H2Connection(config)
        self.answers: dict[int, Answer] = {}
        self.failure: h2.exceptions.ProtocolError | None = None  # what the library refused of what came
        self.goaway: h2.events.ConnectionTerminated | None = None
        self.closed = asyncio.Event()
        self.window = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    def start(self, settings: dict[h2.settings.SettingCodes, int] | None = None) -> None:
        self.h2.initiate_connection()
        if settings:
            self.h2.update_settings(settings)
        self.flush()
        self.task = asyncio.create_task(self._read())

    def flush(self) -> None:
        data = self.h2.data_to_send()
        if data and not self.writer.is_closing():
            self.writer.write(data)

    async def _read(self) -> None:
        try:
            while data := await self.reader.read(1 << 16):
                for event in self.h2.receive_data(data):
                    self._take(event)
                self.flush()
        except ConnectionError:
            pass
        except h2.exceptions.ProtocolError as failure:
            self.failure = failure
        self.closed.set()
        for answer in self.answers.values():
            answer.done.set()

    def _take(self, event: h2.events.Event) -> None:
        answer = self.answers.get(getattr(event, "stream_id", 0) or 0)
        match event:
            case h2.events.ResponseReceived() if answer:
                answer.fields = list(event.headers)
                answer.status = int(answer.field_of(":status") or 0)
                answer.begun.set()
            case h2.events.InformationalResponseReceived() if answer:
                answer.interim.append(list(event.headers))
            case h2.events.TrailersReceived() if answer:
                answer.trailers = list(event.headers)
            case h2.events.DataReceived():
                if answer:
                    answer.body += event.data
                    answer.pieces.append(event.data)
                if not self.manual:
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case h2.events.StreamEnded() if answer:
                answer.done.set()
            case h2.events.StreamReset() if answer:
                answer.reset = event.error_code
                answer.done.set()
            case h2.events.ConnectionTerminated():
                self.goaway = event
                # The library takes this for the end; streams that are open go on (RFC 9113 section 6.8).
                self.h2.state_machine.state = h2.connection.ConnectionState.CLIENT_OPEN
            case h2.events.WindowUpdated() | h2.events.RemoteSettingsChanged():
                self.window.set()

    def request(
        self,
        path: str = "/",
        *,
        method: str = "GET",
        fields: Iterable[tuple[str, str]] = (),
        authority: str = "example.org",
        end: bool = True,
    ) -> int:
        """Opens a stream; its id."""
        return self.open(
            [(":method", method), (":scheme", "http"), (":authority", authority), (":path", path), *fields], end=end
        )

    def open(self, head: Iterable[tuple[str | bytes, str | bytes]], *, end: bool) -> int:
        """Opens a stream with all the fields of its head; its id."""
        stream = self.h2.get_next_available_stream_id()
        self.answers[stream] = Answer()
        self.h2.send_headers(stream, head, end_stream=end)
        self.flush()
        return stream

    async def send(
        self, stream: int, body: bytes, *, end: bool = True, piece: int = 1 << 24, padding: int | None = None
    ) -> None:
        """Sends as the gate's window allows, at most `piece` bytes of the body and `padding` in a frame."""
        at = 0
        around = 0 if padding is None else padding + 1
        while at < len(body):
            window = min(self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size)
            room = min(window - around, piece, len(body) - at)
            if room <= 0:
                self.window.clear()
                await asyncio.wait_for(self.window.wait(), 10)
                continue
            self.h2.send_data(stream, body[at : at + room], pad_length=padding)
            at += room
            self.flush()
            await self.writer.drain()
        if end:
            self.h2.end_stream(stream)
            self.flush()

    async def answer(self, stream: int) -> Answer:
        answer = self.answers[stream]
        await asyncio.wait_for(answer.done.wait(), 20)
        return answer

    async def fetch(self, path: str = "/", *, body: bytes | None = None, **options: object) -> Answer:
        method = options.pop("method", "GET" if body is None else "POST")
        stream = self.request(path, method=method, end=body is None, **options)  # type: ignore[arg-type]
        if body is not None:
            await self.send(stream, body)
        return await self.answer(stream)

    def raw(self, data: bytes) -> None:
        """Bytes behind the library's back."""
        self.writer.write(data)


@contextlib.asynccontextmanager
async def h2_client(
    port: int,
    *,
    manual: bool = False,
    settings: dict[h2.settings.SettingCodes, int] | None = None,
    secured: ssl.SSLContext | None = None,
    name: str | None = None,
    encoding: str = "utf-8",
) -> AsyncIterator[H2Client]:
    """A connection to the gate on `port`, by prior knowledge or, where it is `secured`, to the host `name`."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=secured, server_hostname=name)
    client = H2Client(reader, writer, manual, encoding)
    client.start(settings)
    try:
        yield client
    finally:
        writer.close()
        if client.task is not None:
            client.task.cancel()


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """An HTTP/2 frame (RFC 9113 section 4.1)."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload
