"""Http2Channel against real grpcio servers, each in its own process, over TCP and Unix sockets."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from grpc_peers import CONNECT, REFUSED, RESET, SERVICE, TIMEOUT, TOO_LARGE, GrpcServer, channel_to, start, until

from lb.upstream.connections.grpc_py import CallFailed, PyCall, unary


@pytest.fixture(scope="module", params=["tcp", "unix"])
def address(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    where = "127.0.0.1:0" if request.param == "tcp" else f"unix:{tmp_path_factory.mktemp('grpc')}/s"
    with GrpcServer(where) as server:
        yield server.address


@pytest.fixture
def place(tmp_path: Path) -> str:
    """Where a server can be started again."""
    return f"unix:{tmp_path}/s"


async def test_a_call(address: str) -> None:
    async with channel_to(address) as channel:
        assert await unary(channel, SERVICE + b"Echo", b"hello", 20) == (0, "", b"hello")
        assert await unary(channel, SERVICE + b"Echo", b"") == (0, "", b"")
        assert channel.stats() == {
            "state": "up", "active": 0, "waiting": 0, "draining": 0, "local": False, "started": 2, "connects": 1,
            "connect_failures": 0,
        }  # fmt: skip


async def test_statuses(address: str) -> None:
    async with channel_to(address) as channel:
        for code in range(1, 17):
            assert await unary(channel, SERVICE + b"Fail", f"{code} näh: 100% %41\n".encode(), 20) == (
                code, "näh: 100% %41\n", b"",
            )  # fmt: skip
        assert (await unary(channel, b"/no.Such/Method", b"x", 20))[0] == 12


async def test_the_deadline_reaches_the_server(address: str) -> None:
    async with channel_to(address) as channel:
        status, _, reply = await unary(channel, SERVICE + b"Remaining", b"", 15.0)
        assert status == 0
        assert 0 < float(reply) <= 15.01
        assert (await unary(channel, SERVICE + b"Remaining", b"", None))[2] == b"None"


async def test_a_deadline(address: str) -> None:
    async with channel_to(address) as channel:
        kind, status, _, _ = await start(channel, b"Hold", b"60000", timeout=0.1).wait()
        # The server knows the deadline, too, and its DEADLINE_EXCEEDED may come before our tick.
        assert (kind, status) in [(TIMEOUT, 0), (0, 4)]
        assert channel.active == 0
        assert (await unary(channel, SERVICE + b"Echo", b"x", 20))[2] == b"x"


@pytest.mark.parametrize("size", [16_379, 65_535, 1 << 20, 40 << 20])
async def test_big_messages(address: str, size: int) -> None:
    async with channel_to(address) as channel:
        message = os.urandom(size)
        outcome = start(
            channel, b"Echo", message[: size // 3], b"", message[size // 3 : size // 2], message[size // 2 :]
        )
        kind, status, _, reply = await outcome.wait()
        assert (kind, status) == (0, 0)
        assert reply == message


async def test_many_parts(address: str) -> None:
    parts = [bytes([i % 251]) * (i * 7 % 3001) for i in range(3000)]
    async with channel_to(address) as channel:
        assert (await start(channel, b"Echo", *parts).wait())[3] == b"".join(parts)


async def test_big_messages_both_ways_at_once(address: str) -> None:
    async with channel_to(address) as channel:
        messages = [os.urandom(3 << 20) for _ in range(8)]
        outcomes = [start(channel, b"Echo", message) for message in messages]
        small = [start(channel, b"Echo", b"%d" % i) for i in range(100)]
        for outcome, message in zip(outcomes, messages, strict=True):
            assert (await outcome.wait())[3] == message
        for i, outcome in enumerate(small):
            assert (await outcome.wait())[3] == b"%d" % i
        assert channel.connects == 1


async def test_a_reply_over_the_limit(address: str) -> None:
    async with channel_to(address, limit=1 << 20) as channel:
        assert await start(channel, b"Zeros", b"%d" % (1 << 20)).kind() == 0
        assert await start(channel, b"Zeros", b"%d" % ((1 << 20) + 1)).kind() == TOO_LARGE
        assert await start(channel, b"Zeros", b"50000000").kind() == TOO_LARGE
        assert (await start(channel, b"Echo", b"x").wait())[3] == b"x"


async def test_thousands_of_calls_over_ten_streams() -> None:
    with GrpcServer("127.0.0.1:0", "10") as server:
        async with channel_to(server.address) as channel:
            outcomes = [start(channel, b"Echo", b"%d" % i, timeout=60) for i in range(3000)]
            await until(lambda: channel.active)
            assert channel.active <= 10
            for i, outcome in enumerate(outcomes):
                found = await outcome.wait()
                while found[0] == REFUSED:  # on a busy machine the server still counts a stream that it has ended
                    found = await start(channel, b"Echo", b"%d" % i, timeout=60).wait()
                assert found == (0, 0, "", b"%d" % i)
            assert (channel.active, channel.waiting, channel.connects) == (0, 0, 1)


async def test_cancelled_tasks_free_everything(address: str) -> None:
    async with channel_to(address) as channel:
        for _ in range(3):
            tasks = [asyncio.create_task(unary(channel, SERVICE + b"Hold", b"60000", 60)) for _ in range(50)]
            await until(lambda: channel.active)
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(r, asyncio.CancelledError) for r in results)
            assert (channel.active, channel.waiting) == (0, 0)
        assert (await unary(channel, SERVICE + b"Echo", b"x", 20))[2] == b"x"


async def test_a_server_that_is_killed(place: str) -> None:
    server = GrpcServer(place)
    async with channel_to(place) as channel:
        held = [start(channel, b"Hold", b"60000") for _ in range(20)]
        await until(lambda: channel.active == 20)
        # Make sure that the server has them.
        assert (await start(channel, b"Echo", b"x").wait())[3] == b"x"
        server.kill()
        assert {await call.kind() for call in held} == {RESET}
        assert await start(channel).kind() == CONNECT
        with GrpcServer(place):
            while (outcome := await start(channel, b"Echo", b"back").wait())[0] == CONNECT:
                pass
            assert outcome == (0, 0, "", b"back")


async def test_a_server_that_stops_gracefully(place: str) -> None:
    """No call that it took fails; those it did not take are refused or find no connection: safe to send elsewhere.

    grpcio 1.85 may forget one call that comes at the moment of its stop: its own client is not answered, either. On a
    busy machine the server may be gone before that call's time is over.
    """
    with GrpcServer(place) as server:
        async with channel_to(place) as channel:
            held = [start(channel, b"Hold", b"500") for _ in range(20)]
            await until(lambda: channel.active == 20)
            assert (await start(channel, b"Echo", b"x").wait())[3] == b"x"
            server.terminate()
            kinds: Counter[int] = Counter()
            while CONNECT not in kinds:
                kinds[await start(channel, b"Echo", b"x", timeout=2).kind()] += 1
            assert kinds[TIMEOUT] + kinds[RESET] <= 1
            assert set(kinds) <= {0, REFUSED, CONNECT, TIMEOUT, RESET}
            assert {(await call.wait())[:2] for call in held} == {(0, 0)}
            server.process.wait(20)


async def test_nobody_listens(tmp_path: Path) -> None:
    async with channel_to(f"unix:{tmp_path}/none") as channel:
        with pytest.raises(CallFailed) as caught:
            await unary(channel, SERVICE + b"Echo", b"x", 20)
        assert (caught.value.kind, caught.value.retryable) == (CONNECT, True)
    async with channel_to("127.0.0.1:1") as channel:
        assert await start(channel).kind() == CONNECT


async def test_references_come_back(address: str) -> None:
    async with channel_to(address) as channel:
        told: list[int] = []
        message = os.urandom(10_000)
        call = PyCall((message,), lambda kind, *_: told.append(kind))
        channel_references = sys.getrefcount(channel)
        references = sys.getrefcount(call), sys.getrefcount(message)
        for n in range(1, 200):
            call.start(channel, SERVICE + b"Echo", None)
            with pytest.raises(RuntimeError):
                call.start(channel, SERVICE + b"Echo", None)
            await until(lambda n=n: len(told) == n)
        call.start(channel, SERVICE + b"Echo", None)
        call.cancel()
        call.start(channel, SERVICE + b"Hold", 0.01)
        await until(lambda: len(told) == 200)
        assert (sys.getrefcount(call), sys.getrefcount(message)) == references
        # The connection holds one.
        assert sys.getrefcount(channel) <= channel_references + 1


async def test_descriptors_stay_constant_over_a_thousand_connects(address: str) -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = 0
    for n in range(1000):
        async with channel_to(address) as channel:
            call = start(channel, b"Echo", b"x")
            if n % 10 == 0:
                assert (await call.wait())[3] == b"x"
        if n == 10:
            gc.collect()
            before = descriptors()
    gc.collect()
    assert descriptors() <= before
