"""Which sources run, for which configuration, and what their pools have meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from lb.clock import MonotonicClock
from lb.config.plan.plan import EndpointSpec
from lb.config.schema.file import Config, PoolConfig
from lb.control.endpoints.discovered import DiscoveredPools
from lb.discovery.source import Found, Source
from lb.errors import StartError

ONE = EndpointSpec("10.0.0.1:1")


class Manual(Source):
    """Answers when `answer` is set; then never again."""

    def __init__(self, pool: str, config: PoolConfig) -> None:
        super().__init__(pool, None, config)
        self.answer: asyncio.Future[Found] = asyncio.get_running_loop().create_future()
        self.closed = False

    async def look(self) -> Found:
        return await self.answer

    async def close(self) -> None:
        self.closed = True


class Case:
    def __init__(self) -> None:
        self.made: list[Manual] = []
        self.changed: list[str] = []
        self.pools = DiscoveredPools(self.changed.append, MonotonicClock(), self._build)

    def _build(self, name: str, pool: PoolConfig) -> Source:
        self.made.append(Manual(name, pool))
        return self.made[-1]


def config(retries: int = 1, **sources: dict[str, Any]) -> Config:
    def pool(path: str = "/e", **settings: Any) -> dict[str, Any]:
        return {"protocol": "http", "retries": retries, "discover": {"file": {"path": path}, **settings}}

    return Config.model_validate({"pools": {name: pool(**settings) for name, settings in sources.items()}})


EMPTY = {"initial": "empty"}


async def test_sources_begin_with_what_is_prepared_and_end_with_what_is_not_applied() -> None:
    case = Case()
    first = config(a=EMPTY, b=EMPTY)
    async with case.pools.prepared(first, None):
        assert [source.pool for source in case.made] == ["a", "b"]
        case.pools.apply(first)
    a, b = case.made
    a.answer.set_result(Found((ONE,), None))
    await asyncio.sleep(0.01)
    assert case.changed == ["a"]
    assert case.pools.endpoints(first) == {"a": (ONE,), "b": ()}

    second = config(a={**EMPTY, "path": "/other"}, b=EMPTY)

    async def refused() -> None:
        async with case.pools.prepared(second, None):
            assert len(case.made) == 3
            raise StartError("a worker did not take it")

    with pytest.raises(StartError):
        await refused()
    assert case.pools.endpoints(first) == {"a": (ONE,), "b": ()}, "what is in force goes on"
    await asyncio.sleep(0.01)
    assert [source.closed for source in case.made] == [True, False, True], (
        "a has its answer for ever, the third is undone"
    )

    async with case.pools.prepared(config(retries=2, a=EMPTY, b=EMPTY), None):
        assert len(case.made) == 3, "the rest of a pool is not a source's affair"
    third = config(b=EMPTY)
    async with case.pools.prepared(third, None):
        case.pools.apply(third)
    assert case.pools.status(0).keys() == {"b"}
    await case.pools.close()
    assert b.closed


async def test_what_another_publication_prepares_is_left_alone() -> None:
    case = Case()
    first, second = config(a=EMPTY), config(a=EMPTY, b=EMPTY)
    async with case.pools.prepared(first, None):
        case.pools.apply(first)
    async with case.pools.prepared(second, None):
        case.pools.apply(first)  # endpoints of a changed meanwhile, and were published
        assert case.pools.endpoints(second).keys() == {"a", "b"}
        await asyncio.sleep(0.01)
        assert not case.made[1].closed
        case.pools.apply(second)
    assert not case.made[1].closed
    await case.pools.close()


async def test_one_that_is_required_ends_the_wait_of_the_others() -> None:
    case = Case()
    wanted = config(a={"initial_timeout": "5m"}, b={"initial": "required", "initial_timeout": "20ms"})
    with pytest.raises(StartError, match=r"pool b: no endpoints within 0.02 s: no answer yet"):
        async with asyncio.timeout(20), case.pools.prepared(wanted, None):
            pytest.fail("it went on")
    await case.pools.close()
    await asyncio.sleep(0)
    assert all(source.closed for source in case.made)
    assert len(asyncio.all_tasks()) == 1
