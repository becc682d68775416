"""Endpoints from a target group of AWS (Elastic Load Balancing), by the health that AWS sees.

Source: Elastic Load Balancing API reference, DescribeTargetHealth (states of a target).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lb.config.plan.plan import EndpointSpec
from lb.config.schema.file import PoolConfig
from lb.config.schema.pools.platforms import AwsSourceConfig
from lb.discovery.source import DiscoveryError, Found, Source
from lb.discovery.static import literal
from lb.platforms.aws import Aws, private_addresses
from lb.platforms.error import PlatformError

_UNCHECKED = ("initial", "unused", "unavailable")  # registered, and AWS has not found out how they are


class AwsSource(Source):
    """Targets that drain, or are unhealthy, are left out; so their requests end where they are."""

    Options = AwsSourceConfig
    options: AwsSourceConfig

    def __init__(self, pool: str, options: AwsSourceConfig, config: PoolConfig) -> None:
        super().__init__(pool, options, config)
        self._aws = Aws(options)
        self._addresses: dict[str, str] = {}  # of instances, which keep theirs

    async def look(self) -> Found:
        """Raises DiscoveryError when AWS gives no usable answer."""
        try:
            answer = await self._aws.call("elbv2", "describe_target_health", TargetGroupArn=self.options.target_group)
            rows = [row for row in answer.get("TargetHealthDescriptions") or () if self._counts(row)]
            await self._find([row["Target"]["Id"] for row in rows])
            specs = [spec for row in rows if (spec := self._spec(row)) is not None]
            return Found(tuple(sorted(specs, key=lambda spec: spec.address)), self.options.interval)
        except PlatformError as error:
            raise DiscoveryError(str(error)) from None
        except (KeyError, TypeError) as error:
            raise DiscoveryError(f"the answer of AWS lacks {error}") from None

    def describe(self) -> str:
        return self.options.target_group.rpartition("targetgroup/")[2]

    async def close(self) -> None:
        await self._aws.close()

    def _counts(self, row: Mapping[str, Any]) -> bool:
        state = row["TargetHealth"]["State"]
        return state == "healthy" or (self.options.unchecked == "use" and state in _UNCHECKED)

    async def _find(self, targets: list[str]) -> None:
        instances = {target for target in targets if target.startswith("i-")}
        self._addresses = {name: ip for name, ip in self._addresses.items() if name in instances}
        self._addresses |= await private_addresses(self._aws, list(instances - self._addresses.keys()))

    def _spec(self, row: Mapping[str, Any]) -> EndpointSpec | None:
        target = row["Target"]
        ip = self._addresses.get(target["Id"]) if target["Id"].startswith("i-") else target["Id"]
        address = literal(ip, int(target["Port"])) if ip else None
        return None if address is None else EndpointSpec(str(address), zone=target.get("AvailabilityZone") or "")
