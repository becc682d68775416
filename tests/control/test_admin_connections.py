"""The admin server and clients that are slow, endless or many. Its limits are short here."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import orjson
import pytest

from lb.config.schema.file import AdminConfig
from lb.control.admin import server as admin
from lb.control.admin.connections import Limits
from lb.control.admin.server import AdminServer
from lb.control.master import Master
from lb.control.sockets import SocketTable

SHORT = 0.3
LONG = 60.0  # longer than any test may take: a limit that is not the one tested
GET = b"GET /api/v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST /api/v1/explain HTTP/1.1\r\nHost: localhost\r\n"
QUESTION = orjson.dumps({"pool": "web"})


class StandIn:
    """As much of a master as the tests ask for. A status of `size` bytes and more."""

    def __init__(self) -> None:
        self.config = SimpleNamespace(admin=AdminConfig(bind="127.0.0.1:0"))
        self.plan = None
        self.sockets = SocketTable()
        self.size = 1
        self.asked = 0

    def status(self) -> dict[str, Any]:
        return {"text": "x" * self.size}

    def ready(self) -> tuple[bool, str]:
        return True, "ready"

    async def reload(self) -> Any:
        self.asked += 1
        return SimpleNamespace(ok=True, to_dict=lambda: {"ok": True})

    async def explain(self, question: dict[str, Any], worker: int | None) -> dict[str, Any]:
        self.asked += 1
        return {"pool": question["pool"]}


class Site:
    def __init__(self, server: AdminServer, master: StandIn, port: int) -> None:
        self.server = server
        self.master = master
        self.port = port

    async def connect(self, sent: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(sent)
        return reader, writer


@contextlib.asynccontextmanager
async def site(**limits: Any) -> AsyncIterator[Site]:
    master = StandIn()
    given = {"head": LONG, "body": LONG, "answer": LONG, "idle": LONG, "linger": SHORT, **limits}
    server = AdminServer(cast(Master, master), Limits(**given))
    await server.start()
    try:
        assert server._listening is not None
        yield Site(server, master, server._listening.socket.getsockname()[1])
    finally:
        await server.stop()


async def answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:])}
    return int(head[0].split()[1]), fields, await reader.readexactly(int(fields["content-length"]))


async def rest(reader: asyncio.StreamReader) -> bytes:
    """What comes until the end; a reset is an end, too."""
    try:
        return await reader.read()
    except ConnectionError:
        return b""


@pytest.mark.parametrize("begun", [b"GET /healthz HTTP/1.1\r\nHost: loc", b"G", b"POST /api/v1/reload HTTP/1.1\r\n"])
async def test_a_head_that_does_not_end(begun: bytes) -> None:
    async with site(head=SHORT) as s:
        reader, _ = await s.connect(begun)
        assert (await rest(reader)).startswith(b"HTTP/1.1 408 ")


async def test_a_head_that_drips() -> None:
    """Progress does not count: the whole head has the time."""
    async with site(head=SHORT) as s:
        reader, writer = await s.connect(b"GET /healthz HTTP/1.1\r\n")

        async def drip() -> None:
            with contextlib.suppress(ConnectionError):
                while True:
                    writer.write(b"X-A: b\r\n")
                    await writer.drain()
                    await asyncio.sleep(SHORT / 10)

        dripping = asyncio.create_task(drip())
        assert (await rest(reader)).startswith(b"HTTP/1.1 408 ")
        dripping.cancel()


async def test_a_late_client_sees_the_refusal_whatever_it_goes_on_to_send() -> None:
    async with site(head=SHORT, linger=LONG) as s:
        reader, writer = await s.connect(b"GET /healthz HTTP/1.1\r\n")
        await asyncio.sleep(2 * SHORT)
        for _ in range(20):
            writer.write(b"X-A: b\r\n" * 100)
            await writer.drain()
            await asyncio.sleep(SHORT / 20)
        assert (await rest(reader)).startswith(b"HTTP/1.1 408 ")


async def test_what_cannot_be_read_is_not_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """aiohttp tells of each by a traceback, with the field that it could not read."""
    async with site() as s:
        for sent in (
            b"GET / HTTP/1.1\r\nAuthorization: Bearer secret\x0b\r\n\r\n",
            b"GET /?\x85 HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1\r\nX: " + b"secret" * 2000 + b"\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00",  # TLS
        ):
            reader, _ = await s.connect(sent)
            assert (await rest(reader)).startswith(b"HTTP/1.0 400 ")
    assert not [record for record in caplog.records if record.name.startswith(("aiohttp", "tidegate"))]


async def test_a_connection_on_which_nothing_comes() -> None:
    async with site(head=SHORT) as s:
        reader, _ = await s.connect()
        assert await rest(reader) == b""


async def test_the_head_of_a_further_request() -> None:
    async with site(head=SHORT) as s:
        reader, writer = await s.connect(GET)
        assert (await answer(reader))[0] == 200
        await asyncio.sleep(2 * SHORT)  # idle, which has a limit of its own
        writer.write(GET)
        assert (await answer(reader))[0] == 200
        writer.write(GET[:20])
        assert (await rest(reader)).startswith(b"HTTP/1.1 408 ")


async def test_an_idle_connection() -> None:
    async with site(idle=SHORT) as s:
        reader, _ = await s.connect(GET)
        assert (await answer(reader))[0] == 200
        assert await rest(reader) == b""


@pytest.mark.parametrize(
    "framing",
    [b"Content-Length: 15\r\n\r\n{", b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n", b"Content-Length: 9\r\n\r\n"],
)
@pytest.mark.parametrize("path", [b"/api/v1/explain", b"/api/v1/endpoint", b"/api/v1/reload", b"/nothing"])
async def test_a_body_that_does_not_end(path: bytes, framing: bytes) -> None:
    """Also where nobody wants it."""
    async with site(body=SHORT) as s:
        reader, _ = await s.connect(b"POST " + path + b" HTTP/1.1\r\nHost: localhost\r\n" + framing)
        status, fields, body = await answer(reader)
        assert (status, fields["connection"]) == (408, "close")
        assert b"body" in body
        assert await rest(reader) == b""
        assert s.master.asked == 0


@pytest.mark.parametrize("method", [b"GET", b"POST", b"PUT", b"DELETE", b"OPTIONS"])
@pytest.mark.parametrize(
    "path", [b"/api/v1/status", b"/api/v1/reload", b"/api/v1/explain", b"/metrics", b"/", b"/healthz"]
)
async def test_a_body_that_says_it_is_too_long(method: bytes, path: bytes) -> None:
    async with site() as s:
        reader, _ = await s.connect(method + b" " + path + b" HTTP/1.1\r\nHost: a\r\nContent-Length: 65537\r\n\r\n")
        # The Host is refused before the body, but not on the open paths.
        status, fields, _ = await answer(reader)
        assert (status, fields["connection"]) in ((413, "close"), (403, "close"))
        assert await rest(reader) == b""
        assert s.master.asked == 0


@pytest.mark.parametrize("path", [b"/api/v1/explain", b"/api/v1/reload", b"/api/v1/endpoint"])
async def test_an_endless_body(path: bytes) -> None:
    async with site() as s:
        reader, writer = await s.connect(
            b"POST " + path + b" HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        )

        async def send() -> None:
            with contextlib.suppress(ConnectionError):
                while True:
                    writer.write(b"1000\r\n" + b"x" * 4096 + b"\r\n")
                    await writer.drain()

        sending = asyncio.create_task(send())
        status, fields, body = await answer(reader)
        assert (status, fields["connection"]) == (413, "close")
        assert b"65536 bytes" in body
        await rest(reader)
        await sending
        assert s.master.asked == 0


async def test_a_body_up_to_the_bound() -> None:
    async with site() as s:
        body = QUESTION + b" " * (65536 - len(QUESTION))
        reader, _ = await s.connect(POST + b"Content-Length: 65536\r\n\r\n" + body)
        assert (await answer(reader))[::2] == (200, QUESTION + b"\n")


async def test_a_compressed_body() -> None:
    """64 KiB would be 64 MiB when they are inflated."""
    async with site() as s:
        reader, _ = await s.connect(POST + b"Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc")
        assert (await answer(reader))[0] == 415


async def test_a_client_that_does_not_read() -> None:
    async with site(answer=SHORT) as s:
        s.master.size = 30_000_000
        reader, writer = await s.connect(GET)
        await reader.readexactly(15)
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        while len(s.server._connections or ()):
            await asyncio.sleep(0.01)
        writer.close()


async def test_a_refusal_ends_a_connection_whose_body_was_not_read() -> None:
    async with site() as s:
        reader, writer = await s.connect(
            b"POST /api/v1/reload HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil\r\nContent-Length: 9\r\n\r\n"
        )
        status, fields, _ = await answer(reader)
        assert (status, fields["connection"]) == (403, "close")
        writer.write(b"123456789")
        assert await rest(reader) == b""


async def test_with_all_connections_in_use_a_new_one_takes_the_place_of_the_one_that_waits_longest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(admin, "_most_connections", lambda: 3)
    async with site() as s:
        oldest, _ = await s.connect(b"GET")
        served, served_writer = await s.connect(GET)
        assert (await answer(served))[0] == 200
        await s.connect(b"GET / ")
        newest, _ = await s.connect(GET)
        assert (await answer(newest))[0] == 200
        assert await rest(oldest) == b""
        served_writer.write(GET)
        assert (await answer(served))[0] == 200


async def test_a_connection_that_is_being_answered_is_not_ended_for_a_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "_most_connections", lambda: 1)
    async with site() as s:
        reader, writer = await s.connect(POST + b"Content-Length: %d\r\nExpect: 100-continue\r\n\r\n" % len(QUESTION))
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
        other, _ = await s.connect(GET)
        assert await rest(other) == b""
        writer.write(QUESTION)
        assert (await answer(reader))[0] == 200


async def test_every_answer_forbids_to_embed_and_to_keep_it() -> None:
    async with site() as s:
        for path in (b"/", b"/healthz", b"/api/v1/status", b"/nothing"):
            reader, _ = await s.connect(b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
            fields = (await answer(reader))[1]
            assert fields["cross-origin-resource-policy"] == "same-origin"
            assert (fields["x-content-type-options"], fields["cache-control"]) == ("nosniff", "no-store")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", 200),
        (b"GET /metrics/none HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"GET /api/v1/status HTTP/1.1\r\nHost: evil.example\r\n\r\n", 403),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nBad Name: x\r\n\r\n", 400),  # answered by aiohttp itself
        (b"\x16\x03\x01\x00\x05\x01\r\n\r\n", 400),
    ],
)
async def test_no_answer_tells_what_the_server_is_made_of(sent: bytes, status: int) -> None:
    async with site() as s:
        reader, _ = await s.connect(sent)
        code, fields, _ = await answer(reader)
        assert code == status
        assert "server" not in fields


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/api/v1/status", b"", 200),
        ("GET", "/nothing", b"", 404),
        ("GET", "/api/v1/explain", b"", 405),
        ("GET", "/api/v1/transitions?last=x", b"", 400),
        ("GET", "/api/v1/history?after=x", b"", 400),
        ("GET", "/api/v1/cache/top?last=x", b"", 400),
        ("GET", "/api/v1/jobs?last=x", b"", 400),
        ("GET", "/api/v1/quotas?last=x", b"", 400),
        ("GET", "/api/v1/tables?last=x", b"", 400),
        *((method, path, b"{", 400) for method, path in (
            ("POST", "/api/v1/endpoint"), ("POST", "/api/v1/explain"), ("POST", "/api/v1/settings"),
            ("POST", "/api/v1/scale"), ("POST", "/api/v1/cache/purge"), ("POST", "/api/v1/canaries"),
            ("POST", "/api/v1/jobs"), ("POST", "/api/v1/quotas"), ("POST", "/api/v1/tables"),
        )),
        ("POST", "/api/v1/explain", b"x" * 70_000, 413),
    ],
)  # fmt: skip
async def test_json_ends_with_a_newline(method: str, path: str, body: bytes, status: int) -> None:
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    async with site() as s:
        reader, _ = await s.connect(head.encode() + body)
        code, fields, found = await answer(reader)
        assert (code, fields["content-type"]) == (status, "application/json")
        assert found.endswith(b"}\n")
        orjson.loads(found)
