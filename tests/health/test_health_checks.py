"""The contract every health check keeps, run on each type, and what is particular to each."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from health_servers import (
    NOT_SERVING,
    SERVING,
    answering,
    full,
    grpc_server,
    inference_server,
    listening,
    redis_server,
    speaking,
)
from pydantic import ValidationError
from readiness import Inference
from speaking_servers import SPEAKING, SpeakingServer

from lb.config.schema.file import HealthConfig
from lb.health.check import CheckFailed
from lb.health.registry import build

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
FAMILIES = [socket.AF_INET, socket.AF_INET6, socket.AF_UNIX]
TYPES = sorted(get_args(HealthConfig.model_fields["type"].annotation))


def open_fds() -> int:
    return len(os.listdir("/proc/self/fd"))


_started: dict[str, SpeakingServer] = {}


@pytest.fixture(scope="module", autouse=True)
def _stop() -> Iterator[None]:
    """Ends the servers that the tests of this module have started."""
    yield
    for server in _started.values():
        server.__exit__()
    _started.clear()


def speaking_server(kind: str) -> SpeakingServer:
    if kind not in _started:
        _started[kind] = SpeakingServer(kind).__enter__()
    return _started[kind]


@contextlib.asynccontextmanager
async def well(kind: str, family: socket.AddressFamily, folder: Path) -> AsyncIterator[str]:
    if kind in SPEAKING:
        server = speaking_server(kind)
        if family == socket.AF_UNIX:
            (folder / "s.sock").symlink_to(server.unix)
            yield f"unix:{folder / 's.sock'}"
        else:
            yield server.address(family)
    elif kind == "grpc":
        async with grpc_server(family, folder, {"": SERVING}) as (address, _):
            yield address
    elif kind == "oip":
        async with inference_server(family, folder, Inference()) as address:
            yield address
    elif kind == "redis":
        async with redis_server(family, folder) as address:
            yield address
    elif kind == "udp":
        with answering(family, folder, b"") as (address, _):
            yield address
    else:
        async with speaking(family, folder, OK) as (address, _):
            yield address


@contextlib.contextmanager
def hanging(kind: str, folder: Path) -> Iterator[str]:
    """An endpoint that lets a check wait."""
    if kind == "udp":
        with answering(socket.AF_INET, folder, None) as (address, _):
            yield address
    else:
        with full(folder) as address:
            yield address


class TestContract:
    @pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
    @pytest.mark.parametrize("kind", TYPES)
    async def test_passes_on_a_well_endpoint(self, kind: str, family: socket.AddressFamily, tmp_path: Path) -> None:
        async with well(kind, family, tmp_path) as address:
            check = build(HealthConfig(type=kind))
            for _ in range(3):
                await asyncio.wait_for(check.run(address), 20)

    @pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
    @pytest.mark.parametrize("kind", TYPES)
    async def test_names_the_reason_when_nothing_listens(
        self, kind: str, family: socket.AddressFamily, tmp_path: Path
    ) -> None:
        sock, address = listening(family, tmp_path)
        sock.close()
        with pytest.raises(CheckFailed, match=r"(?i)connection refused"):
            await asyncio.wait_for(build(HealthConfig(type=kind)).run(address), 20)

    @pytest.mark.parametrize("kind", TYPES)
    async def test_fails_on_a_missing_socket_file(self, kind: str, tmp_path: Path) -> None:
        with pytest.raises(CheckFailed, match=r"(?i)no such file"):
            await asyncio.wait_for(build(HealthConfig(type=kind)).run(f"unix:{tmp_path}/none.sock"), 20)

    @pytest.mark.parametrize("address", ["", "nowhere", "127.0.0.1", "127.0.0.1:99999", "::1:80", "a-name:80"])
    @pytest.mark.parametrize("kind", TYPES)
    async def test_refuses_what_is_no_address(self, kind: str, address: str) -> None:
        with pytest.raises(CheckFailed):
            await build(HealthConfig(type=kind)).run(address)

    @pytest.mark.parametrize("kind", TYPES)
    async def test_recovers_as_soon_as_the_endpoint_does(self, kind: str, tmp_path: Path) -> None:
        check = build(HealthConfig(type=kind))
        name = "g.sock" if kind in ("grpc", "oip") else "s.sock"
        for _ in range(5):
            with pytest.raises(CheckFailed):
                await check.run(f"unix:{tmp_path / name}")
        async with well(kind, socket.AF_UNIX, tmp_path) as address:
            await asyncio.wait_for(check.run(address), 20)

    @pytest.mark.parametrize("kind", TYPES)
    async def test_a_cancelled_check_closes_its_sockets(self, kind: str, tmp_path: Path) -> None:
        check = build(HealthConfig(type=kind, timeout="50ms"))
        with hanging(kind, tmp_path) as address:

            async def cancelled() -> None:
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await check.run(address)

            await cancelled()  # libraries open what they keep
            before = await settled_fds()
            for _ in range(10):
                await cancelled()
            assert await settled_fds() <= before

    @pytest.mark.parametrize("kind", TYPES)
    async def test_failed_and_passed_checks_leak_nothing(self, kind: str, tmp_path: Path) -> None:
        check = build(HealthConfig(type=kind))
        async with well(kind, socket.AF_UNIX, tmp_path) as address:

            async def both() -> None:
                await check.run(address)
                with pytest.raises(CheckFailed):
                    await check.run(f"unix:{tmp_path}/none.sock")

            await both()
            before = await settled_fds()
            for _ in range(10):
                await both()
            assert await settled_fds() <= before


async def settled_fds() -> int:
    """The number of descriptors once it stops falling: servers and gRPC's threads close theirs a little later."""
    fewest, quiet = open_fds(), 0
    while quiet < 10:
        await asyncio.sleep(0.02)
        now = open_fds()
        fewest, quiet = (now, 0) if now < fewest else (fewest, quiet + 1)
    return fewest


