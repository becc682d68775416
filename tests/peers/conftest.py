"""Daemons that the scenarios of a module share, with the log of theirs beside a test that fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from daemons import Daemon, pytest_runtest_makereport

__all__ = ["pytest_runtest_makereport"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[dict[str, Any]], Daemon]]:
    """`run(config)` gives a daemon that is ready, with one worker unless the configuration says more."""
    daemons: list[Daemon] = []

    def make(config: dict[str, Any]) -> Daemon:
        made = Daemon(tmp_path_factory.mktemp("daemon"), {"workers": 1, **config})
        daemons.append(made)
        return made.wait_ready()

    yield make
    for daemon in daemons:
        daemon.kill()


@pytest.fixture(autouse=True)
def _shown(request: pytest.FixtureRequest) -> None:
    """The log of the module's daemon is part of the report of a test that fails."""
    if "daemon" in request.fixturenames:
        request.node.daemons = [request.getfixturevalue("daemon")]
