"""Clients of TLS that do not play by the rules."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import ssl

import pytest
from datapath import SECOND, Site, settle
from tls_site import AUTHORITY, BLOCK, KEY, answer_ok, connect, echo_body, get, https


async def test_http_without_tls_is_answered_in_plain_words(site: Site) -> None:
    gate = await site.gate([await site.endpoint(answer_ok)], listener=https())
    answer = await gate.exchange(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"Connection: close" in answer
    assert b"https" in answer
    assert gate.total(1)["tls_handshakes.failed"] == 1


@pytest.mark.parametrize(
    "garbage",
    [b"\x00" * 100, b"\x16\x03\x01\xff\xff" + b"A" * 200, b"SSH-2.0-nobody\r\n"],
    ids=["zeros", "too-long", "ssh"],
)
async def test_garbage_ends_the_connection(site: Site, garbage: bytes) -> None:
    gate = await site.gate([await site.endpoint(answer_ok)], listener=https())
    answer = await gate.exchange(garbage)
    assert len(answer) < 100  # an alert at most
    await settle(lambda: gate.proxy.stats()["connections"] == 0, "the connection stays")
    assert gate.total(1)["tls_handshakes.failed"] == 1
    reader, writer = await connect(gate, AUTHORITY.client_context())
    await get(reader, writer)
    writer.close()


async def test_a_slow_handshake_is_ended(site: Site) -> None:
    gate = await site.gate([await site.endpoint(answer_ok)], listener=https(handshake_timeout_ns=SECOND // 5))
    reader, writer = await gate.connect()
    started = asyncio.get_running_loop().time()
    for byte in b"\x16\x03\x01\x02\x00":
        writer.write(bytes((byte,)))
        await asyncio.sleep(0.01)
    assert await asyncio.wait_for(reader.read(-1), 20) == b""
    assert asyncio.get_running_loop().time() - started < 10
    writer.close()
    await settle(lambda: gate.proxy.stats()["connections"] == 0, "the connection stays")
    assert gate.total(1)["tls_handshakes.failed"] == 1


@pytest.mark.parametrize("some", [b"\x16\x03", b"\x16\x03\x01\x02\x00\x01"], ids=["header", "record"])
async def test_an_end_within_the_handshake_is_seen(site: Site, some: bytes) -> None:
    gate = await site.gate([await site.endpoint(answer_ok)], listener=https(handshake_timeout_ns=3600 * SECOND))
    with socket.create_connection(("127.0.0.1", gate.port)) as client:
        client.sendall(some)
        client.shutdown(socket.SHUT_WR)  # before the gate has looked: one event tells of both
        await settle(lambda: gate.total(1)["tls_handshakes.failed"] == 1, "the end was not seen")
        await settle(lambda: gate.proxy.stats()["connections"] == 0, "the connection stays")


class Raw:
    """A TLS client whose records can be had before they are sent."""

    def __init__(self, port: int) -> None:
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.secured = AUTHORITY.client_context().wrap_bio(self.incoming, self.outgoing, server_hostname="default.test")
        self.plain = socket.create_connection(("127.0.0.1", port), timeout=20)
        while True:
            try:
                self.secured.do_handshake()
                break
            except ssl.SSLWantReadError:
                self.plain.sendall(self.outgoing.read())
                self.incoming.write(self.plain.recv(65536))
        self.plain.sendall(self.outgoing.read())

    def record(self, data: bytes) -> bytes:
        self.secured.write(data)
        return self.outgoing.read()

    def read(self) -> bytes:
        """What comes next; raises ssl.SSLError for an alert."""
        while True:
            try:
                return self.secured.read(65536)
            except ssl.SSLWantReadError:
                data = self.plain.recv(65536)
                if not data:
                    return b""
                self.incoming.write(data)


def trickle(port: int) -> bytes:
    """Sends a record with a request byte by byte; what comes back."""
    client = Raw(port)
    record = client.record(b"GET / HTTP/1.1\r\nHost: a\r\nX-Filler: %s\r\n\r\n" % (b"x" * 5000))
    with client.plain:
        client.plain.settimeout(0.02)
        for i in range(1000):
            client.plain.sendall(record[i : i + 1])
            with contextlib.suppress(TimeoutError):
                return client.read()
    return b""


async def test_a_slow_record_is_a_slow_head(site: Site) -> None:
    listener = {**https(), "header_timeout_ns": SECOND // 5}
    gate = await site.gate([await site.endpoint(answer_ok)], listener=listener)
    assert (await asyncio.to_thread(trickle, gate.port)).startswith(b"HTTP/1.1 408")
    await settle(lambda: gate.proxy.stats()["connections"] == 0, "the connection stays")


async def test_an_end_within_a_record_is_seen(site: Site) -> None:
    gate = await site.gate([await site.endpoint(answer_ok)], listener={**https(), "idle_timeout_ns": 3600 * SECOND})
    client = await asyncio.to_thread(Raw, gate.port)
    with client.plain:
        await settle(lambda: gate.total(1)["tls_handshakes.full"] == 1, "no handshake")
        client.plain.sendall(client.record(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")[:9])
        client.plain.shutdown(socket.SHUT_WR)  # before the gate has looked: one event tells of both
        await settle(lambda: gate.proxy.stats()["connections"] == 0, "the connection stays")


async def test_a_damaged_record_ends_the_connection(site: Site) -> None:
    gate = await site.gate([await site.endpoint(answer_ok)], listener=https())
    dice = random.Random(8)

    def damaged() -> str:
        client = Raw(gate.port)
        record = bytearray(client.record(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"))
        record[dice.randrange(5, len(record))] ^= 1 << dice.randrange(8)
        with client.plain:
            client.plain.sendall(record)
            try:
                return f"{client.read()!r}"
            except ssl.SSLError as error:
                return str(error)

    for _ in range(20):
        assert "BAD_RECORD_MAC" in (await asyncio.to_thread(damaged)).upper()
    await settle(lambda: gate.proxy.stats()["connections"] == 0, "a connection stays")
    assert gate.total(2)["started"] == 0  # no request was begun


async def test_a_client_that_takes_nothing_is_given_up(site: Site) -> None:
    async def much(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (64 << 20))
        for _ in range(64):
            writer.write(BLOCK)
            await writer.drain()

    listener = {**https(), "send_timeout_ns": SECOND // 2}
    gate = await site.gate([await site.endpoint(much)], listener=listener)
    with socket.socket() as plain:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await asyncio.to_thread(plain.connect, ("127.0.0.1", gate.port))
        secured = AUTHORITY.client_context().wrap_socket(
            plain, server_hostname="default.test", do_handshake_on_connect=False
        )
        await asyncio.to_thread(secured.do_handshake)
        secured.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await settle(lambda: gate.in_flight() == 1, "the request does not come")
        await settle(lambda: gate.proxy.stats()["connections"] == 0, "the client is waited for")
        secured.close()
    await settle(lambda: gate.in_flight() == 0, "an exchange stays")


async def test_a_renegotiation_is_refused(site: Site) -> None:
    gate = await site.gate([await site.endpoint(answer_ok)], listener=https())
    client = await asyncio.create_subprocess_exec(
        *("openssl", "s_client", "-connect", f"127.0.0.1:{gate.port}", "-tls1_2"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert client.stdin is not None
    await settle(lambda: gate.total(1)["tls_handshakes.full"] == 1, "the first handshake")
    client.stdin.write(b"R\n")
    output, _ = await asyncio.wait_for(client.communicate(), 20)
    assert b"no renegotiation" in output
    assert list(gate.total(1).values("tls_handshakes").values()) == [1, 0, 0]


async def test_many_handshakes_at_once(site: Site) -> None:
    gate = await site.gate([await site.endpoint(answer_ok)], listener=https(), tickets=(KEY,))

    async def one() -> None:
        reader, writer = await connect(gate, AUTHORITY.client_context())
        await get(reader, writer)
        writer.close()

    await asyncio.gather(*(one() for _ in range(100)))
    assert gate.total(1)["tls_handshakes.full"] == 100


async def test_a_client_that_vanishes_takes_nothing_along(site: Site) -> None:
    gate = await site.gate([await site.endpoint(echo_body)], listener=https())
    for _ in range(5):
        _, writer = await connect(gate, AUTHORITY.client_context())
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n" + BLOCK[:1000])
        await writer.drain()
        writer.transport.abort()
    await settle(lambda: gate.proxy.stats()["connections"] == 0, "a connection stays")
    await settle(lambda: gate.in_flight() == 0, "an exchange stays")


async def test_close_notify_says_that_an_answer_is_whole(site: Site) -> None:
    gate = await site.gate([await site.endpoint(answer_ok)], listener=https())
    context = AUTHORITY.client_context()

    def ask() -> bytes:
        # suppress_ragged_eofs off: an end without close_notify is an error.
        with (
            socket.create_connection(("127.0.0.1", gate.port), timeout=20) as plain,
            context.wrap_socket(plain, server_hostname="default.test", suppress_ragged_eofs=False) as secured,
        ):
            secured.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            received = b""
            while data := secured.recv(65536):
                received += data
            return received

    assert (await asyncio.to_thread(ask)).startswith(b"HTTP/1.1 200")
