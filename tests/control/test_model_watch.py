"""Which changes of what endpoints say of their models make a model another one."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from lb.control.cache.model_watch import PAUSE, ModelWatch, WatchedPool
from lb.control.endpoints.asking import Asked, GrpcStatus
from lb.wire import grpc_service_pb2 as wire


class Failed:
    def __init__(self, code: int) -> None:
        self.code = code


class Rig:
    """Endpoints by their addresses, each with its models and their versions; None: it does not answer."""

    def __init__(self, **endpoints: dict[str, list[str]] | None) -> None:
        self.endpoints = endpoints
        self.index = True
        self.platform = "onnx"
        self.listed: list[str] = []
        self.changed: list[tuple[str, str]] = []
        self.pools = ["p"]
        self.watch = ModelWatch(self.watched, lambda pool, model: self.changed.append((pool, model)), self.ask)

    def watched(self) -> dict[str, WatchedPool]:
        addresses = list(self.endpoints)
        return {name: WatchedPool([Asked(a) for a in addresses], addresses, self.listed) for name in self.pools}

    async def ask(self, endpoint: Asked, method: str, requests: Sequence[bytes], seconds: float) -> list[Any]:
        await asyncio.sleep(0)
        models = self.endpoints[endpoint.address]
        if models is None:
            return [Failed(GrpcStatus.UNAVAILABLE) for _ in requests]
        if method == "RepositoryIndex":
            if not self.index:
                return [Failed(GrpcStatus.UNIMPLEMENTED)]
            answer = wire.RepositoryIndexResponse()
            for name, versions in models.items():
                for version in versions:
                    answer.models.add(name=name, version=version, state="READY")
            answer.models.add(name="coming", version="1", state="LOADING")
            return [answer.SerializeToString()]
        names = [wire.ModelMetadataRequest.FromString(request).name for request in requests]
        return [
            wire.ModelMetadataResponse(name=name, versions=models[name], platform=self.platform).SerializeToString()
            if name in models
            else Failed(GrpcStatus.NOT_FOUND)
            for name in names
        ]

    async def look(self) -> list[tuple[str, str]]:
        self.changed.clear()
        await self.watch.look()
        return sorted(self.changed)


async def test_what_is_learned_and_stays_is_no_change() -> None:
    rig = Rig(a={"m": ["1"], "n": ["1", "2"]}, b={"m": ["1"], "n": ["2", "1"]})
    assert [await rig.look() for _ in range(3)] == [[], [], []]


async def test_another_version_another_platform_and_a_model_that_goes() -> None:
    rig = Rig(a={"m": ["1"], "n": ["1"]})
    await rig.look()
    rig.endpoints["a"] = {"m": ["2"], "n": ["1"]}
    assert await rig.look() == [("p", "m")]
    rig.endpoints["a"] = {"m": ["2"]}
    assert await rig.look() == [("p", "n")]
    rig.platform = "other"
    assert await rig.look() == [("p", "m")]
    rig.endpoints["a"] = {"m": ["2"], "n": ["1"]}
    assert await rig.look() == [], "a model that comes has no answers"


async def test_endpoints_that_join_and_leave_with_the_same_models() -> None:
    rig = Rig(a={"m": ["1"]})
    await rig.look()
    rig.endpoints["b"] = {"m": ["1"]}
    assert await rig.look() == []
    del rig.endpoints["a"]
    assert await rig.look() == []


async def test_endpoints_that_join_and_leave_with_another_one() -> None:
    rig = Rig(a={"m": ["1"]})
    await rig.look()
    rig.endpoints["b"] = {"m": ["2"]}
    assert await rig.look() == [("p", "m")]
    assert await rig.look() == []
    del rig.endpoints["a"]
    assert await rig.look() == [("p", "m")]


async def test_an_endpoint_that_says_nothing_is_as_it_was() -> None:
    rig = Rig(a={"m": ["1"]})
    await rig.look()
    rig.endpoints["a"] = None
    assert await rig.look() == []
    rig.endpoints["a"] = {"m": ["1"]}
    assert await rig.look() == []
    rig.endpoints["a"] = None
    await rig.look()
    rig.endpoints["a"] = {"m": ["2"]}
    assert await rig.look() == [("p", "m")]


async def test_without_an_index_by_the_models_that_checks_name() -> None:
    rig = Rig(a={"m": ["1"], "n": ["1"]})
    rig.index, rig.listed = False, ["m", "missing"]
    await rig.look()
    rig.endpoints["a"] = {"m": ["2"], "n": ["2"]}
    assert await rig.look() == [("p", "m")]


async def test_a_pool_that_went_and_came_is_learned_anew() -> None:
    rig = Rig(a={"m": ["1"]})
    await rig.look()
    rig.pools = []
    await rig.look()
    rig.pools, rig.endpoints["a"] = ["p"], {"m": ["2"]}
    assert await rig.look() == []


async def test_an_endpoint_that_comes_up_is_asked_soon() -> None:
    """Answers from before a restart wait for what it says of its models."""
    rig = Rig()
    heard: list[str] = []
    said = asyncio.Event()

    def looked(pool: str, models: Mapping[str, set[bytes]]) -> None:
        heard.extend(models)
        if models:
            said.set()

    rig.watch.looked = looked
    watching = asyncio.create_task(rig.watch.run())
    await asyncio.sleep(0)
    rig.endpoints["a"] = {"m": ["1"]}
    rig.watch.endpoint_up()
    async with asyncio.timeout(PAUSE / 2):
        await said.wait()
    assert heard[0] == "m"
    watching.cancel()
