"""Engines and leases by their names in the configuration; each is imported when the configuration has it."""

from __future__ import annotations

from lb.clock import Clock
from lb.config.schema.file import PoolConfig
from lb.config.schema.pools.engine import EngineConfig, LeaseConfig
from lb.config.schema.pools.platforms import KubernetesConfig
from lb.engines.engine import Engine
from lb.engines.lease import Lease

_DEFAULT = LeaseConfig.model_construct(kubernetes=None, redis=None, name=None, duration=15_000_000_000)


def build(pool: str, engine: EngineConfig, config: PoolConfig) -> Engine | None:
    """The engine of a pool; None where somebody else changes the number of replicas (`external`)."""
    if engine.kubernetes is not None:
        from lb.engines.kubernetes import KubernetesEngine

        return KubernetesEngine(pool, engine.kubernetes, config)
    if engine.aws is not None:
        from lb.engines.aws import AwsEngine

        return AwsEngine(pool, engine.aws, config)
    if engine.gcp is not None:
        from lb.engines.gcp import GcpEngine

        return GcpEngine(pool, engine.gcp, config)
    return None


def build_lease(pool: str, engine: EngineConfig, clock: Clock) -> tuple[Lease, int] | None:
    """The lease of a pool's daemons and its duration, ns; None where this daemon is the only one."""
    if engine.lease == "off" or (engine.lease is None and engine.kubernetes is None):
        return None
    section = engine.lease if isinstance(engine.lease, LeaseConfig) else _DEFAULT
    name = section.name or lease_name(pool)
    if section.redis is not None:
        from lb.engines.redis import RedisLease

        return RedisLease(name, section.redis, section.duration), section.duration
    from lb.engines.kubernetes import KubernetesLease

    where = section.kubernetes or engine.kubernetes or KubernetesConfig()
    return KubernetesLease(name, where, section.duration, clock), section.duration


def lease_name(pool: str) -> str:
    """`tidegate-` and the pool's name, as Kubernetes allows it."""
    plain = "".join(c if c.isalnum() and c.isascii() else "-" for c in pool.lower()).strip("-")
    return f"tidegate-{plain or 'pool'}"
