"""Starts daemons and the server behind them. The helpers of tests/e2e are used here, too."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from daemons import pytest_runtest_makereport, start
from hostile_site import Server

__all__ = ["pytest_runtest_makereport", "start"]


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    await made.start()
    yield made
    made.close()
