"""What a plan asks the master to watch: endpoints to check, agents to ask, reports to read."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from lb.balancing.policy_checks import report_period
from lb.config.plan.plan import Plan
from lb.config.schema.file import Config
from lb.config.schema.listeners.tls import pool_tls_plan
from lb.control.configuration import Loaded
from lb.control.registry import Initial
from lb.health.agents import AgentTarget
from lb.health.checks.tls import check_tls
from lb.health.load_reports import ReportTarget
from lb.health.monitor import Target
from lb.shared.segment import Segment
from lb.shared.words import ENDPOINT

_ANSWERS = ENDPOINT.place("requests.1xx")
_CLASSES = ENDPOINT.place("requests.5xx") + 1 - _ANSWERS  # words of answers, whatever their status
_ERRORS = ENDPOINT.place("errors")


def initial(
    plan: Plan, config: Config, held: Callable[[str], bool] = lambda pool: False
) -> Iterator[tuple[int, Initial]]:
    """What is known of each slot before its first check. `held(pool)`: it is not up before it was told something."""
    for pool in plan.pools:
        health = config.pools[pool.name].health
        up = (health is None or health.initial == "up") and not held(pool.name)
        for endpoint in pool.endpoints:
            yield endpoint.slot, Initial(endpoint.weight, up)


def checked(plan: Plan, loaded: Loaded) -> Iterator[Target]:
    """Endpoints that have active checks."""
    for pool in plan.pools:
        health = loaded.config.pools[pool.name].checks
        if health is not None:
            own = pool_tls_plan(pool.protocol, health.tls, loaded.material) if health.tls is not None else None
            for endpoint in pool.endpoints:
                tls = check_tls(pool, endpoint, own)
                series = -1 if pool.protocol in ("tcp", "udp") else endpoint.series
                yield Target(pool.name, endpoint.address, endpoint.slot, health, tls, series)


def answered_well(segment: Segment, target: Target) -> int:
    """Requests that an endpoint has answered so far without a fault; 0 where they say nothing of it."""
    if target.series < 0:
        return 0
    return segment.series_sum(target.series, _ANSWERS, _CLASSES) - segment.series_sum(target.series, _ERRORS, 1)


def agents(plan: Plan, config: Config) -> Iterator[AgentTarget]:
    """Endpoints that have an agent."""
    for pool in plan.pools:
        agent = config.pools[pool.name].agent
        if agent is not None:
            for endpoint in pool.endpoints:
                yield AgentTarget(pool.name, endpoint.address, endpoint.slot, agent)


def reports(plan: Plan, config: Config) -> Iterator[ReportTarget]:
    """Endpoints that are asked for load reports out of band."""
    for pool in plan.pools:
        period = report_period(config.pools[pool.name].policy)
        if period is not None:
            for endpoint in pool.endpoints:
                yield ReportTarget(pool.name, endpoint.address, endpoint.slot, period, check_tls(pool, endpoint))


def models_of(config: Config) -> dict[str, list[str]]:
    """The pools whose checks ask for models, with those that the configuration names: none where it is for the servers
    to say."""
    found = {}
    for name, pool in config.pools.items():
        if pool.health is not None and pool.health.models is not None:
            found[name] = pool.health.models if isinstance(pool.health.models, list) else []
    return found
