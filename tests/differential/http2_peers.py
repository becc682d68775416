"""A server and a client of HTTP/2, of the `h2` library, which takes what RFC 9113 allows and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.events
import h2.exceptions
from exchanges import LARGEST_HEAD, Answer, Fields, Seen
from h2_client import H2Client, h2_client
from http2_exchanges import Call


def regular(head: Fields) -> Fields:
    """The fields without pseudo-header fields; :authority is the Host of HTTP/1.1 (RFC 9113 section 8.3.1)."""
    fields = [(name, value) for name, value in head if not name.startswith(b":")]
    authority = [(b"host", value) for name, value in head if name == b":authority"]
    return authority + [pair for pair in fields if pair[0] != b"host"] if authority else fields


@dataclass
class Http2Server:
    """Answers each request with what `pick` says for it; keeps what came. `violations` are what h2 refused."""

    pick: Callable[[Seen], Call] | None = None
    seen: list[Seen] = field(default_factory=list)
    begun: list[bytes] = field(default_factory=list)  # targets of requests that began, whole or not
    violations: list[str] = field(default_factory=list)

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            connection = _Connection(self)
            while data := await reader.read(1 << 16):
                connection.take(data)
                writer.write(connection.h2.data_to_send())
                await writer.drain()
        except h2.exceptions.ProtocolError as failure:
            self.violations.append(f"{type(failure).__name__}: {failure}")
        except ConnectionError:
            pass
        finally:
            with contextlib.suppress(ConnectionError):
                writer.close()


class _Connection:
    def __init__(self, server: Http2Server) -> None:
        self.server = server
        # Cookies stay as they came: in crumbs, or joined.
        config = h2.config.H2Configuration(client_side=False, header_encoding=None, normalize_inbound_headers=False)
        self.h2 = h2.connection.H2Connection(config)
        self.h2.decoder.max_header_list_size = LARGEST_HEAD
        self.h2.initiate_connection()
        self.coming: dict[int, Seen] = {}
        self.going: dict[int, tuple[Call, int]] = {}  # and how much of the body went

    def take(self, data: bytes) -> None:
        for event in self.h2.receive_data(data):
            match event:
                case h2.events.RequestReceived():
                    said = dict(event.headers)
                    self.server.begun.append(said[b":path"])
                    seen = Seen(said[b":method"], said[b":path"], regular(event.headers))
                    self.coming[event.stream_id] = seen
                case h2.events.DataReceived():
                    self.coming[event.stream_id].body += event.data
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                case h2.events.TrailersReceived():
                    self.coming[event.stream_id].trailers = list(event.headers)
                case h2.events.StreamEnded():
                    self.answer(event.stream_id, self.coming.pop(event.stream_id))
                case h2.events.StreamReset():
                    self.coming.pop(event.stream_id, None)
                    self.going.pop(event.stream_id, None)
        for stream in list(self.going):
            self.go_on(stream)

    def answer(self, stream: int, seen: Seen) -> None:
        self.server.seen.append(seen)
        assert self.server.pick is not None
        call = self.server.pick(seen)
        for status, fields in call.interim:
            self.h2.send_headers(stream, [(b":status", b"%d" % status), *fields])
        at_once = call.bodiless or not (call.answer.data or call.answer.trailers)
        self.h2.send_headers(stream, call.answer_head(), end_stream=at_once)
        if not at_once:
            self.going[stream] = call, 0

    def go_on(self, stream: int) -> None:
        """Sends as the peer's windows allow."""
        call, at = self.going[stream]
        body = call.answer.data
        around = 0 if call.padding is None else call.padding + 1
        while at < len(body):
            window = min(self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size)
            room = min(window - around, call.pieces, len(body) - at)
            if room <= 0:
                self.going[stream] = call, at
                return
            self.h2.send_data(stream, body[at : at + room], pad_length=call.padding)
            at += room
        del self.going[stream]
        if call.answer.trailers:
            self.h2.send_headers(stream, call.answer.trailers, end_stream=True)
        else:
            self.h2.end_stream(stream)


async def ask_http2(port: int, calls: Sequence[Call]) -> list[Answer]:
    """The answers to requests that are all under way at once on one connection."""
    async with h2_client(port, encoding="latin-1") as client:
        client.h2.decoder.max_header_list_size = LARGEST_HEAD
        streams = [client.open(call.head(), end=call.content is None) for call in calls]
        await asyncio.gather(*(_send(client, *pair) for pair in zip(streams, calls, strict=True)))
        return [await _answer(client, stream) for stream in streams]


async def _send(client: H2Client, stream: int, call: Call) -> None:
    if call.content is None:
        return
    trailers = call.content.trailers
    await client.send(stream, call.content.data, end=not trailers, piece=call.pieces, padding=call.padding)
    if trailers:
        client.h2.send_headers(stream, trailers, end_stream=True)
        client.flush()


async def _answer(client: H2Client, stream: int) -> Answer:
    got = await client.answer(stream)
    assert got.reset is None, f"the stream was reset: {got.reset!r}"
    assert client.failure is None, client.failure
    assert got.status, "the connection ended without an answer"

    def raw(fields: list[tuple[str, str]]) -> Fields:
        return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in fields]

    interim = [(int(fields[0][1]), regular(raw(fields))) for fields in got.interim]
    return Answer(got.status, b"", regular(raw(got.fields)), got.body, raw(got.trailers), interim)
