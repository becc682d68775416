"""Answers of the cache that are stale, or about to be: who gets them, and who makes them anew."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from datapath import SECOND, Gate, Site, settle
from infer_site import MIB, error_of, gate_to, idle
from oip_site import INFER, Answer, ModelServer, ask, failing, plain
from test_grpc_cache import Told, inference, stub, tell

from lb.cache import tags
from lb.cache.store import ResultCache
from lb.config.plan.caching import FreshnessPlan, ModelCachePlan, PoolCachePlan
from lb.wire import grpc_service_pb2 as wire

HOUR = 3600 * SECOND
SHORT = SECOND // 20
HIT, MISS = "tidegate; hit", "tidegate; fwd=miss; stored"
STALE = "tidegate; hit; detail=stale-while-revalidate"
LAST = "tidegate; fwd=stale; detail=stale-if-error"  # asked for in vain
KNOWN = "tidegate; hit; detail=stale-if-error"  # not asked for: the endpoints fail
NEGATIVE = "tidegate; hit; ttl=3599; detail=negative"


class Counting(ModelServer):
    """Answers with the number of its answer; waits while `hold` is set, and fails with `failure` where that is set."""

    def __init__(self) -> None:
        super().__init__(self.answer)
        self.open = asyncio.Event()
        self.open.set()
        self.failure: grpc.StatusCode | None = None
        self.answers = 0
        self.takes = 0.0

    async def answer(self, sent: Any, context: grpc.aio.ServicerContext) -> Any:
        await asyncio.sleep(self.takes)
        await self.open.wait()
        if self.failure is not None:
            await context.abort(self.failure, "broken")
        self.answers += 1
        made = wire.ModelInferResponse(model_name="m", id=sent.id)
        made.outputs.add(name="n", datatype="INT32", shape=[1]).contents.int_contents.append(self.answers)
        return made


def number(answer: Answer) -> int:
    assert answer.status == 200, answer.body
    return int(answer.json["outputs"][0]["data"][0])


async def gate_with(site: Site, *models: ModelServer, freshness: FreshnessPlan, **options: Any) -> Gate:
    pool = {"cache": PoolCachePlan(freshness), **options.pop("pool", {})}
    return await gate_to(site, *models, cached=True, pool=pool, **options)


def cached(gate: Gate) -> dict[str, int]:
    return dict(gate.total(2).values("cache"))


async def stale(gate: Gate) -> None:
    assert (await ask(gate, plain())).cache == MISS
    await asyncio.sleep(2 * SHORT / SECOND)


async def test_a_stale_answer_is_given_at_once_and_made_anew_once(site: Site) -> None:
    model = Counting()
    gate = await gate_with(site, model, freshness=FreshnessPlan(SHORT, HOUR, 0, 0, 0))
    await stale(gate)
    model.open.clear()
    answers = await asyncio.gather(*(ask(gate, plain(id=str(i))) for i in range(20)))
    assert [(number(a), a.cache, a.json["id"]) for a in answers] == [(1, STALE, str(i)) for i in range(20)]
    assert all(a.headers["cache-status"].startswith("tidegate; hit; ttl=-1;") for a in answers)
    assert all(a.headers["age"] == "0" for a in answers)
    await settle(lambda: len(model.requests) == 2, "nobody asked")
    assert gate.in_flight() == 1
    model.open.set()
    await settle(lambda: cached(gate)["refreshed"] == 1, "it was not made anew")
    assert number(await ask(gate, plain())) == 2
    assert len(model.requests) == 2
    found = cached(gate)
    assert (found["stale"], found["miss"], found["refresh_failed"]) == (20, 1, 0)
    await idle(gate)


async def test_a_purge_while_an_answer_is_made_anew_wins(site: Site) -> None:
    model = Counting()
    gate = await gate_with(site, model, freshness=FreshnessPlan(SHORT, HOUR, 0, 0, 0))
    await stale(gate)
    model.open.clear()
    assert (await ask(gate, plain())).cache == STALE
    await settle(lambda: len(model.requests) == 2, "nobody asked")
    ResultCache(gate.segment, MIB).purge(tags.of_model("pool", "m").encode())
    model.open.set()
    await idle(gate)
    later = await ask(gate, plain())
    assert (number(later), later.cache) == (3, MISS)
    assert cached(gate)["refreshed"] == 0


async def test_what_is_asked_for_often_is_made_anew_before_it_is_stale(site: Site) -> None:
    model = Counting()
    model.takes = 0.1
    gate = await gate_with(site, model, freshness=FreshnessPlan(3 * SECOND // 10, 0, 0, 0, 1))
    await ask(gate, plain())
    seen = set()
    while cached(gate)["refreshed"] < 2:
        answer = await ask(gate, plain())
        seen.add(answer.cache)
        await asyncio.sleep(0.002)
    assert HIT in seen
    await idle(gate)


async def test_without_that_it_is_not(site: Site) -> None:
    model = Counting()
    model.takes = 0.1
    gate = await gate_with(site, model, freshness=FreshnessPlan(SECOND // 5, 0, 0, 0, 0))
    await ask(gate, plain())
    while (await ask(gate, plain())).cache == HIT:
        await asyncio.sleep(0.002)
    assert cached(gate)["refreshed"] == 0


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.DATA_LOSS])
async def test_an_answer_takes_the_place_of_a_failure(site: Site, code: grpc.StatusCode) -> None:
    model = Counting()
    gate = await gate_with(site, model, freshness=FreshnessPlan(SHORT, 0, HOUR, 0, 0), pool={"retries": 0})
    await stale(gate)
    model.failure = code
    model.open.clear()
    tasks = [asyncio.create_task(ask(gate, plain(id=str(i)))) for i in range(5)]
    await settle(lambda: gate.proxy.busy() == 5 and len(model.requests) == 2, "the requests did not arrive")
    model.open.set()
    answers = await asyncio.gather(*tasks)
    assert [(number(a), a.json["id"]) for a in answers] == [(1, str(i)) for i in range(5)]
    assert {a.cache for a in answers} <= {LAST, KNOWN}
    asked = len(model.requests)
    for _ in range(5):  # from now on nobody waits for the failure
        answer = await ask(gate, plain())
        assert (number(answer), answer.cache) == (1, KNOWN)
    assert len(model.requests) == asked
    assert cached(gate)["stale_if_error"] == 10
    await idle(gate)


async def test_endpoints_that_are_back_are_found_in_the_background(site: Site) -> None:
    model = Counting()
    gate = await gate_with(site, model, freshness=FreshnessPlan(SHORT, 0, HOUR, 0, 0), pool={"retries": 0})
    await stale(gate)
    model.failure = grpc.StatusCode.UNAVAILABLE
    assert (await ask(gate, plain())).cache == LAST
    model.failure = None
    for _ in range(500):
        answer = await ask(gate, plain())
        if number(answer) == 2:
            break
        assert answer.cache == KNOWN
        await asyncio.sleep(0.02)
    assert number(answer) == 2
    assert cached(gate)["refreshed"] == 1
    await idle(gate)


async def test_nobody_waits_for_a_timeout_again_and_again(site: Site) -> None:
    model = Counting()
    gate = await gate_with(
        site, model, freshness=FreshnessPlan(SHORT, 0, HOUR, 0, 0), pool={"retries": 0, "response_timeout_ns": SECOND}
    )
    await stale(gate)
    model.open.clear()
    first, second = await asyncio.gather(ask(gate, plain()), ask(gate, plain()))
    assert (number(first), number(second)) == (1, 1)
    asked = len(model.requests)
    for _ in range(20):
        assert (await ask(gate, plain())).cache == KNOWN
    assert len(model.requests) <= asked + 1
    model.open.set()
    await idle(gate)


async def test_no_connection_is_a_failure_as_well(site: Site) -> None:
    model = Counting()
    gate = await gate_with(site, model, freshness=FreshnessPlan(SHORT, 0, HOUR, 0, 0), pool={"retries": 0})
    await stale(gate)
    await model.server.stop(0)
    assert number(await ask(gate, plain())) == 1
    gate.segment.set_health(0, False, 0)
    assert number(await ask(gate, plain())) == 1
    assert (await ask(gate, plain(id="x"), path="/v2/models/other/infer")).status == 503
    await idle(gate)


async def test_the_requests_own_fault_is_no_failure_of_endpoints(site: Site) -> None:
    model = Counting()
    gate = await gate_with(site, model, freshness=FreshnessPlan(SHORT, 0, HOUR, 0, 0))
    await stale(gate)
    model.failure = grpc.StatusCode.INVALID_ARGUMENT
    assert (await ask(gate, plain())).status == 400
    model.failure = grpc.StatusCode.UNIMPLEMENTED
    assert (await ask(gate, plain())).status == 501
    await idle(gate)


async def test_an_answer_that_the_model_refuses_by_now_is_dropped(site: Site) -> None:
    model = Counting()
    gate = await gate_with(site, model, freshness=FreshnessPlan(SHORT, HOUR, HOUR, 0, 0))
    await stale(gate)
    model.failure = grpc.StatusCode.NOT_FOUND
    assert (await ask(gate, plain())).cache == STALE
    await idle(gate)
    assert (await ask(gate, plain())).status == 404


async def test_without_stale_if_error_a_failure_is_told(site: Site) -> None:
    model = Counting()
    gate = await gate_with(site, model, freshness=FreshnessPlan(SHORT, 0, 0, 0, 0), pool={"retries": 0})
    await stale(gate)
    model.failure = grpc.StatusCode.UNAVAILABLE
    assert (await ask(gate, plain())).status == 503
    await idle(gate)


@pytest.mark.parametrize(
    ("code", "status"), [(grpc.StatusCode.INVALID_ARGUMENT, 400), (grpc.StatusCode.NOT_FOUND, 404)]
)
async def test_errors_of_the_request_are_kept_where_that_is_said(
    site: Site, code: grpc.StatusCode, status: int
) -> None:
    model = ModelServer(failing(code, "no such thing"))
    gate = await gate_with(site, model, freshness=FreshnessPlan(HOUR, 0, 0, HOUR, 0))
    for _ in range(3):
        answer = await ask(gate, plain())
        assert (answer.status, error_of(answer)) == (status, "no such thing")
    assert len(model.requests) == 1
    assert answer.headers["cache-status"] == NEGATIVE
    assert cached(gate)["negative"] == 2
    ResultCache(gate.segment, MIB).purge(tags.of_model("pool", "m").encode())
    await ask(gate, plain())
    assert len(model.requests) == 2
    await idle(gate)


@pytest.mark.parametrize("code", [grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED])
async def test_other_errors_are_never_kept(site: Site, code: grpc.StatusCode) -> None:
    model = ModelServer(failing(code, "no"))
    gate = await gate_with(site, model, freshness=FreshnessPlan(HOUR, 0, 0, HOUR, 0), pool={"retries": 0})
    for _ in range(3):
        assert (await ask(gate, plain())).status >= 400
    assert len(model.requests) == 3


async def test_the_most_particular_rule_counts(site: Site) -> None:
    """Of route, model and pool."""
    rules = PoolCachePlan(
        FreshnessPlan(HOUR, 0, 0, 0, 0),
        (ModelCachePlan("short", FreshnessPlan(SHORT, 0, 0, 0, 0)), ModelCachePlan("random", None)),
    )

    async def later(gate: Gate, model: str) -> str | None:
        path = f"/v2/models/{model}/infer"
        await ask(gate, plain(), path=path)
        await asyncio.sleep(2 * SHORT / SECOND)
        return (await ask(gate, plain(), path=path)).cache

    gate = await gate_with(site, Counting(), freshness=rules.freshness, pool={"cache": rules})
    assert [await later(gate, model) for model in ("m", "short", "random")] == [HIT, MISS, "tidegate; fwd=bypass"]
    route = {"freshness": FreshnessPlan(ttl_ns=HOUR)}
    gate = await gate_with(site, Counting(), freshness=rules.freshness, pool={"cache": rules}, route=route)
    assert [await later(gate, model) for model in ("m", "short", "random")] == [HIT, HIT, "tidegate; fwd=bypass"]
    route = {"freshness": FreshnessPlan(ttl_ns=SHORT)}
    gate = await gate_with(site, Counting(), freshness=rules.freshness, pool={"cache": rules}, route=route)
    assert await later(gate, "m") == MISS


async def test_a_pool_that_keeps_nothing(site: Site) -> None:
    gate = await gate_to(site, Counting(), cached=True, pool={"cache": None})
    for _ in range(2):
        assert (await ask(gate, plain())).cache == "tidegate; fwd=bypass"


async def test_clients_name_what_their_answers_depend_on(site: Site) -> None:
    model = Counting()
    gate = await gate_with(
        site, model, freshness=FreshnessPlan(HOUR, 0, 0, 0, 0), route={"client_tags": True, "expose_endpoint": True}
    )
    assert (await ask(gate, plain(), headers={"Cache-Tag": "camera-7, night"})).cache == MISS
    store = ResultCache(gate.segment, MIB)
    hit = await ask(gate, plain(), headers={"Cache-Tag": "night camera-7,night,"})
    assert hit.cache == HIT
    assert hit.headers["cache-status"].startswith('tidegate; hit; ttl=3599; key="')
    # Who names no tag, or another, neither gets an answer of these nor leaves them one that a purge would not take.
    for tags_ in ("", "camera-7"):
        assert [(await ask(gate, plain(), headers={"Cache-Tag": tags_})).cache for _ in range(2)] == [MISS, HIT]
    store.purge(b"night")
    assert (await ask(gate, plain(), headers={"Cache-Tag": "camera-7, night"})).cache == MISS
    assert (await ask(gate, plain(), headers={"Cache-Tag": "camera-7"})).cache == HIT
    assert (await ask(gate, plain())).cache == HIT
    store.purge(b"camera-7")
    assert (await ask(gate, plain(), headers={"Cache-Tag": "camera-7"})).cache == MISS
    many = await ask(gate, plain(), headers={"Cache-Tag": "a b c d e"})
    assert many.cache == "tidegate; fwd=bypass"
    assert (await ask(gate, plain(), path=INFER)).cache == HIT
    plain_gate = await gate_with(site, Counting(), freshness=FreshnessPlan(HOUR, 0, 0, 0, 0))
    await ask(plain_gate, plain(), headers={"Cache-Tag": "night"})
    ResultCache(plain_gate.segment, MIB).purge(b"night")
    assert (await ask(plain_gate, plain())).cache == HIT


def counted(told: Told) -> int:
    return int(told.answer.outputs[0].contents.int_contents[0])


async def test_grpc_calls_get_stale_answers_and_have_them_made_anew(site: Site) -> None:
    model = Counting()
    gate = await gate_with(site, model, freshness=FreshnessPlan(SHORT, HOUR, 0, 0, 0))
    async with stub(gate) as call:
        await tell(call, inference())
        await asyncio.sleep(2 * SHORT / SECOND)
        told = await tell(call, inference(id="a"))
        assert (counted(told), told.cache, told.answer.id) == (1, STALE, "a")
        await settle(lambda: cached(gate)["refreshed"] == 1, "it was not made anew")
        assert counted(await tell(call, inference())) == 2
        assert model.requests[0].inputs == model.requests[1].inputs
        assert model.requests[0].raw_input_contents == model.requests[1].raw_input_contents
    await idle(gate)


async def test_grpc_calls_get_answers_in_the_place_of_failures(site: Site) -> None:
    model = Counting()
    gate = await gate_with(site, model, freshness=FreshnessPlan(SHORT, 0, HOUR, 0, 0), pool={"retries": 0})
    async with stub(gate) as call:
        await tell(call, inference())
        await asyncio.sleep(2 * SHORT / SECOND)
        model.failure = grpc.StatusCode.INTERNAL
        model.open.clear()
        running = [asyncio.create_task(tell(call, inference(id=str(i)))) for i in range(3)]
        over_json = asyncio.create_task(ask(gate, plain(id="json")))
        await settle(lambda: gate.proxy.busy() == 4 and len(model.requests) == 2, "the requests did not arrive")
        model.open.set()
        answers = await asyncio.gather(*running)
        assert [(counted(told), told.answer.id) for told in answers] == [(1, str(i)) for i in range(3)]
        assert {told.cache for told in answers} <= {LAST, KNOWN}
        assert number(await over_json) == 1
        assert (await tell(call, inference())).cache == KNOWN
        model.failure = grpc.StatusCode.INVALID_ARGUMENT
        with pytest.raises(grpc.aio.AioRpcError, match="broken"):
            await tell(call, inference(5.0, 6.0))
    await idle(gate)


async def test_no_endpoint_is_a_failure_over_grpc_as_well(site: Site) -> None:
    gate = await gate_with(site, Counting(), freshness=FreshnessPlan(SHORT, 0, HOUR, 0, 0), pool={"retries": 0})
    async with stub(gate) as call:
        await tell(call, inference())
        await asyncio.sleep(2 * SHORT / SECOND)
        gate.segment.set_health(0, False, 0)
        assert counted(await tell(call, inference())) == 1
        with pytest.raises(grpc.aio.AioRpcError, match="no endpoint"):
            await tell(call, inference(5.0, 6.0))
    await idle(gate)


async def test_errors_are_kept_for_clients_of_all_kinds(site: Site) -> None:
    model = ModelServer(failing(grpc.StatusCode.NOT_FOUND, "no such thing: ü"))
    gate = await gate_with(site, model, freshness=FreshnessPlan(HOUR, 0, 0, HOUR, 0))
    async with stub(gate) as call:
        for _ in range(2):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await tell(call, inference())
            assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.NOT_FOUND, "no such thing: ü")
        assert dict(caught.value.initial_metadata() or ())["cache-status"] == NEGATIVE
    answer = await ask(gate, plain())
    assert (answer.status, error_of(answer)) == (404, "no such thing: ü")
    assert len(model.requests) == 1
    await idle(gate)
