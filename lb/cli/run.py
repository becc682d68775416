"""`tidegate run`, and what of the daemon is loaded when.

Clients wait for the first accepted connection, so a start loads in this order:

1. The fork server, in a process of its own beside the master (lb.cli.early), loads the data path.
2. The master loads the configuration's schema and what a plan is made and published with.
3. Once the workers serve, the master loads the admin server with its libraries (`Admin`), beside the running loop.
4. A kind of health check, load reports and name lookups are loaded when an endpoint first needs them
   (lb.health.registry, lb.health.load_reports, lb.discovery.dns); what advises about a mistake, when there is one.

The daemon is ready, and says so, after step 3. Until then Python's collector of cycles rests in the master, and in the
fork server until all is loaded: it took a seventh of the time, to find nothing.
"""

from __future__ import annotations

import asyncio
import importlib
import os
from collections.abc import Sequence
from pathlib import Path

import setproctitle
import uvloop

from lb.cli.descriptors import open_standard_descriptors, raise_descriptor_limit
from lb.control import signals
from lb.control.logs import setup_logging
from lb.control.master import Master
from lb.control.options import MasterOptions, Service, ServiceFactory
from lb.control.systemd import Notifier, take_descriptors
from lb.control.upgrade.handover import take
from lb.control.workers.fleet import FleetSettings


class Admin:
    """The admin server. Its libraries, of HTTP and of metrics, take as long to load as the rest of the master: the
    workers serve meanwhile, and the loop goes on with health checks."""

    def __init__(self, master: Master) -> None:
        self._master = master
        self._server: Service | None = None

    async def start(self) -> None:
        """Raises StartError when it cannot run."""
        module = await asyncio.to_thread(importlib.import_module, "lb.control.admin.server")
        self._server = module.AdminServer(self._master)
        await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop()


# What runs beside the master, in the order of its start.
SERVICES: tuple[ServiceFactory, ...] = (Admin,)


def run(config: Path, fleet: FleetSettings | None = None, services: Sequence[ServiceFactory] = SERVICES) -> int:
    """Runs a master in this process; returns its exit status. Raises TidegateError when it cannot start.

    `fleet` and `services` are for tests: other timing, another data path, another admin server.
    """
    open_standard_descriptors()
    raise_descriptor_limit()
    setup_logging("master")
    setproctitle.setproctitle(f"tidegate: master -c {config}")
    handover = take(os.environ)
    options = MasterOptions(
        config_path=config.absolute(),
        notifier=Notifier.from_environment(os.environ),
        passed=handover.passed() if handover is not None else take_descriptors(os.environ),
        handover=handover,
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
