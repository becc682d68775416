"""TLS to endpoints: who is believed, who is not, and that an answer cut off does not pass for a whole one."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from authority import Authority, Pair, server_context
from datapath import SECOND, Gate, Site
from msgspec.structs import replace

from lb.config.plan.tls import PoolTlsPlan

AUTHORITY = Authority()
CLIENTS = Authority("Clients")
BLOCK = random.Random(6).randbytes(1 << 20)
GET = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"

TLS = PoolTlsPlan(
    ca=AUTHORITY.pem, certificate=b"", key=b"", server_name="", min_version="tls1.2", alpn=("http/1.1",), verify=True
)


def over_tls(**changes: Any) -> dict[str, Any]:
    return {"tls": replace(TLS, **changes)}


@dataclass
class Seen:
    """What a TLS endpoint learned of its clients."""

    reused: list[bool] = field(default_factory=list)
    names: list[Any] = field(default_factory=list)
    alpn: list[str | None] = field(default_factory=list)


def answering(seen: Seen) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        secured = writer.get_extra_info("ssl_object")
        seen.reused.append(secured.session_reused)
        seen.alpn.append(secured.selected_alpn_protocol())
        seen.names.append(writer.get_extra_info("peercert"))
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"(?i)content-length: (\d+)", head)
            body = await reader.readexactly(int(length[1])) if length else b""
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (len(body) or 2) + (body or b"ok"))

    return handler


async def start(
    site: Site, folder: Path, pair: Pair, pool: dict[str, Any], clients: Authority | None = None
) -> tuple[Gate, Seen]:
    seen = Seen()
    context = server_context(pair, folder, clients)
    context.set_alpn_protocols(["http/1.1"])
    address = await site.endpoint(answering(seen), context)
    return await site.gate([address], pool=pool), seen


async def test_an_endpoint_that_proves_who_it_is(site: Site, tmp_path: Path) -> None:
    gate, seen = await start(site, tmp_path, AUTHORITY.issue("127.0.0.1"), over_tls())
    reader, writer = await gate.connect()
    for size in (0, 1, 100_000, len(BLOCK)):
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size + BLOCK[:size])
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
        assert head.startswith(b"HTTP/1.1 200"), head
        assert await asyncio.wait_for(reader.readexactly(size or 2), 20) == (BLOCK[:size] or b"ok")
    writer.close()
    assert seen.reused == [False]  # one connection for all
    assert seen.alpn == ["http/1.1"]


@pytest.mark.parametrize("name", ["a.models.test", "*.models.test"])
async def test_a_server_name_is_asked_for_and_checked(site: Site, tmp_path: Path, name: str) -> None:
    gate, _ = await start(site, tmp_path, AUTHORITY.issue(name), over_tls(server_name="a.models.test"))
    assert (await gate.exchange(GET)).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    ("pair", "pool", "reason"),
    [
        (AUTHORITY.issue("other.test"), over_tls(server_name="models.test"), "hostname mismatch"),
        (AUTHORITY.issue("127.0.0.2"), over_tls(), "IP address mismatch"),
        (AUTHORITY.issue("mod*.test"), over_tls(server_name="models.test"), "hostname mismatch"),
        (AUTHORITY.issue("127.0.0.1", start=-9, days=-1), over_tls(), "certificate has expired"),
        (AUTHORITY.issue("127.0.0.1", start=1), over_tls(), "not yet valid"),
        (AUTHORITY.issue("127.0.0.1", client=True), over_tls(), "purpose"),
        (Authority("Other").issue("127.0.0.1"), over_tls(), "self-signed certificate in certificate chain"),
        (
            AUTHORITY.issue("127.0.0.1"),
            over_tls(ca=b""),
            "self-signed certificate in certificate chain",
        ),  # the system's
    ],
)
async def test_an_endpoint_that_does_not_is_not_spoken_to(
    site: Site, tmp_path: Path, pair: Pair, pool: dict[str, Any], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "tidegate.tls")
    gate, seen = await start(site, tmp_path, pair, {**pool, "retries": 0})
    for _ in range(3):
        answer = await gate.exchange(GET)
        assert answer.startswith(b"HTTP/1.1 502"), answer
    assert seen.reused == []
    assert [record.name for record in caplog.records].count("tidegate.tls") == 1  # not once for each
    assert reason in caplog.text
    assert gate.in_flight() == 0


async def test_a_refused_endpoint_is_not_the_last_one_tried(site: Site, tmp_path: Path) -> None:
    bad = await site.endpoint(answering(Seen()), server_context(AUTHORITY.issue("127.0.0.9"), tmp_path))
    good = await site.endpoint(answering(Seen()), server_context(AUTHORITY.issue("127.0.0.1"), tmp_path))
    gate = await site.gate([bad, good], pool=over_tls())
    for _ in range(4):
        # Nothing was sent to the other: even a POST may be tried again.
        answer = await gate.exchange(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi")
        assert answer.startswith(b"HTTP/1.1 200"), answer


async def test_verification_may_be_switched_off(site: Site, tmp_path: Path) -> None:
    pair = Authority("Nobody").issue("x.test", start=-9, days=-1)
    gate, _ = await start(site, tmp_path, pair, over_tls(verify=False, ca=b""))
    assert (await gate.exchange(GET)).startswith(b"HTTP/1.1 200")


async def test_our_own_certificate(site: Site, tmp_path: Path) -> None:
    ours = CLIENTS.issue(subject="tidegate", client=True)
    pool = over_tls(certificate=ours.chain, key=ours.key)
    gate, seen = await start(site, tmp_path, AUTHORITY.issue("127.0.0.1"), pool, CLIENTS)
    assert (await gate.exchange(GET)).startswith(b"HTTP/1.1 200")
    assert seen.names[0]["subject"] == ((("commonName", "tidegate"),),)
    without, _ = await start(site, tmp_path, AUTHORITY.issue("127.0.0.1"), over_tls(), CLIENTS)
    assert (await without.exchange(GET)).startswith(b"HTTP/1.1 502")


async def test_sessions_are_resumed(site: Site, tmp_path: Path) -> None:
    gate, seen = await start(site, tmp_path, AUTHORITY.issue("127.0.0.1"), {**over_tls(), "max_idle": 0})
    for _ in range(3):
        assert (await gate.exchange(GET)).startswith(b"HTTP/1.1 200")
    assert seen.reused == [False, True, True]


async def test_an_endpoint_that_speaks_no_tls(site: Site) -> None:
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    gate = await site.gate([await site.endpoint(plain)], pool=over_tls())
    assert (await gate.exchange(GET)).startswith(b"HTTP/1.1 502")


async def test_an_endpoint_that_never_finishes_its_handshake(site: Site) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)
        writer.close()

    pool = {**over_tls(), "connect_timeout_ns": SECOND // 5, "retries": 0}
    gate = await site.gate([await site.endpoint(silent)], pool=pool)
    assert (await asyncio.wait_for(gate.exchange(GET), 10)).startswith(b"HTTP/1.1 502")
    assert gate.in_flight() == 0


@contextlib.contextmanager
def one_answer(context: ssl.SSLContext, answer: bytes, goodbye: bool) -> Iterator[str]:
    """The address of an endpoint that answers, and then closes with or without close_notify."""

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                plain, _ = listening.accept()
                plain.settimeout(20)
                with context.wrap_socket(plain, server_side=True) as secured:
                    secured.recv(65536)
                    secured.sendall(answer)
                    if goodbye:
                        secured.unwrap().close()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)
    thread.join(20)


@pytest.mark.parametrize("goodbye", [True, False])
async def test_only_close_notify_ends_an_answer_without_a_length(site: Site, tmp_path: Path, goodbye: bool) -> None:
    context = server_context(AUTHORITY.issue("127.0.0.1"), tmp_path)
    with one_answer(context, b"HTTP/1.0 200 OK\r\n\r\npart of the truth", goodbye) as address:
        gate = await site.gate([address], pool=over_tls())
        answer = await gate.exchange(GET)
    assert answer.startswith(b"HTTP/1.1 200") or not goodbye
    assert answer.endswith(b"\r\n0\r\n\r\n") is goodbye  # the client can tell
