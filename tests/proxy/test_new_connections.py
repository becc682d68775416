"""How HTTP/1.1 connections begin and end: what a client sees that makes one for a single request."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import struct

import pytest
from datapath import Gate, Site, settle

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
LAST = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
OLD = b"GET / HTTP/1.0\r\n\r\n"
TCP_INFO_SIZE, SEGMENTS_IN = 144, 140  # of struct tcp_info: up to tcpi_segs_in, and where that is


async def ask(gate: Gate, request: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection whose request is there when the gate accepts it, as most are."""
    sock = socket.create_connection(("127.0.0.1", gate.port), timeout=20)
    sock.sendall(request)
    sock.setblocking(False)
    return await asyncio.open_connection(sock=sock)


async def answering(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)


@pytest.mark.parametrize("request_", [LAST, OLD], ids=["close", "http-1.0"])
async def test_a_client_that_sends_no_more_is_not_waited_for(site: Site, request_: bytes) -> None:
    gate = await site.gate([await site.endpoint(answering)])
    reader, writer = await ask(gate, request_)
    assert (await asyncio.wait_for(reader.read(-1), 20)).endswith(b"\r\n\r\nok")
    # The client has closed nothing, and yet there is nothing left of it.
    assert gate.proxy.stats()["connections"] == 0
    writer.close()


async def test_a_client_that_sends_more_than_it_said_loses_no_answer(site: Site) -> None:
    """Closing at once would reset its connection, and could take the answer with it."""
    gate = await site.gate([await site.endpoint(answering)])
    reader, writer = await ask(gate, LAST + b"\r\n")
    assert (await asyncio.wait_for(reader.read(-1), 20)).endswith(b"\r\n\r\nok")
    assert gate.proxy.stats()["connections"] == 1
    writer.close()
    await settle(lambda: gate.proxy.stats()["connections"] == 0, "the connection stays open")


@pytest.mark.parametrize("size", [2, 100_000], ids=["small", "large"])
async def test_a_client_that_sends_more_before_its_answer_loses_none(site: Site, size: int) -> None:
    asked, more = asyncio.Event(), asyncio.Event()

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await more.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size))

    gate = await site.gate([await site.endpoint(endpoint)])
    reader, writer = await ask(gate, LAST)
    await asyncio.wait_for(asked.wait(), 20)
    writer.write(b"\r\n")
    more.set()
    assert (await asyncio.wait_for(reader.read(-1), 20)).endswith(b"\r\n\r\n" + bytes(size))
    assert gate.proxy.stats()["connections"] == 1
    writer.close()
    await settle(lambda: gate.proxy.stats()["connections"] == 0, "the connection stays open")


async def test_a_refused_request_with_more_of_it_to_come_loses_no_answer(site: Site) -> None:
    gate = await site.gate([await site.endpoint(answering)])
    reader, writer = await gate.connect()
    writer.write(b"POST http://b@/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 100000\r\n\r\n")
    assert (await asyncio.wait_for(reader.read(-1), 20)).startswith(b"HTTP/1.1 400 ")
    assert gate.proxy.stats()["connections"] == 1
    writer.write(bytes(100000))
    writer.close()
    await settle(lambda: gate.proxy.stats()["connections"] == 0, "the connection stays open")


async def test_clients_that_leave_before_the_first_answer_are_noticed(site: Site) -> None:
    """Their connections are registered with the poller only when the answer takes its time."""
    asked = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await reader.read(-1)

    gate = await site.gate([await site.endpoint(silent)])
    _, writer = await ask(gate, GET)
    await asyncio.wait_for(asked.wait(), 20)
    writer.close()
    await settle(lambda: gate.in_flight() == 0 and gate.proxy.stats()["connections"] == 0, "the client is waited for")


async def test_many_at_once(site: Site) -> None:
    """More than are accepted in one turn; half of them say nothing for a while."""
    gate = await site.gate([await site.endpoint(answering)], pool={"max_idle": 200})
    made = [await gate.connect() for _ in range(150)]
    for _, writer in made[::2]:
        writer.write(LAST)
    answers = [await asyncio.wait_for(reader.read(-1), 20) for reader, _ in made[::2]]
    for _, writer in made[1::2]:
        writer.write(LAST)
    answers += [await asyncio.wait_for(reader.read(-1), 20) for reader, _ in made[1::2]]
    assert all(answer.endswith(b"\r\n\r\nok") for answer in answers)
    assert gate.proxy.stats()["connections"] == 0
    for _, writer in made:
        writer.close()


@pytest.mark.parametrize("source", ["127.0.0.1", "127.9.10.99", "127.100.199.200", "127.255.249.109", "127.20.5.254"])
async def test_the_client_has_its_own_address(site: Site, source: str) -> None:
    heads: list[bytes] = []

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(OK)

    gate = await site.gate([await site.endpoint(endpoint)])
    reader, writer = await asyncio.open_connection("127.0.0.1", gate.port, local_addr=(source, 0))
    writer.write(LAST)
    await asyncio.wait_for(reader.read(-1), 20)
    writer.close()
    assert f"\r\nx-forwarded-for: {source}\r\n".encode() in heads[0].lower()


async def test_the_answer_comes_with_the_end(site: Site) -> None:
    gate = await site.gate([await site.endpoint(answering)])
    reader, writer = await ask(gate, LAST)
    await asyncio.wait_for(reader.read(-1), 20)
    info = writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_SIZE)
    (segments,) = struct.unpack_from("I", info, SEGMENTS_IN)
    assert segments <= 3  # SYN, the acknowledgement of the request, the answer with FIN
    writer.close()


async def test_small_pieces_are_sent_at_once(site: Site) -> None:
    """Connections have TCP_NODELAY without a system call for each."""
    gate = await site.gate([await site.endpoint(answering)])
    reader, writer = await ask(gate, GET)
    await reader.readuntil(b"ok")
    wanted = (("127.0.0.1", gate.port), writer.get_extra_info("sockname"))
    (ours,) = [each for each in sockets_of_this_process() if ends(each) == wanted]
    assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    writer.close()


def sockets_of_this_process() -> list[socket.socket]:
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            if stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                found.append(socket.socket(fileno=os.dup(int(name))))
        except OSError:
            continue  # the directory's own, which is closed by now
    return found


def ends(sock: socket.socket) -> tuple[object, object] | None:
    """Its own address and its peer's. One port alone may be that of another connection of this process as well."""
    try:
        return sock.getsockname(), sock.getpeername()
    except OSError:
        return None
