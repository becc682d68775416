"""One question over a connection of its own: how it ends, and that nothing of it stays."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from ports import free_port

from lb.health.check import CheckFailed
from lb.health.checks.plain import inquire
from lb.net.inquiry import Inquiry
from lb.net.poller import Poller

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], object]


@pytest.fixture
async def poller() -> AsyncIterator[Poller]:
    before = len(os.listdir("/proc/self/fd"))
    made = Poller(asyncio.get_running_loop())
    yield made
    assert made.sources == 0, "every connection was closed"
    made.close()
    assert len(os.listdir("/proc/self/fd")) <= before + 4, "but for the servers of the test"


async def serve(handler: Handler, path: Path | None = None) -> str:
    if path is not None:
        await asyncio.start_unix_server(handler, path)
        return f"unix:{path}"
    server = await asyncio.start_server(handler, "127.0.0.1", 0)
    return f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


class Seen:
    """What came, until `enough` bytes did."""

    def __init__(self, enough: int = 1 << 30) -> None:
        self.pieces: list[bytes] = []
        self.enough = enough

    def __call__(self, data: bytes) -> bool:
        self.pieces.append(data)
        return sum(map(len, self.pieces)) >= self.enough

    @property
    def all(self) -> bytes:
        return b"".join(self.pieces)


@pytest.mark.parametrize("unix", [False, True])
async def test_it_asks_and_takes_all_until_the_end(poller: Poller, unix: bool, tmp_path: Path) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.readexactly(5)
        writer.write(asked.upper() * 100_000)
        await writer.drain()
        writer.close()

    seen = Seen()
    await inquire(await serve(handler, tmp_path / "s" if unix else None), b"hello", seen, poller)
    assert seen.all == b"HELLO" * 100_000
    assert seen.pieces[-1] == b"", "the end is told"


async def test_it_ends_when_enough_has_come(poller: Poller) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"12345678")
        await reader.read()  # until the other side is gone
        writer.close()

    seen = Seen(enough=8)
    await inquire(await serve(handler), b"?", seen, poller)
    assert seen.all == b"12345678"


async def test_a_request_larger_than_any_buffer_is_sent_whole(poller: Poller) -> None:
    request = os.urandom(8 << 20)
    got = bytearray()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.05)
        while len(got) < len(request):
            got.extend(await reader.read(65_536))
        writer.write(b"!")
        writer.close()

    await inquire(await serve(handler), request, Seen(1), poller)
    assert bytes(got) == request


async def test_an_empty_request_is_good_once_there_is_a_connection(poller: Poller) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        seen = Seen()
        await inquire(f"127.0.0.1:{server.getsockname()[1]}", b"", seen, poller)
        assert seen.pieces == []


async def test_nobody_there(poller: Poller, tmp_path: Path) -> None:
    for address in (f"127.0.0.1:{free_port()}", f"[::1]:{free_port()}"):
        with pytest.raises(ConnectionRefusedError):
            await inquire(address, b"?", Seen(), poller)
    with pytest.raises(FileNotFoundError):
        await inquire(f"unix:{tmp_path}/none", b"?", Seen(), poller)
    for _ in range(20):  # whatever else the loop has to do first
        ready = asyncio.create_task(inquire(f"unix:{tmp_path}/none", b"", Seen(), poller))
        await asyncio.sleep(0)
        time.sleep(0.002)
        with pytest.raises(FileNotFoundError):
            await ready
    with pytest.raises(CheckFailed, match="not an address"):
        await inquire("example.org", b"?", Seen(), poller)


async def test_a_unix_socket_whose_queue_is_full(poller: Poller, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        server.listen(0)
        with socket.socket(socket.AF_UNIX) as first:
            first.connect(str(tmp_path / "s"))
            with pytest.raises(OSError, match="not connected"):
                await inquire(f"unix:{tmp_path}/s", b"?", Seen(), poller)


async def test_a_connection_to_itself_is_none(poller: Poller) -> None:
    """As a connect to a free port of the ephemeral range may become; here each try has the port that it goes to."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))  # of that range, and held by nobody
        port = one.getsockname()[1]
    refused = 0
    for _ in range(50):
        with pytest.raises(OSError, match=r"refused|in use|assign"):
            await inquire(f"127.0.0.1:{port}", b"", Seen(), poller)
        refused += 1
    assert refused == 50


async def test_a_reset_is_told_and_an_early_answer_is_taken(poller: Poller) -> None:
    async def resets(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        found = writer.get_extra_info("socket")
        found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.close()

    with pytest.raises(ConnectionResetError):
        await inquire(await serve(resets), b"?", Seen(), poller)

    async def early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"early")
        writer.close()

    seen = Seen(5)
    await inquire(await serve(early), b"?" * 10, seen, poller)
    assert seen.all == b"early"


async def test_what_the_receiver_raises_ends_it(poller: Poller) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"no")
        await reader.read()
        writer.close()

    def refuses(data: bytes) -> bool:
        raise CheckFailed(data.decode())

    with pytest.raises(CheckFailed, match=r"^no$"):
        await inquire(await serve(handler), b"?", refuses, poller)


@pytest.mark.parametrize("talks", [False, True])
async def test_a_cancelled_one_is_closed_at_once(poller: Poller, talks: bool) -> None:
    """Also while the server sends without end: others have their turn."""
    gone = asyncio.Event()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while talks:
                writer.write(b"x" * 65_536)
                await writer.drain()
            await reader.read()
            await reader.read()
        except ConnectionError:
            pass
        gone.set()
        writer.close()

    address = await serve(handler)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await inquire(address, b"?", lambda data: False, poller)
    assert poller.sources == 0
    await asyncio.wait_for(gone.wait(), 30)


async def test_cancelling_within_the_receiver(poller: Poller) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"one")
        await reader.read()
        writer.close()

    ended: list[BaseException | None] = []
    came = asyncio.Event()
    made: list[Inquiry] = []

    def receive(data: bytes) -> bool:
        made[0].cancel()
        came.set()
        return False

    made.append(Inquiry(poller, await serve(handler), b"?", receive, ended.append))
    await came.wait()
    await asyncio.sleep(0.05)
    assert ended == []
    made[0].cancel()


async def test_without_a_descriptor_it_is_not_made(poller: Poller) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        try:
            with pytest.raises(OSError, match="Too many open files"):
                await inquire(address, b"?", Seen(), poller)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        await inquire(address, b"", Seen(), poller)


async def test_many_at_once(poller: Poller) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(4))
        writer.close()

    address = await serve(handler)
    answers = [Seen(4) for _ in range(300)]
    await asyncio.gather(*(inquire(address, b"%04d" % i, seen, poller) for i, seen in enumerate(answers)))
    assert [seen.all for seen in answers] == [b"%04d" % i for i in range(300)]
