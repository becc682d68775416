"""The result cache of inferences, and identical ones that come at once."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import grpc
import pytest
from datapath import SECOND, Gate, Site, settle
from infer_site import Held, error_of, gate_to, idle
from msgspec.structs import replace
from oip_site import (
    INFER,
    Answer,
    ModelServer,
    ask,
    binary,
    echo,
    failing,
    floats,
    plain,
    request,
    tensor,
)

from lb.config.plan.caching import FreshnessPlan


async def test_a_repeated_request_is_a_hit_in_any_encoding(site: Site) -> None:
    model = ModelServer()
    gate = await gate_to(site, model, cached=True)
    first = await ask(gate, plain(id="a"))
    assert first.cache == "tidegate; fwd=miss; stored"
    again = await ask(gate, plain(id="b"))
    assert again.cache == "tidegate; hit"
    assert again.json == {**first.json, "id": "b"}
    body, headers = binary((tensor([], shape=[2]), floats(1.5, -2.0)))
    other = await ask(gate, body, headers=headers)
    assert other.cache == "tidegate; hit"
    assert other.binary == floats(1.5, -2.0)
    assert "id" not in other.json
    assert len(model.requests) == 1
    cache = gate.total(2).values("cache")
    assert (cache["hit"], cache["miss"], cache["stored"]) == (2, 1, 1)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (INFER, plain(tensor([1.5, -2.0], shape=[2, 1]))),
        (INFER, plain(tensor([1.5, -2.0], name="y"))),
        (INFER, plain(tensor([1069547520, -1073741824], "INT32"))),  # the same bytes
        (INFER, plain(tensor([1.5, 2.0]))),
        (INFER, plain(outputs=[{"name": "x"}])),
        (INFER, plain(parameters={"temperature": 1})),
        ("/v2/models/n/infer", plain()),
        ("/v2/models/m/versions/1/infer", plain()),
    ],
)
async def test_another_request_is_a_miss(site: Site, path: str, body: Any) -> None:
    model = ModelServer()
    gate = await gate_to(site, model, cached=True)
    assert (await ask(gate, plain())).cache == "tidegate; fwd=miss; stored"
    assert (await ask(gate, body, path=path)).cache == "tidegate; fwd=miss; stored"
    assert (await ask(gate, body, path=path)).cache == "tidegate; hit"
    assert len(model.requests) == 2


async def test_what_is_not_cached(site: Site) -> None:
    model = ModelServer()
    gate = await gate_to(site, model, cached=True)
    for _ in range(2):
        assert (await ask(gate, plain(parameters={"sequence_id": 5}))).cache == "tidegate; fwd=bypass"
    model.behave = failing(grpc.StatusCode.INVALID_ARGUMENT, "no")
    assert [(await ask(gate, plain())).status for _ in range(2)] == [400, 400]
    assert len(model.requests) == 4
    off = await gate_to(site, ModelServer(), cached=True, route={"cache": False})
    for _ in range(2):
        assert (await ask(off, plain())).cache == "tidegate; fwd=bypass"


async def test_the_answers_of_a_pool_are_its_own(site: Site) -> None:
    here, there = ModelServer(), ModelServer()
    gate = await gate_to(site, here, cached=True, more_pools=[[await site.model(there)]])
    assert (await ask(gate, plain())).cache == "tidegate; fwd=miss; stored"
    (listener,) = gate.plan.listeners
    other = replace(listener, routes=(replace(listener.routes[0], pool=1),))
    site.reload(gate, generation=2, listeners=(other,))
    assert (await ask(gate, plain())).cache == "tidegate; fwd=miss; stored"
    assert (await ask(gate, plain())).cache == "tidegate; hit"
    site.reload(gate, generation=3)
    assert (await ask(gate, plain())).cache == "tidegate; hit"
    assert (len(here.requests), len(there.requests)) == (1, 1)


async def test_other_model_servers_do_not_answer_for_those_before_them(site: Site) -> None:
    model = ModelServer()
    gate = await gate_to(site, model, cached=True)
    assert (await ask(gate, plain())).cache == "tidegate; fwd=miss; stored"
    site.reload_pool(gate, generation=2, cache_epoch=1)
    assert (await ask(gate, plain())).cache == "tidegate; fwd=miss; stored"
    assert (await ask(gate, plain())).cache == "tidegate; hit"
    assert len(model.requests) == 2


async def test_an_entry_expires(site: Site) -> None:
    model = ModelServer()
    gate = await gate_to(site, model, cached=True, route={"freshness": FreshnessPlan(SECOND // 20)})
    await ask(gate, plain())
    for _ in range(500):
        answer = await ask(gate, plain())
        assert answer.status == 200
        if answer.cache != "tidegate; hit":
            break
        await asyncio.sleep(0.01)
    assert len(model.requests) == 2


async def in_flight_together(gate: Gate, bodies: list[Any]) -> list[asyncio.Task[Answer]]:
    tasks = [asyncio.create_task(ask(gate, body)) for body in bodies]
    await settle(lambda: gate.proxy.busy() == len(bodies), "the requests did not arrive")
    return tasks


async def test_identical_requests_at_once_are_one_call(site: Site) -> None:
    model = Held()
    gate = await gate_to(site, model, cached=True)
    tasks = await in_flight_together(gate, [plain(id=str(i)) for i in range(25)])
    await settle(lambda: len(model.requests) == 1, "no call was made")
    assert gate.in_flight() == 1
    model.release.set()
    answers = await asyncio.gather(*tasks)
    assert sorted(a.cache or "" for a in answers) == ["tidegate; fwd=miss; collapsed"] * 24 + [
        "tidegate; fwd=miss; stored"
    ]
    assert [a.json["id"] for a in answers] == [str(i) for i in range(25)]
    assert all(a.json["outputs"][0]["data"] == [1.5, -2.0] for a in answers)
    assert len(model.requests) == 1
    assert (await ask(gate, plain())).cache == "tidegate; hit"
    assert gate.total(2)["cache.collapsed"] == 24
    await idle(gate)


async def test_different_requests_do_not_wait_for_each_other(site: Site) -> None:
    model = Held()
    gate = await gate_to(site, model, cached=True)
    tasks = await in_flight_together(gate, [plain(tensor([i])) for i in range(5)])
    await settle(lambda: len(model.requests) == 5, "a request waits")
    model.release.set()
    assert [a.json["outputs"][0]["data"] for a in await asyncio.gather(*tasks)] == [[i] for i in range(5)]


async def leader_and_followers(gate: Gate, model: Held) -> tuple[asyncio.StreamWriter, list[asyncio.Task[Answer]]]:
    _, leader = await gate.connect()
    leader.write(request("POST", INFER, json.dumps(plain()).encode()))
    await settle(lambda: len(model.requests) == 1, "no call was made")
    followers = [asyncio.create_task(ask(gate, plain())) for _ in range(10)]
    await settle(lambda: gate.proxy.busy() == 11, "the requests did not arrive")
    return leader, followers


async def test_the_leaders_client_leaving_does_not_fail_the_followers(site: Site) -> None:
    model = Held()
    gate = await gate_to(site, model, cached=True)
    leader, followers = await leader_and_followers(gate, model)
    leader.close()
    await settle(lambda: len(model.requests) == 2, "no follower took over")
    model.release.set()
    assert [a.status for a in await asyncio.gather(*followers)] == [200] * 10
    assert len(model.requests) == 2
    await idle(gate)


async def test_a_follower_that_leaves_harms_nobody(site: Site) -> None:
    model = Held()
    gate = await gate_to(site, model, cached=True)
    tasks = await in_flight_together(gate, [plain()] * 3)
    _, leaving = await gate.connect()
    leaving.write(request("POST", INFER, json.dumps(plain()).encode()))
    await settle(lambda: gate.proxy.busy() == 4, "the request did not arrive")
    leaving.close()
    await settle(lambda: gate.proxy.busy() == 3, "it was not noticed")
    model.release.set()
    assert [a.status for a in await asyncio.gather(*tasks)] == [200] * 3
    assert len(model.requests) == 1
    await idle(gate)


@pytest.mark.parametrize("leaves", [False, True])
async def test_a_reload_takes_the_cache_away_while_a_model_answers(site: Site, leaves: bool) -> None:
    """The leader keeps its answer as it would have; a follower may have to begin a flight."""
    model = Held()
    gate = await gate_to(site, model, cached=True)
    leader, followers = await leader_and_followers(gate, model)
    site.reload(gate, generation=2, cache=None)
    if leaves:
        leader.close()
        await settle(lambda: len(model.requests) == 2, "no follower took over")
    model.release.set()
    assert [a.status for a in await asyncio.gather(*followers)] == [200] * 10
    leader.close()
    assert (await ask(gate, plain())).cache is None
    site.reload(gate, generation=3)
    assert (await ask(gate, plain())).cache == "tidegate; hit"
    await idle(gate)


async def test_the_requests_own_fault_is_everybodys(site: Site) -> None:
    model = Held()
    model.then = failing(grpc.StatusCode.INVALID_ARGUMENT, "wrong")
    gate = await gate_to(site, model, cached=True)
    tasks = await in_flight_together(gate, [plain()] * 10)
    model.release.set()
    answers = await asyncio.gather(*tasks)
    assert [(a.status, error_of(a)) for a in answers] == [(400, "wrong")] * 10
    assert len(model.requests) == 1
    await idle(gate)


async def test_a_fault_of_the_server_is_not_shared(site: Site) -> None:
    model = Held()
    model.then = failing(grpc.StatusCode.INTERNAL, "broken")
    gate = await gate_to(site, model, cached=True)
    leader, followers = await leader_and_followers(gate, model)
    model.then, hold = echo, model.then

    async def first_fails(sent: Any, context: grpc.aio.ServicerContext) -> Any:
        return await (hold if sent is model.requests[0] else echo)(sent, context)

    model.then = first_fails
    model.release.set()
    assert [a.status for a in await asyncio.gather(*followers)] == [200] * 10
    assert len(model.requests) == 2
    leader.close()
    await idle(gate)


async def test_without_endpoints_all_followers_are_told(site: Site) -> None:
    model = Held()
    gate = await gate_to(site, model, cached=True)
    leader, followers = await leader_and_followers(gate, model)
    gate.segment.set_health(0, False, 0)
    leader.close()
    answers = await asyncio.gather(*followers)
    assert [a.status for a in answers] == [503] * 10
    assert answers[0].headers["retry-after"] == "1"
    await idle(gate)
