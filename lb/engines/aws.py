"""Replicas that are instances of an Auto Scaling group of AWS: its desired capacity, warm pool and lifecycle hook.

Sources: Amazon EC2 Auto Scaling User Guide, "Set the desired capacity", "Warm pools" and "Lifecycle hooks".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from lb.clock import Clock, MonotonicClock
from lb.config.schema.file import PoolConfig
from lb.config.schema.pools.engine import AwsEngineConfig
from lb.config.units import SECOND
from lb.engines.engine import Engine, Inflight, Seen
from lb.platforms.aws import Aws, private_addresses
from lb.platforms.error import MissingError, PlatformError

_WAITING = "Terminating:Wait"  # state of an instance that a hook holds before its end
QUIET_LOOKS = 2  # looks in a row without a request, before an instance is let go: workers hear of its end later


class AwsEngine(Engine):
    """Cooldowns of the group are not waited for: what is wanted was decided with windows of Tidegate's own. A warm pool
    needs nothing of us: AWS takes from it first, and its instances are no replicas yet."""

    options: AwsEngineConfig
    interval = 10 * SECOND

    def __init__(self, pool: str, options: AwsEngineConfig, config: PoolConfig, clock: Clock | None = None) -> None:
        super().__init__(pool, options, config)
        self._aws = Aws(options)
        self._clock = clock or MonotonicClock()
        self._group: Mapping[str, Any] = {}
        self._quiet: Counter[str] = Counter()  # instance -> looks in a row without a request
        self._held_since: dict[str, int] = {}

    async def look(self) -> Seen:
        answer = await self._aws.call(
            "autoscaling", "describe_auto_scaling_groups", AutoScalingGroupNames=[self.options.group]
        )
        groups = answer.get("AutoScalingGroups") or ()
        if not groups:
            raise MissingError(f"there is no Auto Scaling group {self.options.group}")
        self._group = groups[0]
        try:
            states = Counter(row["LifecycleState"] for row in self._group.get("Instances") or ())
            limits = f"{self._group['MinSize']} to {self._group['MaxSize']}"
            return Seen(self._group["DesiredCapacity"], states["InService"], detail=self._detail(limits, states))
        except KeyError as error:
            raise PlatformError(f"the answer of AWS lacks {error}") from None

    async def change(self, number: int, seen: Seen) -> None:
        least, most = (int(self._group.get(key, number)) for key in ("MinSize", "MaxSize"))
        if not least <= number <= most:
            raise PlatformError(f"the group {self.options.group} allows {least} to {most} instances, not {number}")
        await self._aws.call(
            "autoscaling",
            "set_desired_capacity",
            AutoScalingGroupName=self.options.group,
            DesiredCapacity=number,
            HonorCooldown=False,
        )

    async def drain(self, inflight: Inflight) -> None:
        """Lets go of instances that the hook holds, once they have no request, or after `drain_timeout`."""
        if self.options.lifecycle_hook is None:
            return
        rows = self._group.get("Instances") or ()
        held = [row["InstanceId"] for row in rows if row["LifecycleState"] == _WAITING]
        now = self._clock.now()
        self._held_since = {name: self._held_since.get(name, now) for name in held}
        self._quiet = Counter({name: self._quiet[name] for name in held})
        addresses = await private_addresses(self._aws, held)
        for name in held:
            ip = addresses.get(name)
            busy = ip is not None and any(inflight.at(a) for a in inflight.addresses() if _is_at(a, ip))
            self._quiet[name] = 0 if busy else self._quiet[name] + 1
            if self._quiet[name] >= QUIET_LOOKS or now - self._held_since[name] >= self.options.drain_timeout:
                await self._let_go(name)

    def describe(self) -> str:
        return f"aws {self.options.group}"

    async def close(self) -> None:
        await self._aws.close()

    async def _let_go(self, instance: str) -> None:
        await self._aws.call(
            "autoscaling",
            "complete_lifecycle_action",
            AutoScalingGroupName=self.options.group,
            LifecycleHookName=self.options.lifecycle_hook,
            InstanceId=instance,
            LifecycleActionResult="CONTINUE",
        )

    def _detail(self, limits: str, states: Mapping[str, int]) -> str:
        parts = [f"the group's limits are {limits}"]
        parts += [f"{count} {state}" for state, count in sorted(states.items()) if state != "InService"]
        warm = self._group.get("WarmPoolSize")
        if warm:
            parts.append(f"{warm} in the warm pool")
        return ", ".join(parts)


def _is_at(address: str, ip: str) -> bool:
    return address.rpartition(":")[0] == ip
