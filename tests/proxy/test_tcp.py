"""TCP sessions through the gate: bytes both ways, endpoints that fail, many at once."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import struct
import zlib
from collections.abc import Awaitable, Callable

import psutil
import pytest
from datapath import SECOND, Site, settle
from ports import free_port
from tcp_site import BLOCK, TCP, Reader, Writer, echo, idle, read_all

from lb.config.plan.plan import PolicyPlan
from lb.endpoints.set import EndpointSet
from lb.shared.segment import Segment


def named(name: bytes) -> Callable[[Reader, Writer], Awaitable[None]]:
    """Says its name and closes."""

    async def handler(reader: Reader, writer: Writer) -> None:
        writer.write(name)
        writer.close()

    return handler


async def test_bytes_pass_both_ways(site: Site) -> None:
    gate = await site.gate([await site.endpoint(echo)], listener=TCP)
    reader, writer = await gate.connect()
    for size in (1, 10, 65535, 65536, 65537, 1, 300_000):
        writer.write(BLOCK[:size] if size <= len(BLOCK) else BLOCK + BLOCK[: size - len(BLOCK)])
        expected = (BLOCK + BLOCK)[:size]
        assert await asyncio.wait_for(reader.readexactly(size), 20) == expected
    assert gate.in_flight() == 1
    assert gate.proxy.busy() == 1
    writer.close()
    await idle(gate)


async def test_the_endpoint_may_speak_first(site: Site) -> None:
    gate = await site.gate([await site.endpoint(named(b"220 hello\r\n"))], listener=TCP)
    reader, writer = await gate.connect()
    assert await read_all(reader) == b"220 hello\r\n"
    writer.close()
    await idle(gate)


async def test_client_that_ends_first_gets_the_answer(site: Site) -> None:
    async def answer_at_the_end(reader: Reader, writer: Writer) -> None:
        data = await reader.read(-1)
        writer.write(b"%d bytes" % len(data))
        writer.close()

    gate = await site.gate([await site.endpoint(answer_at_the_end)], listener=TCP)
    reader, writer = await gate.connect()
    writer.write(BLOCK)
    writer.write_eof()
    assert await read_all(reader) == b"%d bytes" % len(BLOCK)
    writer.close()
    await idle(gate)


async def test_endpoint_that_ends_first_goes_on_reading(site: Site) -> None:
    received = asyncio.get_running_loop().create_future()

    async def end_at_once(reader: Reader, writer: Writer) -> None:
        writer.write(b"hello")
        writer.write_eof()
        received.set_result(await reader.read(-1))
        writer.close()

    gate = await site.gate([await site.endpoint(end_at_once)], listener=TCP)
    reader, writer = await gate.connect()
    assert await read_all(reader) == b"hello"  # with the end of the stream, which came through on its own
    writer.write(BLOCK)
    writer.write_eof()
    assert await asyncio.wait_for(received, 20) == BLOCK
    writer.close()
    await idle(gate)


async def test_client_that_only_connects_and_ends(site: Site) -> None:
    gate = await site.gate([await site.endpoint(echo)], listener=TCP)
    reader, writer = await gate.connect()
    writer.write_eof()
    assert await read_all(reader) == b""
    writer.close()
    await idle(gate)


@pytest.mark.parametrize("size", [300_000, 3_000_000, 20_000_000])
async def test_all_of_an_answer_reaches_a_slow_client_that_ended_first(site: Site, size: int) -> None:
    """The endpoint has sent all and closed long before the client, which half-closed at once, has read it."""
    body = (BLOCK * (size // len(BLOCK) + 1))[:size]

    async def send_and_close(reader: Reader, writer: Writer) -> None:
        await reader.read(-1)
        writer.write(body)
        await writer.drain()
        writer.close()

    gate = await site.gate([await site.endpoint(send_and_close)], listener=TCP)
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
    client.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(client, ("127.0.0.1", gate.port))
    client.shutdown(socket.SHUT_WR)
    got = bytearray()
    while data := await asyncio.wait_for(loop.sock_recv(client, 20_000), 20):
        got += data
        if len(got) < 200_000:
            await asyncio.sleep(0.001)  # so that the gate has to hold what is behind
    client.close()
    assert len(got) == size
    assert bytes(got) == body
    await idle(gate)


async def test_bulk_arrives_intact_both_ways_at_once(site: Site) -> None:
    """Enough to leave the buffer for splice(2), in uneven pieces, with both sides busy at the same time."""
    total = 48 << 20
    sums: dict[str, int] = {}

    async def pour(writer: Writer, seed: int) -> int:
        crc, sent, sizes = 0, 0, random.Random(seed)
        while sent < total:
            start = sizes.randrange(len(BLOCK) - 1)
            part = BLOCK[start : start + min(sizes.randrange(1, 200_000), total - sent)]
            crc, sent = zlib.crc32(part, crc), sent + len(part)
            writer.write(part)
            await writer.drain()
        writer.write_eof()
        return crc

    async def take(reader: Reader) -> tuple[int, int]:
        crc, got = 0, 0
        while data := await reader.read(1 << 20):
            crc, got = zlib.crc32(data, crc), got + len(data)
        return crc, got

    async def both(reader: Reader, writer: Writer) -> None:
        sent, (received, size) = await asyncio.gather(pour(writer, 1), take(reader))
        sums.update(sent=sent, received=received, size=size)
        writer.close()

    gate = await site.gate([await site.endpoint(both)], listener=TCP)
    reader, writer = await gate.connect()
    sent, (received, size) = await asyncio.wait_for(asyncio.gather(pour(writer, 2), take(reader)), 60)
    writer.close()
    await idle(gate)
    assert size == sums["size"] == total
    assert received == sums["sent"]
    assert sums["received"] == sent
    series = gate.total(1)
    assert series["received_bytes"] == series["sent_bytes"] == total


async def flood(reader: Reader, writer: Writer, sent: list[int], total: int) -> None:
    while sent[0] < total:
        writer.write(b"x" * 65536)
        await writer.drain()
        sent[0] += 65536
    writer.close()


async def held_up(sent: list[int]) -> None:
    """Waits until nothing more is taken from the sender."""
    before = -1
    while before != sent[0]:
        before = sent[0]
        await asyncio.sleep(0.3)


async def test_a_client_that_does_not_read_holds_up_the_endpoint(site: Site) -> None:
    total, sent = 96 << 20, [0]
    gate = await site.gate([await site.endpoint(lambda r, w: flood(r, w, sent, total))], listener=TCP)
    before = psutil.Process().memory_info().rss
    reader, writer = await asyncio.open_connection("127.0.0.1", gate.port, limit=65536)
    await held_up(sent)
    assert sent[0] < total // 2
    assert psutil.Process().memory_info().rss - before < 24 << 20
    got = 0
    while data := await reader.read(1 << 20):
        got += len(data)
    assert got == total
    writer.close()
    await idle(gate)


async def test_an_endpoint_that_does_not_read_holds_up_the_client(site: Site) -> None:
    total, sent = 96 << 20, [0]
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        gate = await site.gate([f"127.0.0.1:{listening.getsockname()[1]}"], listener=TCP)
        before = psutil.Process().memory_info().rss
        reader, writer = await gate.connect()
        sending = asyncio.create_task(flood(reader, writer, sent, total))
        reluctant, _ = await asyncio.wait_for(loop.sock_accept(listening), 20)
        await held_up(sent)
        assert sent[0] < total // 2
        assert psutil.Process().memory_info().rss - before < 24 << 20
        got = 0
        while data := await asyncio.wait_for(loop.sock_recv(reluctant, 1 << 20), 20):
            got += len(data)
        reluctant.close()
    await sending
    assert got == total
    await idle(gate)


async def test_an_endpoint_that_refuses_is_passed_over(site: Site) -> None:
    dead = f"127.0.0.1:{free_port()}"
    gate = await site.gate([dead, await site.endpoint(named(b"second"))], listener=TCP)
    for _ in range(4):
        reader, writer = await gate.connect()
        assert await read_all(reader) == b"second"
        writer.close()
    await idle(gate)
    assert gate.total(10)["connect_errors"] >= 1  # connect errors of the first
    assert gate.total(1)["retries"] == gate.total(10)["connect_errors"]  # each was tried again


async def test_nobody_to_talk_to_ends_the_session(site: Site) -> None:
    gate = await site.gate([f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"], listener=TCP)
    reader, writer = await gate.connect()
    assert await read_all(reader) == b""
    writer.close()
    await idle(gate)
    assert gate.total(10)["connect_errors"] == gate.total(11)["connect_errors"] == 1


async def test_no_endpoint_available_ends_the_session(site: Site) -> None:
    gate = await site.gate([await site.endpoint(echo)], listener=TCP)
    gate.segment.set_health(0, False, 0)
    reader, writer = await gate.connect()
    assert await read_all(reader) == b""
    writer.close()
    await idle(gate)
    assert gate.total(1)["rejected"] == 1


async def test_an_endpoint_that_never_accepts_times_out(site: Site) -> None:
    """A full accept queue drops handshakes, so the connect hangs until its timeout; then the next endpoint serves."""
    full = socket.socket()
    full.bind(("127.0.0.1", 0))
    full.listen(0)
    port = full.getsockname()[1]
    fillers = []
    for _ in range(4):
        filler = socket.socket()
        filler.setblocking(False)
        filler.connect_ex(("127.0.0.1", port))
        fillers.append(filler)
    gate = await site.gate(
        [f"127.0.0.1:{port}", await site.endpoint(named(b"second"))],
        listener=TCP,
        pool={"connect_timeout_ns": SECOND // 5},
    )
    for _ in range(2):
        reader, writer = await gate.connect()
        assert await read_all(reader) == b"second"
        writer.close()
    await idle(gate)
    assert gate.total(10)["connect_errors"] >= 1
    for made in (full, *fillers):
        made.close()


async def test_proxy_header_version_1(site: Site) -> None:
    heads: list[bytes] = []

    async def keep_head(reader: Reader, writer: Writer) -> None:
        heads.append(await reader.readuntil(b"\r\n"))
        await echo(reader, writer)

    gate = await site.gate([await site.endpoint(keep_head)], listener=TCP, pool={"send_proxy": "v1"})
    reader, writer = await gate.connect()
    name = writer.get_extra_info("sockname")
    writer.write(b"data")
    assert await reader.readexactly(4) == b"data"
    assert heads == [f"PROXY TCP4 127.0.0.1 127.0.0.1 {name[1]} {gate.port}\r\n".encode()]
    writer.close()
    await idle(gate)


async def test_proxy_header_version_2(site: Site) -> None:
    heads: list[bytes] = []

    async def keep_head(reader: Reader, writer: Writer) -> None:
        head = await reader.readexactly(16)
        heads.append(head + await reader.readexactly(struct.unpack("!H", head[14:])[0]))
        await echo(reader, writer)

    gate = await site.gate([await site.endpoint(keep_head)], listener=TCP, pool={"send_proxy": "v2"})
    reader, writer = await gate.connect()
    name = writer.get_extra_info("sockname")
    writer.write(b"data")
    assert await reader.readexactly(4) == b"data"
    loopback = socket.inet_aton("127.0.0.1")
    addresses = loopback + loopback + struct.pack("!HH", name[1], gate.port)
    assert heads == [b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + addresses]
    writer.close()
    await idle(gate)


async def test_many_sessions_at_once(site: Site) -> None:
    gate = await site.gate([await site.endpoint(echo), await site.endpoint(echo)], listener=TCP)

    async def session(i: int) -> None:
        reader, writer = await gate.connect()
        data = b"%d." % i * 3000
        writer.write(data)
        writer.write_eof()
        assert await read_all(reader) == data
        writer.close()

    await asyncio.gather(*(session(i) for i in range(200)))
    await idle(gate)
    assert gate.total(1)["connections"] == 200
    assert gate.total(10)["requests.other"] == gate.total(11)["requests.other"] == 100  # round robin


async def test_policy_learns_the_time_to_connect(site: Site) -> None:
    hold = asyncio.Event()

    async def stay(reader: Reader, writer: Writer) -> None:
        await hold.wait()
        writer.close()

    dead = f"127.0.0.1:{free_port()}"
    gate = await site.gate([dead, await site.endpoint(stay)], listener=TCP, pool={"policy": PolicyPlan("least_time")})
    (plan,) = gate.plan.pools
    segment = Segment.attach(os.dup(gate.segment.fd), 0)
    endpoints = EndpointSet(segment, ["dead", "alive"], [e.slot for e in plan.endpoints])
    reader, writer = await gate.connect()
    writer.write(b"x")
    await settle(lambda: endpoints.latency(1) > 0, "nothing was learnt")
    # The refusal counts too, and what is learnt is not how long the session lasts.
    assert 0 < endpoints.latency(0) < 5e9
    learnt = endpoints.latency(1), endpoints.latency_at(1)
    await asyncio.sleep(0.05)
    hold.set()
    assert await read_all(reader) == b""
    writer.close()
    await idle(gate)
    assert (endpoints.latency(1), endpoints.latency_at(1)) == learnt
    segment.close()


async def test_sources_are_kept_together(site: Site) -> None:
    gate = await site.gate(
        [await site.endpoint(named(b"%d" % i)) for i in range(5)],
        listener=TCP,
        pool={"policy": PolicyPlan("maglev", "source")},
    )
    seen = set()
    for _ in range(10):
        reader, writer = await gate.connect()
        seen.add(await read_all(reader))
        writer.close()
    assert len(seen) == 1


@pytest.mark.parametrize("policy", [PolicyPlan("first", options={"fill": 9}), PolicyPlan("maglev", "source")])
async def test_a_session_comes_to_the_only_endpoint_that_is_there(site: Site, policy: PolicyPlan) -> None:
    dead = [f"127.0.0.1:{free_port()}" for _ in range(3)]
    gate = await site.gate(
        [*dead, await site.endpoint(named(b"here"))], listener=TCP, pool={"policy": policy, "retries": 3}
    )
    for host in range(2, 12):  # by the key, the order is another for each
        reader, writer = await asyncio.open_connection("127.0.0.1", gate.port, local_addr=(f"127.0.0.{host}", 0))
        assert await read_all(reader) == b"here"
        writer.close()
    await idle(gate)


async def test_who_has_tried_all_begins_anew(site: Site) -> None:
    dead = [f"127.0.0.1:{free_port()}" for _ in range(3)]
    policy = PolicyPlan("first", options={"fill": 9})
    gate = await site.gate(dead, listener=TCP, pool={"policy": policy, "retries": 11})
    reader, writer = await gate.connect()
    assert await read_all(reader) == b""
    writer.close()
    await idle(gate)
    assert sum(gate.total(10 + i)["connect_errors"] for i in range(3)) == 12
    assert all(gate.total(10 + i)["connect_errors"] for i in range(3))