async def test_tcp_does_not_take_a_full_unix_queue_for_a_connection(tmp_path: Path) -> None:
    sock, address = listening(socket.AF_UNIX, tmp_path, backlog=0)
    filler = socket.socket(socket.AF_UNIX)
    filler.connect(address.removeprefix("unix:"))
    with sock, filler, pytest.raises(CheckFailed, match="queue"):
        await asyncio.wait_for(build(HealthConfig(type="tcp")).run(address), 20)


@pytest.mark.parametrize(
    ("answer", "status", "reason"),
    [
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", [200], "status 503"),
        (b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n", [200], "status 302"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", [200, 204], None),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nshort", [200], None),  # the body is not awaited
        (b"SSH-2.0-OpenSSH\r\n\r\n", [200], "no valid HTTP answer: Expected HTTP/$"),
        (b"", [200], "closed without an answer"),
    ],
)
async def test_http_judges_the_status(tmp_path: Path, answer: bytes, status: list[int], reason: str | None) -> None:
    async with speaking(socket.AF_INET, tmp_path, answer) as (address, _):
        check = build(HealthConfig(type="http", status=status))
        if reason is None:
            await asyncio.wait_for(check.run(address), 20)
        else:
            with pytest.raises(CheckFailed, match=reason):
                await asyncio.wait_for(check.run(address), 20)


@pytest.mark.parametrize(
    ("status", "code", "good"),
    [
        (["200-399"], 302, True),
        (["200-299", 404], 404, True),
        (["200-299", 404], 403, False),
        (["503-503"], 503, True),
    ],
)
async def test_http_takes_ranges_of_codes(tmp_path: Path, status: list[int | str], code: int, good: bool) -> None:
    answer = f"HTTP/1.1 {code} X\r\nContent-Length: 0\r\n\r\n".encode()
    async with speaking(socket.AF_INET, tmp_path, answer) as (address, _):
        check = build(HealthConfig(type="http", status=status))
        if good:
            await asyncio.wait_for(check.run(address), 20)
        else:
            with pytest.raises(CheckFailed, match=f"status {code}"):
                await asyncio.wait_for(check.run(address), 20)


async def test_http_asks_with_method_and_headers(tmp_path: Path) -> None:
    check = build(HealthConfig(type="http", method="options", headers={"X-Probe": "yes", "user-agent": "mine/1"}))
    async with speaking(socket.AF_INET, tmp_path, OK) as (address, heads):
        await check.run(address)
    lines = heads[0].decode().split("\r\n")
    assert lines[0] == "OPTIONS / HTTP/1.1"
    assert "X-Probe: yes" in lines
    assert [line for line in lines if line.lower().startswith("user-agent")] == ["user-agent: mine/1"]


async def test_http_does_not_ask_for_a_body_that_is_compressed(tmp_path: Path) -> None:
    async with speaking(socket.AF_INET, tmp_path, OK) as (address, heads):
        await build(HealthConfig(type="http", method="POST")).run(address)
        await build(HealthConfig(type="http", headers={"Accept-Encoding": "gzip"})).run(address)
    first, second = (head.decode().lower() for head in heads)
    assert "accept-encoding" not in first
    assert "content-type" not in first
    assert "accept-encoding: gzip\r\n" in second


@pytest.mark.parametrize("fields", ["X-Policy: " + "a" * 12_000 + "\r\n", "X: y\r\n" * 500])
async def test_http_takes_an_answer_with_as_large_a_head_as_workers_do(tmp_path: Path, fields: str) -> None:
    answer = f"HTTP/1.1 200 OK\r\n{fields}Content-Length: 0\r\n\r\n".encode()
    async with speaking(socket.AF_INET, tmp_path, answer) as (address, _):
        await build(HealthConfig(type="http")).run(address)


