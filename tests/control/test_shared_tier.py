"""The master's part of a cache tier: purges go to it before they happen in memory, and one line says how it is."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from tier_servers import TierServers, make_tier
from waiting import until

from lb.cache.store import ResultCache
from lb.clock import MonotonicClock
from lb.config.plan.plan import AccessLogPlan, CachePlan, Plan
from lb.config.plan.tier import TierPlan
from lb.config.units import MILLISECOND
from lb.control.cache.shared_tier import SharedTier
from lb.shared.segment import Segment


def plan_of(tier: TierPlan | None) -> Plan:
    return Plan(1, 1, (), (), CachePlan(1 << 20, 1024, tier), AccessLogPlan(""), 0)


@pytest.fixture
def memory() -> Iterator[ResultCache]:
    segment = Segment.create(1, 16, 16, 1 << 20)
    yield ResultCache(segment, 1024)
    segment.close()


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[TierServers]:
    made = TierServers("redis", tmp_path)
    made.start()
    yield made
    made.stop()


class Daemon:
    def __init__(self, memory: ResultCache) -> None:
        self.workers: dict[str, dict[str, Any]] = {}
        self.heard: list[bytes | None] = []
        self.tier = SharedTier(lambda: memory, lambda: self.workers, self.heard.append, MonotonicClock())

    async def use(self, tier: TierPlan | None) -> None:
        await self.tier.prepare(plan_of(tier))
        self.tier.commit(plan_of(tier))

    @property
    def status(self) -> dict[str, Any]:
        status = self.tier.status()
        assert status is not None
        return status


@pytest.fixture
async def daemon(memory: ResultCache) -> AsyncIterator[Daemon]:
    made = Daemon(memory)
    yield made
    await made.tier.close()


async def test_a_purge_is_marked_until_the_tier_knows(
    daemon: Daemon, memory: ResultCache, servers: TierServers
) -> None:
    plan = servers.plan(timeout_ns=100 * MILLISECOND, connect_timeout_ns=100 * MILLISECOND)
    await daemon.use(plan)
    await until(lambda: daemon.status["state"] == "closed")
    servers.pause()
    daemon.tier.purging(["model:p/m", "x" * 300])
    assert memory.is_purging(b"model:p/m")
    assert not memory.is_purging(b"x" * 300)  # nothing in the tier has it
    await until(lambda: daemon.status["state"] != "closed")
    assert daemon.status["pending_purges"] == 1
    # A tier with other limits has to be told of it, too.
    await daemon.use(replace(plan, timeout_ns=plan.timeout_ns * 2))
    assert memory.is_purging(b"model:p/m")
    servers.resume()
    await until(lambda: not memory.is_purging(b"model:p/m"))
    assert daemon.status["pending_purges"] == 0
    assert servers.read(b"tidegate:g:model:p/m") is not None


async def test_a_tier_that_is_given_up_leaves_no_mark(
    daemon: Daemon, memory: ResultCache, servers: TierServers
) -> None:
    servers.kill()
    await daemon.use(servers.plan())
    daemon.tier.purging(["model:p/m"])
    assert memory.is_purging(b"model:p/m")
    # A reload that fails leaves the one that is in force.
    await daemon.tier.prepare(plan_of(servers.plan(prefix="other:")))
    daemon.tier.commit(plan_of(servers.plan()))
    assert memory.is_purging(b"model:p/m")
    await daemon.use(None)
    assert not memory.is_purging(b"model:p/m")
    assert daemon.tier.status() is None


async def test_purges_of_others_are_heard_and_first_generations_are_none(daemon: Daemon, servers: TierServers) -> None:
    await daemon.use(servers.plan())
    other = make_tier(servers.plan())
    other.start()
    await until(lambda: other.available and daemon.status["state"] == "closed")
    await other.get(bytes(32), [b"model:p/m", b"model:p/n"])
    await other.purge(b"model:p/m")
    await until(lambda: bool(daemon.heard))
    assert daemon.heard == [b"model:p/m"]
    await other.stop()


async def test_one_line_for_all_processes(
    daemon: Daemon, servers: TierServers, caplog: pytest.LogCaptureFixture
) -> None:
    await daemon.use(servers.plan())
    await until(lambda: daemon.status["state"] == "closed")
    caplog.set_level(logging.INFO, "tidegate.cache")
    well = make_tier(servers.plan()).status().to_dict() | {"state": "closed"}
    ill = well | {"state": "open", "down": True, "last_error": "no answer in time"}
    for workers in ({}, {"0": well}, {"0": ill, "1": well}, {"0": ill, "1": ill}, {"0": well, "1": ill}, {"0": well}):
        daemon.workers = workers
        daemon.tier.look()
    daemon.tier.look()
    address = servers.ports[0]
    assert [record.message for record in caplog.records] == [
        f"cache tier redis 127.0.0.1:{address} is not used for now: no answer in time",
        f"cache tier redis 127.0.0.1:{address} is used again, after 0 s",
    ]
    daemon.workers = {"0": ill, "1": well}
    assert (daemon.status["state"], daemon.status["error"]) == ("partly open", "no answer in time")
    assert list(daemon.status["processes"]) == ["0", "1", "master"]
