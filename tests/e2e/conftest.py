"""Starts daemons and HTTP endpoints for a test, ends them, and shows the daemons' logs when the test fails."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from daemon import ROOT, Daemon, environment
from endpoints import Endpoint

Start = Callable[..., Daemon]


@pytest.fixture
def start(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Start]:
    """`start(config)` gives a daemon that is ready; `start(config, ready=False)` does not wait."""
    daemons: list[Daemon] = []
    request.node.daemons = daemons

    def make(config: dict[str, Any], ready: bool = True) -> Daemon:
        folder = tmp_path / f"daemon{len(daemons)}"
        folder.mkdir()
        made = Daemon(folder, config)
        daemons.append(made)
        return made.wait_ready() if ready else made

    yield make
    for daemon in daemons:
        daemon.kill()


@pytest.fixture
async def endpoint() -> AsyncIterator[Callable[..., Any]]:
    """`await endpoint(name)` gives an HTTP server that answers with its name."""
    made: list[Endpoint] = []

    async def make(name: str, delay: float = 0) -> Endpoint:
        one = Endpoint(name, delay)
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


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    outcome: Any = yield
    report = outcome.get_result()
    if report.failed:
        for daemon in getattr(item, "daemons", ()):
            report.sections.append((f"configuration {daemon.path}", daemon.path.read_text()))
            report.sections.append((f"log {daemon.log_path}", daemon.log[-20_000:]))
