"""`tidegate run`."""

from __future__ import annotations

import os
import resource
from collections.abc import Sequence
from pathlib import Path

import setproctitle
import uvloop

from lb.control.admin import AdminServer
from lb.control.fleet import FleetSettings
from lb.control.logs import setup_logging
from lb.control.master import Master
from lb.control.options import MasterOptions, ServiceFactory
from lb.control.systemd import Notifier, take_sockets

# What runs beside the master, in the order of its start.
SERVICES: tuple[ServiceFactory, ...] = (AdminServer,)


def run(config: Path, fleet: FleetSettings | None = None, services: Sequence[ServiceFactory] = SERVICES) -> int:
    """Runs a master in this process; returns its exit status. Raises TidegateError when it cannot start.

    `fleet` and `services` are for tests: other timing, another data path, another admin server.
    """
    setup_logging("master")
    setproctitle.setproctitle(f"tidegate: master -c {config}")
    _raise_descriptor_limit()
    options = MasterOptions(
        config_path=config.absolute(),
        notifier=Notifier.from_environment(os.environ),
        inherited=take_sockets(os.environ),
        fleet=fleet or FleetSettings(),
        services=services,
    )
    status: int = uvloop.run(_serve(options))
    return status


def _raise_descriptor_limit() -> None:
    """Lifts the soft limit of open files to the hard one, for us and for the processes that we start, as HAProxy and
    programs in Go do: the usual 1024 is for those that call select(2), and a worker takes no connection beyond it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _serve(options: MasterOptions) -> int:
    return await Master(options).run()
