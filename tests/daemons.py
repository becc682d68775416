"""A fixture that starts daemons, ends them, and shows their logs when the test fails: for the conftest of a folder.

`Daemon` is that of tests/e2e.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent / "e2e"))

from daemon import Daemon

Start = Callable[..., Daemon]


@pytest.fixture
def start(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Start]:
    """`start(config)` gives a daemon that is ready; `start(config, ready=False)` does not wait.

    `shell`: see `Daemon`.
    """
    daemons: list[Daemon] = []
    request.node.daemons = daemons

    def make(config: dict[str, Any], ready: bool = True, shell: str = "") -> Daemon:
        folder = tmp_path / f"daemon{len(daemons)}"
        folder.mkdir()
        made = Daemon(folder, config, shell)
        daemons.append(made)
        return made.wait_ready() if ready else made

    yield make
    for daemon in daemons:
        daemon.kill()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    outcome: Any = yield
    report = outcome.get_result()
    if report.failed:
        for daemon in getattr(item, "daemons", ()):
            report.sections.append((f"configuration {daemon.path}", daemon.path.read_text()))
            report.sections.append((f"log {daemon.log_path}", daemon.log[-20_000:]))
