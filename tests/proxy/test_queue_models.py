"""The queue of a pool whose endpoints have different models ready: who passes whom, and who does not."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from datapath import ROUTE, SECOND, Gate, Site, settle, sharing
from msgspec.structs import replace
from oip_site import ModelServer, ask, echo, plain
from queue_site import QUEUE, line, waiting

from lb.config.plan.plan import ExplainPlan

MODELS = ("a", "b", "d")
ASKED = ExplainPlan(0, ("127.0.0.1",))
PATIENT = replace(QUEUE, timeout_ns=120 * SECOND)
POOL = {"protocol": "oip", "models": MODELS, "queue": PATIENT}
ROUTES = (replace(ROUTE, name="high", series=3, host="high", priority=0), replace(ROUTE, name="rest"))


class One(ModelServer):
    """Has one request at a time, `current`, until it is told to answer."""

    def __init__(self) -> None:
        super().__init__(self.wait)
        self.current = ""
        self.seen: list[str] = []
        self.turn = asyncio.Event()

    async def wait(self, request: Any, context: Any) -> Any:
        assert not self.current, "over its limit"
        self.current = request.id
        self.seen.append(request.id)
        await self.turn.wait()
        self.turn.clear()
        self.current = ""
        return await echo(request, context)

    def answer(self) -> None:
        self.turn.set()


def unready(*models: str) -> int:
    return sum(1 << MODELS.index(model) for model in models)


async def site_of(site: Site, masks: list[int], **settings: Any) -> tuple[Gate, list[One]]:
    """A gate to endpoints that lack the models of `masks`, one request at a time each."""
    servers = [One() for _ in masks]
    addresses = [await site.model(server) for server in servers]
    gate = await site.gate(addresses, cap=1, pool=POOL, listener={"routes": ROUTES, "explain": ASKED}, **settings)
    for slot, mask in enumerate(masks):
        gate.segment.set_models_unready(slot, mask)
    return gate, servers


def send(gate: Gate, name: str, model: str, host: str = "test") -> asyncio.Task[Any]:
    return asyncio.create_task(ask(gate, plain(id=name), path=f"/v2/models/{model}/infer", headers={"Host": host}))


async def taken(servers: list[One], name: str) -> int:
    """Which of them has it, as it does not wait."""
    await settle(lambda: any(server.current == name for server in servers), f"{name} stands in line")
    return next(i for i, server in enumerate(servers) if server.current == name)


async def has(server: One, name: str) -> None:
    await settle(lambda: server.current == name, f"{name or 'an answer'} does not come")


async def joins(gate: Gate, name: str, model: str, host: str = "test") -> asyncio.Task[Any]:
    before = waiting(gate)
    task = send(gate, name, model, host)
    await settle(lambda: waiting(gate) == before + 1, f"{name} does not wait")
    return task


async def test_who_waits_for_a_model_holds_up_nobody_else(site: Site) -> None:
    gate, (first, second) = await site_of(site, [unready("b"), unready("a")])
    tasks = [send(gate, "a1", "a"), send(gate, "b1", "b")]
    await settle(lambda: first.current == "a1" and second.current == "b1", "they do not get there")
    tasks += [await joins(gate, name, name[0]) for name in ("a2", "a3", "b2", "b3")]
    second.answer()
    await settle(lambda: second.current == "b2", "it waits behind another model's")
    assert (first.current, waiting(gate)) == ("a1", 3)
    second.answer()
    await settle(lambda: second.current == "b3", "it waits behind another model's")
    second.answer()
    await settle(lambda: not second.current, "it is not answered")
    # The endpoint is free, and none of those who wait can use it: a newcomer passes them.
    tasks.append(send(gate, "b4", "b"))
    await settle(lambda: second.current == "b4", "it stands in line for nothing")
    assert line(gate)["started"] == 4
    second.answer()
    for name in ("a2", "a3"):
        first.answer()
        await has(first, name)
    first.answer()
    assert [(await task).status for task in tasks] == [200] * 7


async def test_who_passes_is_explained_as_well(site: Site) -> None:
    gate, (first, second) = await site_of(site, [unready("b"), unready("a")])
    tasks = [send(gate, "a1", "a")]
    await has(first, "a1")
    tasks.append(await joins(gate, "a2", "a"))
    asks = {"X-Tidegate-Explain": "1"}
    passing = asyncio.create_task(ask(gate, plain(id="b1"), path="/v2/models/b/infer", headers=asks))
    await has(second, "b1")
    second.answer()
    (choice,) = json.loads((await passing).headers["x-tidegate-explain"])["choices"]
    full, taken = gate.plan.pools[0].endpoints
    assert (choice["endpoint"], choice["why"]) == (taken.address, "no other endpoint takes requests now")
    assert choice["steps"] == ["model b: only where it is ready"]
    assert choice["candidates"][1]["not"] == "the model is not ready there"
    assert choice["candidates"][1]["address"] == full.address
    first.answer()
    await has(first, "a2")
    first.answer()
    await asyncio.gather(*tasks)


async def test_an_endpoint_that_the_first_can_use_is_kept_for_it(site: Site) -> None:
    gate, (only, other) = await site_of(site, [0, unready("a", "b")])
    tasks = [send(gate, "x", "c"), send(gate, "y", "c")]  # of which nobody knows where it is ready
    await settle(lambda: bool(only.current and other.current), "they do not get there")
    tasks += [await joins(gate, "a1", "a"), await joins(gate, "c1", "c"), await joins(gate, "b1", "b")]
    only.answer()
    await settle(lambda: only.current == "a1", "another took its place")
    other.answer()
    await settle(lambda: other.current == "c1", "it waits behind another model's")
    only.answer()
    await settle(lambda: only.current == "b1", "it does not come")
    only.answer()
    other.answer()
    assert [(await task).status for task in tasks] == [200] * 5


async def test_who_could_be_answered_in_time_is_not_refused_for_those_of_another_model(site: Site) -> None:
    gate, (first, second) = await site_of(site, [unready("b"), unready("a")])
    for server, model in ((first, "a"), (second, "b")):  # their first answers tell nothing of how long requests take
        task = send(gate, "warm", model)
        await settle(lambda server=server: server.current == "warm", "it does not get there")  # type: ignore[misc]
        server.answer()
        await task
    tasks = [send(gate, "a0", "a"), send(gate, "b0", "b")]
    await settle(lambda: bool(first.current and second.current), "they do not get there")
    await asyncio.sleep(0.2)  # from now on a request takes 200 ms, as far as anybody knows
    first.answer()
    second.answer()
    await asyncio.gather(*tasks)
    tasks = [send(gate, "a1", "a"), send(gate, "b1", "b")]
    await settle(lambda: first.current == "a1" and second.current == "b1", "they do not get there")
    tasks += [await joins(gate, f"a{i}", "a") for i in range(2, 12)]
    late = await ask(gate, plain(id="late", parameters={"timeout": 1_000_000}), path="/v2/models/a/infer")
    assert late.status == 503
    soon = asyncio.create_task(
        ask(gate, plain(id="soon", parameters={"timeout": 20_000_000}), path="/v2/models/b/infer")
    )
    await settle(lambda: waiting(gate) == 11, "it was refused")
    second.answer()
    await settle(lambda: second.current == "soon", "it does not come")
    second.answer()
    for _ in range(11):
        await settle(lambda: bool(first.current), "nobody comes")
        first.answer()
        await settle(lambda: not first.turn.is_set(), "no answer")
    assert (await soon).status == 200
    await asyncio.gather(*tasks)


@dataclass
class Reference:
    """What the queue should do: of those who can use the place that is free, the first by priority and arrival."""

    masks: list[int]
    line: list[tuple[int, int, str, str]] = field(default_factory=list)  # priority, arrival, name, model

    def fits(self, model: str, endpoint: int) -> bool:
        return model not in MODELS or not self.masks[endpoint] >> MODELS.index(model) & 1

    def next_at(self, endpoint: int) -> str:
        for entry in sorted(self.line):
            if self.fits(entry[3], endpoint):
                self.line.remove(entry)
                return entry[2]
        return ""


@contextlib.asynccontextmanager
async def gates_of(site: Site, masks: list[int], workers: int) -> AsyncIterator[tuple[list[Gate], list[One]]]:
    servers: list[One] = []

    async def make(**options: Any) -> Gate:
        gate, made = await site_of(site, masks, **options)
        servers.extend(made)
        return gate

    async with sharing(site, workers, make) as gates:
        yield gates, servers


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("seed", range(8))
async def test_order_at_random(site: Site, seed: int, workers: int) -> None:
    chance = random.Random(seed)
    while True:
        masks = [chance.randrange(8) for _ in range(3)]
        if all(any(not mask >> bit & 1 for mask in masks) for bit in range(3)):
            break  # every model is ready somewhere
    reference = Reference(masks)
    async with gates_of(site, masks, workers) as (gates, servers):
        tasks = [send(gates[0], f"first{i}", "c") for i in range(3)]
        await settle(lambda: all(server.current for server in servers), "they do not get there")
        free: set[int] = set()
        for number in range(60):
            if number < 40 and chance.random() < 0.6:
                name, model, host = f"{number}", chance.choice("abcd"), chance.choice(["high", "test"])
                gate = chance.choice(gates)
                fit = [i for i in free if reference.fits(model, i)]
                if fit:  # and nobody in front can use it, or it would not be free
                    tasks.append(send(gate, name, model, host))
                    free.remove(await taken(servers, name))
                else:
                    tasks.append(await joins(gate, name, model, host))
                    reference.line.append((0 if host == "high" else 1, number, name, model))
            elif len(free) < 3:
                endpoint = chance.choice([i for i in range(3) if i not in free])
                expected = reference.next_at(endpoint)
                servers[endpoint].answer()
                await has(servers[endpoint], expected)
                if not expected:
                    free.add(endpoint)
        while busy := [i for i in range(3) if servers[i].current]:
            expected = reference.next_at(busy[0])
            servers[busy[0]].answer()
            await has(servers[busy[0]], expected)
        assert not reference.line
        assert {(await task).status for task in tasks} == {200}
        assert waiting(gates[0]) == 0
