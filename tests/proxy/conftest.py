"""The `site` fixture: scripted endpoints and gates in the test's own process."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest
from datapath import Site


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    made = Site()
    yield made
    for gate in made.gates:
        gate.proxy.close()
        gate.segment.close()
    for fd in made.descriptors.values():
        os.close(fd)
    for server in made.servers:
        server.close()
    for model in made.models:
        await model.server.stop(None)
