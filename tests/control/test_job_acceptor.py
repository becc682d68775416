"""The jobs process's connections, over real sockets and uvloop, on which it runs."""

from __future__ import annotations

import asyncio
import errno
import socket
import time
from collections.abc import Coroutine
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import uvloop

from lb.control.jobs import acceptor
from lb.control.jobs.acceptor import Acceptor


class Greeting(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert hasattr(transport, "write")  # uvloop's are of no class of asyncio
        transport.write(b"welcome")


def listening_at(path: Path, backlog: int = 512) -> socket.socket:
    found = socket.socket(socket.AF_UNIX)
    found.bind(str(path))
    found.listen(backlog)
    return found


def run(work: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await work

    uvloop.run(bounded())


def connect(path: Path, stack: ExitStack) -> socket.socket:
    made = stack.enter_context(socket.socket(socket.AF_UNIX))
    made.settimeout(10)
    made.connect(str(path))
    return made


def test_a_burst_is_accepted_at_once_while_the_loop_is_busy(tmp_path: Path) -> None:
    """Each round of the loop takes long: 300 connections do not wait for 300 rounds."""
    path = tmp_path / "s"
    rounds = 0

    async def work() -> None:
        nonlocal rounds
        loop = asyncio.get_running_loop()
        accepting = Acceptor(listening_at(path), Greeting)

        def busy() -> None:
            nonlocal rounds
            rounds += 1
            time.sleep(0.002)
            loop.call_soon(busy)

        with ExitStack() as stack:
            clients = [connect(path, stack) for _ in range(300)]
            loop.call_soon(busy)
            assert await asyncio.to_thread(lambda: {one.recv(7) for one in clients}) == {b"welcome"}
        accepting.close()

    run(work())
    assert rounds < 200


def test_it_goes_on_after_an_error_of_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "s"
    monkeypatch.setattr(acceptor, "_PAUSE", 0.05)

    class Failing(socket.socket):
        left = 2

        def accept(self) -> tuple[socket.socket, Any]:
            if self.left:
                self.left -= 1
                raise OSError(errno.EMFILE, "Too many open files")
            return super().accept()

    async def work() -> None:
        accepting = Acceptor(Failing(fileno=listening_at(path).detach()), Greeting)
        with ExitStack() as stack:
            client = connect(path, stack)
            assert await asyncio.to_thread(client.recv, 7) == b"welcome"
        accepting.close()

    run(work())
    assert [record.levelname for record in caplog.records] == ["ERROR"] * 2
    assert "Too many open files" in caplog.text


def test_closed_it_accepts_nothing_and_connections_stay(tmp_path: Path) -> None:
    path = tmp_path / "s"

    async def work() -> None:
        listening = listening_at(path)
        kept = listening.dup()  # as the master has it
        accepting = Acceptor(listening, Greeting)
        with ExitStack() as stack, kept:
            first = connect(path, stack)
            assert await asyncio.to_thread(first.recv, 7) == b"welcome"
            accepting.close()
            second = connect(path, stack)  # waits for the next process
            second.settimeout(0.2)
            with pytest.raises(TimeoutError):
                await asyncio.to_thread(second.recv, 7)
            first.settimeout(0.2)
            with pytest.raises(TimeoutError):
                await asyncio.to_thread(first.recv, 7)
            again = Acceptor(kept.dup(), Greeting)
            second.settimeout(10)
            assert await asyncio.to_thread(second.recv, 7) == b"welcome"
            again.close()

    run(work())
