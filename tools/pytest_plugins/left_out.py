"""A plugin of pytest for tools/suite.py: which tests were collected by a worker and have no outcome at the end."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

_collected: set[str] = set()
_reported: set[str] = set()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(node: object, ids: list[str]) -> None:
    _collected.update(ids)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _reported.add(report.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if not hasattr(session.config, "workerinput"):
        Path(os.environ["TIDEGATE_TESTS_LEFT_OUT"]).write_text(json.dumps(sorted(_collected - _reported)))
