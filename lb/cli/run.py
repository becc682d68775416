"""`tidegate run`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import setproctitle
import uvloop

from lb.cli.descriptors import open_standard_descriptors, raise_descriptor_limit
from lb.control import signals
from lb.control.admin.server import AdminServer
from lb.control.logs import setup_logging
from lb.control.master import Master
from lb.control.options import MasterOptions, ServiceFactory
from lb.control.systemd import Notifier, take_sockets
from lb.control.workers.fleet import FleetSettings

# What runs beside the master, in the order of its start.
SERVICES: tuple[ServiceFactory, ...] = (AdminServer,)


def run(config: Path, fleet: FleetSettings | None = None, services: Sequence[ServiceFactory] = SERVICES) -> int:
    """Runs a master in this process; returns its exit status. Raises TidegateError when it cannot start.

    `fleet` and `services` are for tests: other timing, another data path, another admin server.
    """
    open_standard_descriptors()
    raise_descriptor_limit()
    setup_logging("master")
    setproctitle.setproctitle(f"tidegate: master -c {config}")
    options = MasterOptions(
        config_path=config.absolute(),
        notifier=Notifier.from_environment(os.environ),
        inherited=take_sockets(os.environ),
        fleet=fleet or FleetSettings(),
        services=services,
    )
    status: int = uvloop.run(_serve(options))
    return status


async def _serve(options: MasterOptions) -> int:
    try:
        return await Master(options).run()
    finally:
        signals.hold()  # for good: once the loop is closed they would end a process that has come to its end by itself
