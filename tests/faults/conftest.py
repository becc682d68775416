"""Starts daemons. The helpers of tests/e2e are used here, too."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "e2e"))

from daemon import Daemon

Start = Callable[[dict[str, Any]], Daemon]


@pytest.fixture
def start(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Start]:
    """`start(config)` gives a daemon that is ready; its log is shown when the test fails."""
    daemons: list[Daemon] = []
    request.node.daemons = daemons

    def make(config: dict[str, Any]) -> Daemon:
        folder = tmp_path / f"daemon{len(daemons)}"
        folder.mkdir()
        daemons.append(Daemon(folder, config))
        return daemons[-1].wait_ready()

    yield make
    for daemon in daemons:
        daemon.kill()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    outcome: Any = yield
    report = outcome.get_result()
    if report.failed:
        for daemon in getattr(item, "daemons", ()):
            report.sections.append((f"log {daemon.log_path}", daemon.log[-20_000:]))