async def test_http_names_a_reset_in_words(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(CheckFailed, match=r"^Connection reset by peer$"):
            await build(HealthConfig(type="http")).run(address)


async def test_http_says_in_words_that_the_endpoint_did_not_wait_for_the_request(tmp_path: Path) -> None:
    """One that greets, as those of other protocols do, or closes at once: which of the two is seen first is chance."""
    sock, address = listening(socket.AF_INET, tmp_path)
    sock.setblocking(True)

    def greet() -> None:  # in a thread of its own, so that it may be faster than the check
        with contextlib.suppress(OSError):
            while True:
                with sock.accept()[0] as accepted, contextlib.suppress(ConnectionError):
                    accepted.sendall(b"220 mail.test ready\r\n")

    greeting = threading.Thread(target=greet)
    greeting.start()
    words = (
        "connection closed without an answer",
        "no valid HTTP answer: Expected HTTP/",
        "Connection reset by peer",
    )
    try:
        for _ in range(100):
            with pytest.raises(CheckFailed) as failed:
                await build(HealthConfig(type="http")).run(address)
            assert str(failed.value) in words
    finally:
        sock.shutdown(socket.SHUT_RDWR)  # which accept(2) is told
        greeting.join()
        sock.close()


def answer_of(body: bytes, code: int = 200) -> bytes:
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%s" % (code, len(body), body)


@pytest.mark.parametrize(
    ("body", "answer", "reason"),
    [
        ({"contains": "ready: ja\u00e9"}, answer_of("{ready: ja\u00e9}".encode()), None),
        ({"contains": "ready"}, answer_of(b"down"), "'ready' was not found in the body"),
        ({"contains": "ready"}, answer_of(b""), "'ready' was not found"),
        ({"regex": '"load": *[0-9]{1,2},'}, answer_of(b'{"load": 73, "x": 1}'), None),
        ({"regex": '"load": *[0-9]{1,2},'}, answer_of(b'{"load": 173, "x": 1}'), "was not found in the body"),
        ({"regex": "^ok$"}, answer_of(b"ok"), None),
        # Behind the limit nothing is looked at, and a body that never ends is not awaited.
        ({"contains": "ready", "limit": "16B"}, answer_of(b"." * 12 + b"ready"), "was not found in the body"),
        ({"contains": "ready", "limit": "17B"}, answer_of(b"." * 12 + b"ready"), None),
        ({"contains": "ready"}, b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nready", None),
        ({"regex": "x", "limit": "8B"}, b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n........x", "not found"),
        ({"contains": "ready"}, answer_of(b"ready", 500), "status 500$"),
    ],
)
async def test_http_looks_into_the_body(
    tmp_path: Path, body: dict[str, Any], answer: bytes, reason: str | None
) -> None:
    check = build(HealthConfig(type="http", body=body))
    async with speaking(socket.AF_INET, tmp_path, answer) as (address, _):
        if reason is None:
            await asyncio.wait_for(check.run(address), 20)
        else:
            with pytest.raises(CheckFailed, match=reason):
                await asyncio.wait_for(check.run(address), 20)


async def test_http_reads_no_more_of_an_endless_body_than_its_limit(tmp_path: Path) -> None:
    sent = 0
    gone = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        with contextlib.suppress(OSError):
            while True:
                writer.write(b"400\r\n" + b"." * 1024 + b"\r\n")
                await writer.drain()
                sent += 1024
        writer.close()
        gone.set()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        check = build(HealthConfig(type="http", body={"contains": "x", "limit": "4KiB"}))
        with pytest.raises(CheckFailed, match="not found"):
            await asyncio.wait_for(check.run(address), 20)
        await asyncio.wait_for(gone.wait(), 20)
    assert sent >= 4096


@pytest.mark.parametrize(
    "settings",
    [
        {"status": ["399-200"]},
        {"status": ["2xx"]},
        {"status": [99]},
        {"status": [True]},
        {"method": "FETCH"},
        {"method": "CONNECT"},
        {"headers": {"Host": "a"}},
        {"host": "a\r\nY: b"},
        {"headers": {"X": "a\r\nY: b"}},
        {"body": {}},
        {"body": {"contains": "a", "regex": "b"}},
        {"models": "all"},
        {"models": ["a/b"]},
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        HealthConfig(type="http", **settings)


async def test_http_sends_path_and_host_as_configured(tmp_path: Path) -> None:
    async with speaking(socket.AF_INET, tmp_path, OK) as (address, heads):
        await build(HealthConfig(type="http", path="/a//b/../c%2Fd?x=%41", host="models.example.org")).run(address)
        await build(HealthConfig(type="http")).run(address)
    first, second = (head.decode().split("\r\n") for head in heads)
    assert first[0] == "GET /a//b/../c%2Fd?x=%41 HTTP/1.1"
    assert "Host: models.example.org" in first
    assert f"Host: {address}" in second


@pytest.mark.parametrize(
    ("statuses", "service", "reason"),
    [
        ({"": NOT_SERVING}, "", "NOT_SERVING"),
        ({"": NOT_SERVING, "infer": SERVING}, "infer", None),
        ({"": SERVING}, "infer", "unknown service 'infer'"),
        (None, "", "does not implement"),
    ],
)
async def test_grpc_judges_the_service(
    tmp_path: Path, statuses: dict[str, int] | None, service: str, reason: str | None
) -> None:
    async with grpc_server(socket.AF_INET, tmp_path, statuses) as (address, _):
        check = build(HealthConfig(type="grpc", service=service))
        if reason is None:
            await asyncio.wait_for(check.run(address), 20)
        else:
            with pytest.raises(CheckFailed, match=reason):
                await asyncio.wait_for(check.run(address), 20)


@pytest.mark.parametrize("statuses", [None, {"": NOT_SERVING}])
async def test_grpc_takes_unimplemented_for_alive_when_told(tmp_path: Path, statuses: dict[str, int] | None) -> None:
    async with grpc_server(socket.AF_INET, tmp_path, statuses) as (address, _):
        check = build(HealthConfig(type="grpc", unimplemented="up"))
        if statuses is None:
            await asyncio.wait_for(check.run(address), 20)
        else:  # a server that has the protocol is believed
            with pytest.raises(CheckFailed, match="NOT_SERVING"):
                await asyncio.wait_for(check.run(address), 20)


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", b""])
async def test_grpc_fails_on_what_is_not_grpc(tmp_path: Path, answer: bytes) -> None:
    async with speaking(socket.AF_INET, tmp_path, answer) as (address, _):
        with pytest.raises(CheckFailed):
            await asyncio.wait_for(build(HealthConfig(type="grpc")).run(address), 30)


@pytest.mark.parametrize(
    ("answer", "expect", "reason"),
    [
        (b"pong", None, None),
        (b"\x00\xffpong\n", "^\\x00\xff.*g\n$", None),
        (b"pong", "^ping", "not what was expected"),
        (b"", "x", "not what was expected"),
    ],
)
async def test_udp_judges_the_answer(tmp_path: Path, answer: bytes, expect: str | None, reason: str | None) -> None:
    with answering(socket.AF_INET, tmp_path, answer) as (address, came):
        check = build(HealthConfig(type="udp", send="\x00\xffping", expect=expect))
        if reason is None:
            await asyncio.wait_for(check.run(address), 20)
        else:
            with pytest.raises(CheckFailed, match=reason):
                await asyncio.wait_for(check.run(address), 20)
    assert came == [b"\x00\xffping"]


@pytest.mark.parametrize("answer", [None, b"unasked"])
async def test_udp_without_an_answer_passes_unless_refused(tmp_path: Path, answer: bytes | None) -> None:
    check = build(HealthConfig(type="udp", send="x", answered=False, timeout="200ms"))
    with answering(socket.AF_INET, tmp_path, answer) as (address, came):
        await asyncio.wait_for(check.run(address), 20)
        assert came == [b"x"]
    with pytest.raises(CheckFailed, match=r"(?i)refused"):
        await asyncio.wait_for(check.run(address), 20)


async def test_udp_sends_no_more_than_bytes() -> None:
    with pytest.raises(ValueError, match="not made of bytes"):
        HealthConfig(type="udp", send="snowman \u2603")


class TestRedis:
    async def test_a_server_that_asks_for_a_password_is_well(self, tmp_path: Path) -> None:
        async with redis_server(socket.AF_INET, tmp_path, "--requirepass", "secret") as address:
            await build(HealthConfig(type="redis")).run(address)

    @pytest.mark.parametrize(
        ("answer", "reason"),
        [
            (b"-LOADING Redis is loading the dataset in memory\r\n", "LOADING"),
            (b"-ERR unknown command\r\n", "ERR unknown"),
            (b"HTTP/1.1 400 Bad Request\r\n\r\n", "HTTP/1.1 400"),
            (b"x" * 100_000, "bytes came without the answer"),
            (b"+PON", "closed after"),
        ],
    )
    async def test_other_answers_fail(self, answer: bytes, reason: str, tmp_path: Path) -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            assert await reader.readline() == b"PING\r\n"
            writer.write(answer)
            writer.close()

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(CheckFailed, match=reason):
                await asyncio.wait_for(build(HealthConfig(type="redis")).run(f"127.0.0.1:{port}"), 20)
