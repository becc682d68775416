from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from emulated_kubernetes import EmulatedKubernetes


@pytest.fixture
async def cluster() -> AsyncIterator[EmulatedKubernetes]:
    """An emulation of Kubernetes' API, see there."""
    server = EmulatedKubernetes()
    await server.start()
    yield server
    await server.stop()
