"""Endpoints that are the running instances of a managed instance group of Google Cloud.

Source: Compute Engine API, `instanceGroupManagers.listManagedInstances` and `instances.get`.
"""

from __future__ import annotations

from typing import Any

from lb.config.plan.plan import EndpointSpec
from lb.config.schema.file import PoolConfig
from lb.config.schema.pools.platforms import GcpSourceConfig
from lb.discovery.source import DiscoveryError, Found, Source
from lb.discovery.static import literal
from lb.platforms.error import MissingError, PlatformError
from lb.platforms.gcp import Gcp, is_running, managed_instances


class GcpSource(Source):
    """The address of an instance is asked for once, as it keeps it; the group says which instances there are."""

    Options = GcpSourceConfig
    options: GcpSourceConfig

    def __init__(self, pool: str, options: GcpSourceConfig, config: PoolConfig) -> None:
        super().__init__(pool, options, config)
        self._gcp = Gcp(options)
        self._known: dict[str, tuple[str, str]] = {}  # id of an instance -> its address and zone

    async def look(self) -> Found:
        """Raises DiscoveryError when Google Cloud gives no usable answer."""
        try:
            rows = [row for row in await managed_instances(self._gcp) if is_running(row)]
            self._known = {row["id"]: self._known.get(row["id"]) or await self._ask(row["instance"]) for row in rows}
        except PlatformError as error:
            raise DiscoveryError(str(error)) from None
        except (KeyError, TypeError, IndexError) as error:
            raise DiscoveryError(f"the answer of Google Cloud lacks {error}") from None
        found = [(literal(ip, self.options.port), zone) for ip, zone in self._known.values() if ip]
        specs = [EndpointSpec(str(address), zone=zone) for address, zone in found if address is not None]
        return Found(tuple(sorted(specs, key=lambda spec: spec.address)), self.options.interval)

    def describe(self) -> str:
        return f"{self.options.zone or self.options.region}/{self.options.group}:{self.options.port}"

    async def close(self) -> None:
        await self._gcp.close()

    async def _ask(self, instance: str) -> tuple[str, str]:
        path = instance[instance.index("/projects/") :] if "/projects/" in instance else instance
        try:
            answer: dict[str, Any] = await self._gcp.ask("GET", path)
        except MissingError:  # it went away between the two questions
            return "", ""
        return answer["networkInterfaces"][0]["networkIP"], str(answer.get("zone") or "").rpartition("/")[2]
