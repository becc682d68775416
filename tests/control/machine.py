"""What the servers of all pools share, for one test: ended with it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from lb.control.servers.launcher import Launcher
from lb.control.servers.model_server import WARM
from lb.control.servers.placement import Placement
from lb.control.servers.ports import Ports
from lb.control.servers.replica import Machine


@contextlib.contextmanager
def machine(gpus: Sequence[str] = (), cores: Sequence[int] = ()) -> Iterator[Machine]:
    launcher, warm = Launcher(), Launcher(WARM)
    try:
        yield Machine(launcher, warm, Placement(gpus, cores), Ports())
    finally:
        launcher.close()
        warm.close()
