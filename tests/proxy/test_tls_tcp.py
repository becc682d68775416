"""TLS ended at a TCP listener, and begun towards a TCP pool: the bytes inside of it are passed on."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import ssl
import struct
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from authority import Authority, server_context
from datapath import SECOND, Gate, Site, settle
from msgspec.structs import replace
from queue_site import QUEUE, waiting

from lb.config.plan.tls import CertificatePlan, PoolTlsPlan, TlsPlan

AUTHORITY = Authority()
PAIR = AUTHORITY.issue("default.test", "127.0.0.1")
BLOCK = random.Random(7).randbytes(4 << 20)
TLS = TlsPlan(
    certificates=(CertificatePlan(("default.test",), PAIR.chain, PAIR.key),),
    min_version="tls1.2",
    ciphers="",
    alpn=(),
    client_auth="none",
    client_ca=b"",
    handshake_timeout_ns=10 * SECOND,
)
LISTENER: dict[str, Any] = {"protocol": "tcp", "tls": TLS}
POOL: dict[str, Any] = {
    "tls": PoolTlsPlan(
        ca=AUTHORITY.pem, certificate=b"", key=b"", server_name="", min_version="tls1.2", alpn=(), verify=True
    )
}


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def through(gate: Gate, size: int, secured: bool = True) -> None:
    context = AUTHORITY.client_context() if secured else None
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", gate.port, ssl=context, server_hostname="default.test" if secured else None, limit=1 << 24
    )

    async def send() -> None:
        for i in range(0, size, 1 << 18):
            writer.write(BLOCK[i : min(size, i + (1 << 18))])
            await writer.drain()

    _, received = await asyncio.wait_for(asyncio.gather(send(), reader.readexactly(size)), 60)
    assert received == BLOCK[:size]
    writer.close()


async def idle(gate: Gate) -> None:
    await settle(lambda: gate.in_flight() == 0 and gate.proxy.busy() == 0, "a session is left")
    assert gate.proxy.stats()["connections"] == 0


async def test_tls_is_ended_at_the_listener(site: Site) -> None:
    gate = await site.gate([await site.endpoint(echo)], listener=LISTENER)
    for size in (1, 65536, 65537, len(BLOCK)):
        await through(gate, size)
    await idle(gate)


async def test_tls_is_begun_towards_the_pool(site: Site, tmp_path: Path) -> None:
    endpoint = await site.endpoint(echo, server_context(PAIR, tmp_path))
    gate = await site.gate([endpoint], listener={"protocol": "tcp"}, pool=POOL)
    for size in (1, 65536, len(BLOCK)):
        await through(gate, size, secured=False)
    await idle(gate)


async def test_tls_on_both_sides(site: Site, tmp_path: Path) -> None:
    endpoint = await site.endpoint(echo, server_context(PAIR, tmp_path))
    gate = await site.gate([endpoint], listener=LISTENER, pool=POOL)
    await asyncio.gather(*(through(gate, 300_000) for _ in range(8)))
    await idle(gate)


async def test_the_endpoint_hears_of_nobody_without_a_handshake(site: Site) -> None:
    met = 0

    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal met
        met += 1
        await echo(reader, writer)

    slow = {**LISTENER, "tls": replace(TLS, handshake_timeout_ns=SECOND // 5)}
    gate = await site.gate([await site.endpoint(count)], listener=slow)
    assert len(await gate.exchange(b"not TLS at all\r\n")) < 100
    reader, writer = await gate.connect()
    assert await asyncio.wait_for(reader.read(-1), 20) == b""
    writer.close()
    await idle(gate)
    assert met == 0
    await through(gate, 10)
    assert met == 1


async def test_a_session_waits_longer_for_an_endpoint_than_its_handshake_may_take(site: Site) -> None:
    short = {**LISTENER, "tls": replace(TLS, handshake_timeout_ns=SECOND)}
    gate = await site.gate([await site.endpoint(echo)], cap=1, pool={"queue": QUEUE}, listener=short)
    context = AUTHORITY.client_context()
    first, writer = await asyncio.open_connection("127.0.0.1", gate.port, ssl=context, server_hostname="default.test")
    writer.write(b"one")
    assert await first.readexactly(3) == b"one"
    second, other = await asyncio.open_connection("127.0.0.1", gate.port, ssl=context, server_hostname="default.test")
    other.write(b"two")
    await settle(lambda: waiting(gate) == 1, "it does not wait")
    await asyncio.sleep(2)
    writer.close()
    assert await asyncio.wait_for(second.readexactly(3), 20) == b"two"
    other.close()
    await idle(gate)


async def test_an_endpoint_that_is_not_believed(site: Site, tmp_path: Path) -> None:
    bad = server_context(Authority("Other").issue("127.0.0.1"), tmp_path)
    gate = await site.gate([await site.endpoint(echo, bad)], listener={"protocol": "tcp"}, pool=POOL)
    assert await gate.exchange(b"") == b""
    await idle(gate)


def half_close(port: int) -> bytes:
    """Sends close_notify behind its data, and reads what comes until the other side's."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    secured = AUTHORITY.client_context().wrap_bio(incoming, outgoing, server_hostname="default.test")
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as plain:

        def pump() -> None:
            if outgoing.pending:
                plain.sendall(outgoing.read())

        def fill() -> None:
            pump()
            data = plain.recv(65536)
            if data:
                incoming.write(data)
            else:
                incoming.write_eof()

        while True:
            try:
                secured.do_handshake()
                break
            except ssl.SSLWantReadError:
                fill()
        secured.write(b"0123456789")
        try:
            secured.unwrap()
        except ssl.SSLWantReadError:
            pump()
        while True:
            try:
                data = secured.read(65536)
            except ssl.SSLWantReadError:
                fill()
                continue
            except ssl.SSLZeroReturnError:
                return received
            if not data:
                return received
            received += data


