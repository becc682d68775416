"""Starts daemons and HTTP endpoints for a test, ends them, and shows the daemons' logs when the test fails."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from daemon import ROOT, environment
from daemons import pytest_runtest_makereport, start
from endpoints import Endpoint

__all__ = ["pytest_runtest_makereport", "start"]


@pytest.fixture
async def endpoint() -> AsyncIterator[Callable[..., Any]]:
    """`await endpoint(name)` gives an HTTP server that answers with its name."""
    made: list[Endpoint] = []

    async def make(name: str, delay: float = 0, at_once: int = 1_000) -> Endpoint:
        one = Endpoint(name, delay, at_once)
        await one.start()
        made.append(one)
        return one

    yield make
    for one in made:
        one.server.close()
    await asyncio.sleep(0)


@pytest.fixture
def stub() -> Iterator[Callable[[], str]]:
    """`stub()` gives the address of a model server that gives every model's inputs back."""
    processes: list[subprocess.Popen[str]] = []

    def make() -> str:
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.stub_grpc", "--listen", "127.0.0.1:0"],
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
            cwd=ROOT,
        )
        processes.append(process)
        assert process.stdout is not None
        line = process.stdout.readline().strip()
        assert line.startswith("listening on "), line
        return line.removeprefix("listening on ")

    yield make
    for process in processes:
        process.kill()
        process.communicate()
