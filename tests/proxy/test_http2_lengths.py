"""Bodies over HTTP/2 that are not as long as their Content-Length says (RFC 9113 section 8.1.1), either way."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import pytest
from datapath import Gate, Site, settle
from h2_client import H2Client, h2_client
from oip_site import INFER, OIP, ModelServer

HTTP2_POOL = {"protocol": "http2"}
PROTOCOL_ERROR = h2.errors.ErrorCodes.PROTOCOL_ERROR
SMUGGLED = b"GET /never HTTP/1.1\r\nHost: a\r\n\r\n"
INFERENCE = json.dumps({"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1.0]}]}).encode()


class Http1Endpoint:
    """Answers nothing and keeps all it gets, one entry a connection."""

    def __init__(self) -> None:
        self.got: list[bytearray] = []
        self.cut = 0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got = bytearray()
        self.got.append(got)
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                got += data
        self.cut += 1

    def bodies(self) -> list[bytes]:
        return [bytes(got).partition(b"\r\n\r\n")[2] for got in self.got]


class Http2Endpoint:
    """Keeps the body of each stream, and how it ended: answers to `answer`, a list of frames, else not at all."""

    def __init__(self, answer: Sequence[tuple[list[tuple[str, str]] | bytes, bool]] = ()) -> None:
        self.answer = answer
        self.methods: list[str] = []
        self.got: dict[int, bytes] = {}
        self.ended: list[int] = []
        self.resets: list[int] = []

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # What the library would check is what has to be seen.
        config = h2.config.H2Configuration(client_side=False, validate_inbound_headers=False)
        connection = h2.connection.H2Connection(config)
        connection.initiate_connection()
        while True:
            writer.write(connection.data_to_send())
            data = await reader.read(65536)
            if not data:
                return
            for event in connection.receive_data(data):
                if isinstance(event, h2.events.RequestReceived):
                    self.got[event.stream_id] = b""
                    self.methods += [value.decode() for name, value in event.headers if name == b":method"]
                elif isinstance(event, h2.events.DataReceived):
                    self.got[event.stream_id] += event.data
                elif isinstance(event, h2.events.StreamReset):
                    self.resets.append(event.stream_id)
                elif isinstance(event, h2.events.StreamEnded):
                    self.ended.append(event.stream_id)
                    for part, last in self.answer:
                        if isinstance(part, bytes):
                            connection.send_data(event.stream_id, part, end_stream=last)
                        else:
                            connection.send_headers(event.stream_id, part, end_stream=last)
                        writer.write(connection.data_to_send())
                        await asyncio.sleep(0.05)  # so that each is passed on before the next comes


async def mistaken(
    client: H2Client, said: int, pieces: Sequence[bytes], path: str = "/", trailers: bool = False, apart: bool = False
) -> int | None:
    """Posts `pieces`, a DATA frame each, under a length that is `said`; the code with which its stream is reset."""
    stream = client.request(path, method="POST", fields=[("content-length", str(said))], end=False)
    with contextlib.suppress(h2.exceptions.StreamClosedError):  # the gate has had enough of it
        for i, piece in enumerate(pieces):
            client.h2.send_data(stream, piece, end_stream=not trailers and i == len(pieces) - 1)
            client.flush()
            if apart:
                await asyncio.sleep(0.05)
        if trailers:
            client.h2.send_headers(stream, [("x-checksum", "1")], end_stream=True)
            client.flush()
    answer = await client.answer(stream)
    assert answer.status == 0, answer
    return answer.reset


# said, pieces, trailers; the most of the body that may be passed on.
MISTAKES: dict[str, tuple[int, list[bytes], bool, bytes]] = {
    "too long at once": (3, [b"abc" + SMUGGLED], False, b""),
    "too long in a second frame": (3, [b"abc", SMUGGLED], False, b"abc"),
    "too long in the middle of a frame": (5, [b"abc", b"de" + SMUGGLED], False, b"abc"),
    "too long where there is none": (0, [SMUGGLED], False, b""),
    "too long before trailers": (3, [b"abc", SMUGGLED], True, b"abc"),
    "too short at once": (4, [b"abc"], False, b"abc"),
    "too short in two frames": (7, [b"abc", b"def"], False, b"abcdef"),
    "too short and empty": (4, [b""], False, b""),
    "too short before trailers": (4, [b"abc"], True, b"abc"),
}


@pytest.fixture(params=MISTAKES.values(), ids=list(MISTAKES))
def mistake(request: pytest.FixtureRequest) -> tuple[int, list[bytes], bool, bytes]:
    return request.param  # type: ignore[no-any-return]


together = pytest.mark.parametrize("apart", [False, True], ids=["together", "apart"])


@together
async def test_an_http1_pool_sees_no_more_than_the_length(
    site: Site, mistake: tuple[int, list[bytes], bool, bytes], apart: bool
) -> None:
    endpoint = Http1Endpoint()
    gate = await site.gate([await site.endpoint(endpoint.handle)])
    said, pieces, trailers, most = mistake
    async with h2_client(gate.port) as client:
        assert await mistaken(client, said, pieces, trailers=trailers, apart=apart) == PROTOCOL_ERROR
        await settle(lambda: gate.in_flight() == 0, "the slot is still taken")
    await settle(lambda: endpoint.cut == len(endpoint.got), "a connection with half a request on it is kept")
    assert all(most.startswith(body) for body in endpoint.bodies()), endpoint.got
    assert b"never" not in b"".join(endpoint.got)


@together
async def test_an_http2_pool_never_sees_such_a_request_end(
    site: Site, mistake: tuple[int, list[bytes], bool, bytes], apart: bool
) -> None:
    endpoint = Http2Endpoint()
    gate = await site.gate([await site.endpoint(endpoint.handle)], pool=HTTP2_POOL)
    said, pieces, trailers, most = mistake
    async with h2_client(gate.port) as client:
        assert await mistaken(client, said, pieces, trailers=trailers, apart=apart) == PROTOCOL_ERROR
        await settle(lambda: gate.in_flight() == 0, "the slot is still taken")
    await settle(lambda: sorted(endpoint.got) == sorted(endpoint.resets), "a stream of it is left")
    assert endpoint.ended == []
    assert all(most.startswith(body) for body in endpoint.got.values()), endpoint.got


@together
@pytest.mark.parametrize("off", [-1, 1, 1000], ids=["shorter", "longer", "much longer"])
async def test_an_inference_is_not_made_of_such_a_body(site: Site, off: int, apart: bool) -> None:
    server = ModelServer()
    gate = await site.gate([await site.model(server)], pool=OIP)
    half = len(INFERENCE) // 2
    async with h2_client(gate.port) as client:
        for pieces in ([INFERENCE], [INFERENCE[:half], INFERENCE[half:]]):
            assert await mistaken(client, len(INFERENCE) + off, pieces, INFER, apart=apart) == PROTOCOL_ERROR
        right = await client.fetch(INFER, body=INFERENCE, fields=[("content-length", str(len(INFERENCE)))])
        assert right.status == 200, right.body
    assert len(server.requests) == 1  # the right one
    assert gate.in_flight() == 0


async def test_a_head_that_says_a_length_and_ends(site: Site) -> None:
    endpoint = Http1Endpoint()
    gate = await site.gate([await site.endpoint(endpoint.handle)])
    async with h2_client(gate.port) as client:
        answer = await client.answer(client.request("/", method="POST", fields=[("content-length", "3")]))
    assert (answer.status, answer.reset) == (0, PROTOCOL_ERROR)
    assert endpoint.got == []


# Answers.

OK = (":status", "200")
WRONG: dict[str, list[tuple[list[tuple[str, str]] | bytes, bool]]] = {
    "longer at once": [([OK, ("content-length", "3")], False), (b"abcdef", True)],
    "longer in a second frame": [([OK, ("content-length", "3")], False), (b"abc", False), (b"def", True)],
    "shorter": [([OK, ("content-length", "4")], False), (b"abc", True)],
    "shorter in two frames": [([OK, ("content-length", "7")], False), (b"abc", False), (b"def", True)],
    "shorter before trailers": [([OK, ("content-length", "4")], False), (b"abc", False), ([("x-a", "1")], True)],
    "with no body": [([OK, ("content-length", "4")], True)],
}


def said(answer: Any) -> int:
    return int(dict(answer[0][0])["content-length"])


@contextlib.asynccontextmanager
async def answered(site: Site, answer: Any) -> AsyncIterator[tuple[Gate, Http2Endpoint]]:
    endpoint = Http2Endpoint(answer)
    gate = await site.gate([await site.endpoint(endpoint.handle)], pool={**HTTP2_POOL, "retries": 0})
    yield gate, endpoint
    await settle(lambda: gate.in_flight() == 0, "the slot is still taken")


@pytest.mark.parametrize("answer", WRONG.values(), ids=list(WRONG))
async def test_a_wrong_answer_does_not_look_like_a_whole_one_over_http2(site: Site, answer: Any) -> None:
    async with answered(site, answer) as (gate, _), h2_client(gate.port) as client:
        got = await client.fetch("/")
    assert got.status == 502 or (got.reset is not None and len(got.body) <= said(answer)), got


@pytest.mark.parametrize("answer", WRONG.values(), ids=list(WRONG))
async def test_a_wrong_answer_does_not_look_like_a_whole_one_over_http1(site: Site, answer: Any) -> None:
    async with answered(site, answer) as (gate, _):
        got = await gate.exchange(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    head, _, body = got.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 502 ") or (
        b"ontent-length: %d\r\n" % said(answer) in head + b"\r\n" and len(body) <= said(answer)
    ), got


async def test_an_answer_to_head_says_a_length_without_a_body(site: Site) -> None:
    async with answered(site, WRONG["with no body"]) as (gate, _), h2_client(gate.port) as client:
        got = await client.fetch("/", method="HEAD")
        assert (got.status, got.field_of("content-length"), got.reset) == (200, "4", None)
