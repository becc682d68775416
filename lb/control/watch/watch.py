"""The watch of a running master: takes samples, and says what the dashboard and the alerts need to know.

Each INTERVAL a sample of the counters is taken. The status document, which costs more, is made only where somebody asks
for the overview, or where alerts are configured.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from typing import TYPE_CHECKING, Any

from lb.config.regular_file import read_regular, without_bom
from lb.control.counters import models_of
from lb.control.watch import overview, problems
from lb.control.watch.alerts import Alerts
from lb.control.watch.history import INTERVAL, History
from lb.control.watch.receivers import Receivers
from lb.control.watch.topology import topology
from lb.errors import ConfigError, StartError

if TYPE_CHECKING:
    from lb.clock import Clock
    from lb.config.schema.file import Config
    from lb.control.master import Master

log = logging.getLogger("tidegate.watch")

_KEEP = 1_000_000_000  # ns for which an overview is given to all who ask
_CHANGES = 20


class Watch:
    """Of one master; `history` has the samples."""

    def __init__(self, master: Master, clock: Clock) -> None:
        self.history = History()
        self._master = master
        self._clock = clock
        self._made: tuple[int, dict[str, Any]] | None = None  # when, and what
        self._topology: tuple[int, dict[str, Any]] = (-1, {})
        self._alerts = Alerts(socket.gethostname())
        self._receivers = Receivers()
        self._testing = asyncio.Lock()

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            try:
                self.look()
                self._alert()
            except Exception:  # a look that fails must not be the last
                log.exception("the traffic was not sampled")
            await asyncio.sleep(INTERVAL)

    def look(self) -> None:
        """Takes a sample."""
        plan = self._master.plan
        if plan is not None:
            segment = self._master.segment
            models = models_of(plan, segment)
            self.history.sample(plan, segment.series_bytes, self._clock.now(), time.time(), models)

    def check(self, config: Config) -> None:
        """Raises ConfigError of a secret that `apply` could not use."""
        _secret(config)

    async def apply(self, config: Config) -> None:
        """Alerts go where a configuration says from now on."""
        await self._receivers.apply(config.alerts.urls if config.alerts is not None else (), _secret(config))

    async def close(self) -> None:
        """Gives up what was not told yet."""
        await self._receivers.close()

    def status(self) -> dict[str, Any] | None:
        """Of alerts, for the status document; None where none are configured."""
        if self._master.config.alerts is None:
            return None
        return {
            "firing": self._alerts.firing,
            "waiting": self._receivers.waiting,
            "deliveries": dict(self._receivers.told),
        }

    async def test_alerts(self, by: str) -> list[dict[str, Any]]:
        """Tells each webhook that nothing is wrong: [{receiver, status}]. Raises ConfigError where there are none, and
        StartError while another test is under way."""
        if self._master.config.alerts is None:
            raise ConfigError(["alerts: the configuration names no webhooks"])
        if self._testing.locked():
            raise StartError("another test is under way")
        async with self._testing:
            return await self._receivers.attempt(self._alerts.sample(by, time.time()))

    def _alert(self) -> None:
        options = self._master.config.alerts
        if options is None or self._master.state != "running":
            return
        found = problems.find(self._master.status(), self.history)
        message = self._alerts.decide(found, options, self._clock.now(), time.time())
        if message is not None:
            self._receivers.tell(message)

    def overview(self, fresh: bool = False) -> dict[str, Any]:
        """The overview (lb.control.watch.overview), at most a second old; `fresh`: made now."""
        now = self._clock.now()
        if self._made is None or fresh or now - self._made[0] >= _KEEP:
            status = self._master.status()
            found = problems.find(status, self.history)
            changes = self._master.transitions.last(_CHANGES)
            self._made = now, overview.document(status, found, self.history, self._ways(), changes)
        return self._made[1]

    def _ways(self) -> dict[str, Any]:
        plan = self._master.plan
        if plan is None:
            return {"listeners": [], "routes": [], "routes_left_out": 0}
        if self._topology[0] != plan.generation:
            self._topology = plan.generation, topology(plan)
        return self._topology[1]


def _secret(config: Config) -> bytes | None:
    if config.alerts is None or config.alerts.secret_file is None:
        return None
    from lb.jobs.settings import secret_of

    file = config.alerts.secret_file
    try:
        return secret_of(without_bom(read_regular(file)))
    except (OSError, ValueError) as error:
        raise ConfigError([f"alerts.secret_file: {file}: {error}"]) from error