async def test_half_close_passes_through(site: Site) -> None:
    async def answer_at_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = await reader.read(-1)
        writer.write(b"%d bytes" % len(data) + bytes(300_000))
        await writer.drain()
        writer.close()

    gate = await site.gate([await site.endpoint(answer_at_the_end)], listener=LISTENER)
    assert await asyncio.to_thread(half_close, gate.port) == b"10 bytes" + bytes(300_000)
    await idle(gate)


def cut_short(secured: ssl.SSLSocket, data: bytes) -> socket.socket:
    """Sends `data`, and then a FIN without close_notify, as clients do that close their socket and no more."""
    secured.sendall(data)
    plain = socket.socket(fileno=secured.detach())
    plain.settimeout(20)
    plain.shutdown(socket.SHUT_WR)
    return plain


class Sending(threading.Thread):
    """Sends until all is sent, or `error`."""

    def __init__(self, connection: socket.socket, data: bytes) -> None:
        super().__init__(daemon=True)
        self.error: OSError | None = None
        self._connection = connection
        self._data = data
        self.start()

    def run(self) -> None:
        try:
            self._connection.sendall(self._data)
        except OSError as error:
            self.error = error


def takes_slowly(connection: socket.socket, sending: Sending | None = None) -> bytes:
    """What comes until a reset. The kernel tells it to one call alone, which may be of the thread that is `sending`."""
    received = bytearray()
    time.sleep(0.3)  # all of it waits in the daemon, and in the kernel
    while True:
        try:
            data = connection.recv(1 << 16)
        except ConnectionResetError:
            return bytes(received)
        if not data:
            assert sending is not None, "a plain end"
            sending.join(20)
            assert isinstance(sending.error, ConnectionResetError), "a plain end"
            return bytes(received)
        received += data
        time.sleep(0.001)


@pytest.mark.parametrize("answers", [False, True])
async def test_a_client_that_ends_without_close_notify_has_sent_what_it_has_sent(site: Site, answers: bool) -> None:
    """As with HAProxy the endpoint gets all of it; here it also learns, by a reset, that more may be missing."""
    listening = socket.create_server(("127.0.0.1", 0))

    def take() -> bytes:
        connection, _ = listening.accept()
        with connection:
            # More than the daemon's buffers take for a client that does not read.
            return takes_slowly(connection, Sending(connection, bytes(16 << 20)) if answers else None)

    def send(port: int) -> None:
        plain = socket.create_connection(("127.0.0.1", port), timeout=20)
        secured = AUTHORITY.client_context().wrap_socket(plain, server_hostname="default.test")
        if answers:
            assert secured.recv(1)
        with cut_short(secured, BLOCK[: 1 << 20]):
            taken.wait(20)

    taken = threading.Event()
    gate = await site.gate([f"127.0.0.1:{listening.getsockname()[1]}"], listener=LISTENER)
    sending = asyncio.create_task(asyncio.to_thread(send, gate.port))
    received = await asyncio.wait_for(asyncio.to_thread(take), 30)
    taken.set()
    await sending
    listening.close()
    assert received == BLOCK[: 1 << 20]
    await idle(gate)


async def test_an_endpoint_that_ends_without_close_notify_has_answered_what_it_has_answered(
    site: Site, tmp_path: Path
) -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    context = server_context(PAIR, tmp_path)

    def answer() -> None:
        connection, _ = listening.accept()
        with cut_short(context.wrap_socket(connection, server_side=True), BLOCK[: 1 << 20]):
            taken.wait(20)

    def take(port: int) -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
            return takes_slowly(connection)

    taken = threading.Event()
    endpoint = f"127.0.0.1:{listening.getsockname()[1]}"
    gate = await site.gate([endpoint], listener={"protocol": "tcp"}, pool=POOL)
    answering = asyncio.create_task(asyncio.to_thread(answer))
    received = await asyncio.wait_for(asyncio.to_thread(take, gate.port), 30)
    taken.set()
    await answering
    listening.close()
    assert received == BLOCK[: 1 << 20]
    await idle(gate)


async def test_nobody_is_left_to_take_what_came_before_an_end_without_close_notify(site: Site) -> None:
    """The endpoint resets the session while it is given the rest, and nothing is kept."""
    listening = socket.create_server(("127.0.0.1", 0))

    def refuse() -> None:
        connection, _ = listening.accept()
        time.sleep(0.3)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()

    def send(port: int) -> None:
        plain = socket.create_connection(("127.0.0.1", port), timeout=20)
        secured = AUTHORITY.client_context().wrap_socket(plain, server_hostname="default.test")
        with cut_short(secured, BLOCK[: 1 << 20]) as plain, contextlib.suppress(ConnectionResetError):
            while plain.recv(1 << 16):
                pass

    gate = await site.gate([f"127.0.0.1:{listening.getsockname()[1]}"], listener=LISTENER)
    await asyncio.wait_for(asyncio.gather(asyncio.to_thread(send, gate.port), asyncio.to_thread(refuse)), 10)
    listening.close()
    await idle(gate)
