"""What a master is started with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from msgspec import Struct, field

from lb.control.systemd import Notifier, Passed
from lb.control.upgrade.handover import Handover
from lb.control.workers.fleet import FleetSettings

if TYPE_CHECKING:
    from lb.control.master import Master


class Service(Protocol):
    """Something that runs beside the master from its first plan to the end of the drain, such as the admin server."""

    async def start(self) -> None:
        """Raises StartError when it cannot run."""

    async def stop(self) -> None: ...


ServiceFactory = Callable[["Master"], Service]


class MasterOptions(Struct, frozen=True):
    """What the command line and the service manager give."""

    config_path: Path
    notifier: Notifier = field(default_factory=Notifier)
    passed: Passed = field(default_factory=Passed)
    handover: Handover | None = None  # what the program before has left; `passed` is of it then
    fleet: FleetSettings = field(default_factory=FleetSettings)
    services: Sequence[ServiceFactory] = ()
