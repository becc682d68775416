"""How TCP sessions end: by silence, by either side, and what waits for a slow client then."""

from __future__ import annotations

import asyncio
import socket
import struct

import psutil
import pytest
from datapath import SECOND, Site, settle
from tcp_site import BLOCK, TCP, Reader, Writer, echo, idle, read_all


async def test_a_silent_session_ends(site: Site) -> None:
    ended = asyncio.get_running_loop().create_future()

    async def silent(reader: Reader, writer: Writer) -> None:
        ended.set_result(await reader.read(-1))
        writer.close()

    gate = await site.gate([await site.endpoint(silent)], listener={**TCP, "idle_timeout_ns": SECOND // 5})
    reader, writer = await gate.connect()
    assert await read_all(reader) == b""
    assert await asyncio.wait_for(ended, 20) == b""
    writer.close()
    await idle(gate)


async def test_a_silent_session_with_bytes_on_the_way_ends_by_a_reset(site: Site) -> None:
    async def pour(reader: Reader, writer: Writer) -> None:
        await reader.readexactly(1)
        writer.write(bytes(64 << 20))
        await writer.drain()

    gate = await site.gate([await site.endpoint(pour)], listener={**TCP, "idle_timeout_ns": SECOND // 2})
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(client, ("127.0.0.1", gate.port))
    await loop.sock_sendall(client, b"?")
    await settle(lambda: gate.total(1)["started"] == 1, "no session")
    await idle(gate)  # the client reads nothing, and that is silence

    async def read_on() -> None:
        while await loop.sock_recv(client, 1 << 20):
            pass

    with pytest.raises(ConnectionResetError):  # not the end of a whole stream
        await read_on()
    client.close()


async def test_a_session_with_traffic_one_way_is_not_silent(site: Site) -> None:
    async def drip(reader: Reader, writer: Writer) -> None:
        for _ in range(20):
            writer.write(b".")
            await asyncio.sleep(0.1)
        writer.close()

    gate = await site.gate([await site.endpoint(drip)], listener={**TCP, "idle_timeout_ns": SECOND})
    reader, writer = await gate.connect()
    assert await read_all(reader) == b"." * 20
    writer.close()


async def test_a_half_closed_session_has_a_timeout_of_its_own(site: Site) -> None:
    async def never_done(reader: Reader, writer: Writer) -> None:
        assert await reader.read(-1) == b"all"
        await asyncio.sleep(3600)

    gate = await site.gate(
        [await site.endpoint(never_done)],
        listener={**TCP, "idle_timeout_ns": 3600 * SECOND, "half_close_timeout_ns": SECOND // 5},
    )
    reader, writer = await gate.connect()
    await asyncio.sleep(0.6)
    assert gate.proxy.busy() == 1  # silent, and whole
    writer.write(b"all")
    writer.write_eof()
    assert await read_all(reader) == b""
    writer.close()
    await idle(gate)


async def test_idle_sessions_hold_no_pipes(site: Site) -> None:
    """Bulk takes a pipe per direction; it goes back when the direction runs dry, for the next to use."""
    gate = await site.gate([await site.endpoint(echo)], listener=TCP)
    before = psutil.Process().num_fds()
    data = BLOCK * 4
    held = []
    for _ in range(40):
        reader, writer = await gate.connect()
        writer.write(data)
        assert await asyncio.wait_for(reader.readexactly(len(data)), 20) == data
        held.append(writer)
    # Four sockets of each session are in this process, and at most 32 spare pipes are kept.
    assert psutil.Process().num_fds() - before <= 4 * len(held) + 64
    for writer in held:
        writer.close()
    await idle(gate)


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_client_that_leaves_frees_everything(site: Site, how: str) -> None:
    ends: list[bytes] = []

    async def wait_for_end(reader: Reader, writer: Writer) -> None:
        try:
            ends.append(await reader.read(-1))
        except ConnectionError:
            ends.append(b"reset")
        writer.close()

    gate = await site.gate([await site.endpoint(wait_for_end)], listener=TCP)
    _, writer = await gate.connect()
    writer.write(b"abc")
    await settle(lambda: gate.in_flight() == 1, "the session did not begin")
    if how == "reset":
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.close()
    await idle(gate)
    await settle(lambda: len(ends) == 1, "the endpoint was not told")
    assert ends == [b"reset" if how == "reset" else b"abc"]


async def test_an_endpoint_that_resets_resets_the_client(site: Site) -> None:
    """A close would say that this was all."""
    go = asyncio.Event()

    async def reset(reader: Reader, writer: Writer) -> None:
        await reader.read(1)
        writer.write(b"half")
        await go.wait()
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.close()

    gate = await site.gate([await site.endpoint(reset)], listener=TCP)
    reader, writer = await gate.connect()
    writer.write(b"abc")
    assert await reader.readexactly(4) == b"half"
    go.set()
    with pytest.raises(ConnectionResetError):
        await read_all(reader)
    writer.close()
    await idle(gate)


async def test_a_session_that_is_cut_off_is_reset(site: Site) -> None:
    """As when a drain has taken too long."""
    ends: list[str] = []

    async def hold(reader: Reader, writer: Writer) -> None:
        try:
            writer.write(await reader.read(1))
            await reader.read(1)
            ends.append("end")
        except ConnectionResetError:
            ends.append("reset")
        writer.close()

    gate = await site.gate([await site.endpoint(hold)], listener=TCP)
    reader, writer = await gate.connect()
    writer.write(b"a")
    assert await reader.readexactly(1) == b"a"
    gate.proxy.close()
    with pytest.raises(ConnectionResetError):
        await read_all(reader)
    await settle(lambda: ends == ["reset"], "the endpoint was not told")
    writer.close()


async def test_what_waits_for_a_slow_client_survives_its_half_close(site: Site) -> None:
    sizes = [size << 18 for size in range(1, 28)]

    async def send(reader: Reader, writer: Writer) -> None:
        size = int(await reader.readline())
        writer.write(b"x" * size)
        writer.close()  # after its last byte; before the client has it

    gate = await site.gate([await site.endpoint(send)], listener=TCP)

    async def session(size: int) -> int:
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, ("127.0.0.1", gate.port))
        await loop.sock_sendall(client, b"%d\n" % size)
        held = -1
        while held != gate.total(10)["received_bytes"]:  # until the endpoints' bytes are on their way as far as they go
            held = gate.total(10)["received_bytes"]
            await asyncio.sleep(0.3)
        client.shutdown(socket.SHUT_WR)
        await asyncio.sleep(0.1)
        got = 0
        while data := await loop.sock_recv(client, 1 << 20):
            got += len(data)
        client.close()
        return got

    assert await asyncio.gather(*(session(size) for size in sizes)) == sizes
    await idle(gate)
