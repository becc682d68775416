"""The result cache row by row: batches of models that treat each row apart."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import grpc
import pytest
from datapath import Gate, Site, settle
from infer_site import MIB, Held, gate_to, idle
from msgspec.structs import replace
from oip_site import INFER, Answer, Behaviour, ModelServer, ask, binary, echo, failing, floats, plain, request, tensor

from lb.cache import tags
from lb.cache.store import ResultCache
from lb.upstream.model_counts import ROWS as ROWS_RUN
from lb.wire import grpc_service_pb2 as wire

ROWS: dict[str, Any] = {"cached": True, "pool": {"cache_rows": ("m",)}}


def batch(*values: float, **members: Any) -> dict[str, Any]:
    return plain(tensor(values, shape=[len(values), 1]), **members)


def asked(model: ModelServer) -> list[list[float]]:
    """The rows of each call."""
    return [memoryview(sent.raw_input_contents[0]).cast("f").tolist() for sent in model.requests]


def data_of(answer: Answer) -> list[Any]:
    (output,) = answer.json["outputs"]
    assert output["shape"] == [len(output["data"]), 1]
    found: list[Any] = output["data"]
    return found


def rows_of(gate: Gate) -> tuple[int, int, int]:
    counted = gate.total(2).values("cache_rows")
    return counted["hit"], counted["miss"], counted["repeated"]


async def test_only_rows_that_are_missing_are_asked_for(site: Site) -> None:
    model = ModelServer()
    gate = await gate_to(site, model, **ROWS)
    first = await ask(gate, batch(1.0, 2.0, id="a"))
    assert (first.cache, data_of(first)) == ("tidegate; fwd=miss; stored", [1.0, 2.0])
    second = await ask(gate, batch(3.0, 2.0, 4.0, 1.0, id="b"))
    assert (second.cache, data_of(second)) == ("tidegate; fwd=partial; stored", [3.0, 2.0, 4.0, 1.0])
    assert second.json["id"] == "b"
    assert (second.json["model_name"], second.json["model_version"]) == ("m", "1")
    third = await ask(gate, batch(4.0, 3.0, 2.0))
    assert (third.cache, data_of(third)) == ("tidegate; hit", [4.0, 3.0, 2.0])
    assert asked(model) == [[1.0, 2.0], [3.0, 4.0]]
    assert [sent.id for sent in model.requests] == ["a", "b"]
    assert [list(sent.inputs[0].shape) for sent in model.requests] == [[2, 1], [2, 1]]
    assert rows_of(gate) == (5, 4, 0)
    cache = gate.total(2).values("cache")
    assert (cache["hit"], cache["miss"], cache["stored"]) == (1, 2, 2)
    await idle(gate)


async def test_rows_and_requests_of_one_row_share_entries(site: Site) -> None:
    model = ModelServer()
    gate = await gate_to(site, model, **ROWS)
    assert (await ask(gate, batch(1.0))).cache == "tidegate; fwd=miss; stored"
    mixed = await ask(gate, batch(1.0, 2.0))
    assert (mixed.cache, data_of(mixed)) == ("tidegate; fwd=partial; stored", [1.0, 2.0])
    alone = await ask(gate, batch(2.0, id="z"))
    assert (alone.cache, data_of(alone), alone.json["id"]) == ("tidegate; hit", [2.0], "z")
    assert asked(model) == [[1.0], [2.0]]
    body, headers = binary((tensor([], shape=[2, 1]), floats(2.0, 1.0)))
    assert (await ask(gate, body, headers=headers)).binary == floats(2.0, 1.0)
    assert len(model.requests) == 2


async def test_equal_rows_are_asked_for_once(site: Site) -> None:
    model = ModelServer()
    gate = await gate_to(site, model, **ROWS)
    first = await ask(gate, batch(1.0, 1.0, 2.0, 1.0))
    assert (first.cache, data_of(first)) == ("tidegate; fwd=miss; stored", [1.0, 1.0, 2.0, 1.0])
    assert data_of(await ask(gate, batch(2.0, 2.0, 2.0))) == [2.0, 2.0, 2.0]
    assert asked(model) == [[1.0, 2.0]]
    assert rows_of(gate) == (1, 2, 4)


async def test_only_the_models_that_are_named(site: Site) -> None:
    model = ModelServer()
    gate = await gate_to(site, model, **ROWS)
    path = "/v2/models/n/infer"
    assert (await ask(gate, batch(1.0, 2.0), path=path)).cache == "tidegate; fwd=miss; stored"
    assert (await ask(gate, batch(2.0, 1.0), path=path)).cache == "tidegate; fwd=miss; stored"
    assert (await ask(gate, batch(1.0, 2.0), path=path)).cache == "tidegate; hit"
    assert rows_of(gate) == (0, 0, 0)


async def test_versions_parameters_and_outputs_tell_rows_apart(site: Site) -> None:
    model = ModelServer()
    gate = await gate_to(site, model, **ROWS)
    await ask(gate, batch(1.0, 2.0))
    versioned = await ask(gate, batch(1.0, 2.0), path="/v2/models/m/versions/2/infer")
    assert versioned.cache == "tidegate; fwd=miss; stored"
    assert (await ask(gate, batch(1.0, 2.0, parameters={"k": 1}))).cache == "tidegate; fwd=miss; stored"
    assert (await ask(gate, batch(1.0, 2.0, outputs=[{"name": "x"}]))).cache == "tidegate; fwd=miss; stored"
    assert (await ask(gate, batch(1.0, 2.0))).cache == "tidegate; hit"


@pytest.mark.parametrize(
    "body",
    [
        plain(tensor(range(1025), shape=[1025, 1])),
        plain(tensor([1.0, 2.0]), tensor([1.0, 2.0, 3.0], name="y")),
    ],
)
async def test_what_is_not_taken_apart_is_cached_as_a_whole(site: Site, body: Any) -> None:
    model = ModelServer()
    gate = await gate_to(site, model, **ROWS)
    assert (await ask(gate, body)).cache == "tidegate; fwd=miss; stored"
    assert (await ask(gate, body)).cache == "tidegate; hit"
    assert gate.total(2).values("cache_whole_batches") == {"request": 2, "answer": 0}


async def test_a_sequence_goes_past_the_cache(site: Site) -> None:
    gate = await gate_to(site, ModelServer(), **ROWS)
    for _ in range(2):
        answer = await ask(gate, batch(1.0, 2.0, parameters={"sequence_id": 5}))
        assert answer.cache == "tidegate; fwd=bypass"


def versions(*names: str) -> Behaviour:
    """Each call is answered by the next version, the last one again and again."""
    left = list(names)

    async def behave(sent: Any, context: grpc.aio.ServicerContext) -> Any:
        answer = await echo(sent, context)
        answer.model_version = left.pop(0) if len(left) > 1 else left[0]
        return answer

    return behave


async def test_an_answer_is_of_one_version(site: Site) -> None:
    """The model was replaced between two batches: the second is asked for as a whole once the new version shows."""
    model = ModelServer(versions("1", "2"))
    gate = await gate_to(site, model, **ROWS)
    await ask(gate, batch(1.0, 2.0))
    mixed = await ask(gate, batch(2.0, 3.0))
    assert (mixed.json["model_version"], data_of(mixed)) == ("2", [2.0, 3.0])
    assert mixed.cache == "tidegate; fwd=miss; stored"
    assert asked(model) == [[1.0, 2.0], [3.0], [2.0, 3.0]]
    # The row that only the old version has answered does not go with the others.
    both = await ask(gate, batch(2.0, 1.0))
    assert (both.json["model_version"], data_of(both)) == ("2", [2.0, 1.0])
    assert asked(model)[3:] == [[1.0]]
    assert (await ask(gate, batch(1.0, 2.0, 3.0))).cache == "tidegate; hit"
    assert gate.total(2).values("cache_whole_batches") == {"request": 0, "answer": 1}
    await idle(gate)


async def no_rows(sent: Any, context: grpc.aio.ServicerContext) -> Any:
    """The sum of all, as a scalar."""
    total = sum(memoryview(sent.raw_input_contents[0]).cast("f"))
    answer = wire.ModelInferResponse(model_name="m", model_version="1")
    answer.outputs.add(name="y", datatype="FP32", shape=[])
    answer.raw_output_contents.append(floats(total))
    return answer


async def test_a_model_without_rows_in_its_answers(site: Site) -> None:
    """A mistake of the operator's is not a wrong answer: the batch is asked for as it came, and nothing is kept."""
    model = ModelServer(no_rows)
    gate = await gate_to(site, model, **ROWS)
    for n in range(1, 3):
        answer = await ask(gate, batch(1.0, 2.0))
        assert (answer.cache, answer.json["outputs"][0]["data"]) == ("tidegate; fwd=miss", [3.0])
        assert len(model.requests) == n
    repeated = await ask(gate, batch(1.0, 1.0, 2.0))
    assert repeated.json["outputs"][0]["data"] == [4.0]
    assert asked(model)[2:] == [[1.0, 2.0], [1.0, 1.0, 2.0]]
    await idle(gate)


@pytest.mark.parametrize("reply", [b"", b"\x0a\x01m"])
async def test_an_answer_without_outputs(site: Site, reply: bytes) -> None:
    """It goes with nothing, and is the answer where it is the whole batch's."""

    async def behave(sent: Any, context: grpc.aio.ServicerContext) -> Any:
        return reply

    model = ModelServer()
    gate = await gate_to(site, model, **ROWS)
    await ask(gate, batch(1.0, 2.0))
    model.behave = behave
    for body in (batch(1.0, 3.0), batch(5.0, 6.0)):
        answer = await ask(gate, body)
        assert (answer.status, answer.json) == (200, {"model_name": "m", "outputs": []})
    assert asked(model) == [[1.0, 2.0], [3.0], [1.0, 3.0], [5.0, 6.0]]
    await idle(gate)


async def test_a_fault_in_one_row_is_that_of_the_batch(site: Site) -> None:
    model = ModelServer()
    gate = await gate_to(site, model, **ROWS)
    await ask(gate, batch(1.0, 2.0))
    model.behave = failing(grpc.StatusCode.INVALID_ARGUMENT, "no")
    answer = await ask(gate, batch(1.0, 3.0))
    assert (answer.status, answer.json) == (400, {"error": "no"})
    assert (await ask(gate, batch(2.0, 1.0))).cache == "tidegate; hit"
    await idle(gate)


async def test_rows_of_other_model_servers_are_not_found(site: Site) -> None:
    model = ModelServer()
    gate = await gate_to(site, model, **ROWS)
    await ask(gate, batch(1.0, 2.0))
    # Other model servers: nothing of what was before is found.
    site.reload_pool(gate, generation=2, cache_epoch=1)
    assert (await ask(gate, batch(1.0, 2.0))).cache == "tidegate; fwd=miss; stored"


async def in_flight(gate: Gate, count: int, *bodies: Any) -> list[asyncio.Task[Answer]]:
    tasks = [asyncio.create_task(ask(gate, body)) for body in bodies]
    await settle(lambda: gate.proxy.busy() == count, "the requests did not arrive")
    return tasks


async def test_identical_batches_at_once_are_one_call(site: Site) -> None:
    model = Held()
    gate = await gate_to(site, model, **ROWS)
    model.release.set()
    await ask(gate, batch(1.0, 2.0))
    model.release.clear()
    tasks = await in_flight(gate, 20, *[batch(1.0, 3.0, 3.0, id=str(i)) for i in range(20)])
    await settle(lambda: len(model.requests) == 2, "no call was made")
    model.release.set()
    answers = await asyncio.gather(*tasks)
    assert [a.json["id"] for a in answers] == [str(i) for i in range(20)]
    assert {tuple(data_of(a)) for a in answers} == {(1.0, 3.0, 3.0)}
    assert sorted(a.cache or "" for a in answers) == ["tidegate; fwd=miss; collapsed"] * 19 + [
        "tidegate; fwd=partial; stored"
    ]
    assert asked(model) == [[1.0, 2.0], [3.0]]
    await idle(gate)


async def test_a_follower_takes_over_with_its_own_rows(site: Site) -> None:
    model = Held()
    gate = await gate_to(site, model, **ROWS)
    model.release.set()
    await ask(gate, batch(1.0, 2.0))
    model.release.clear()
    _, leader = await gate.connect()
    leader.write(request("POST", INFER, json.dumps(batch(1.0, 3.0)).encode()))
    await settle(lambda: len(model.requests) == 2, "no call was made")
    followers = await in_flight(gate, 6, *[batch(1.0, 3.0)] * 5)
    leader.close()
    await settle(lambda: len(model.requests) == 3, "no follower took over")
    model.release.set()
    assert {tuple(data_of(a)) for a in await asyncio.gather(*followers)} == {(1.0, 3.0)}
    assert asked(model) == [[1.0, 2.0], [3.0], [3.0]]
    await idle(gate)


async def test_another_endpoint_gets_the_same_rows(site: Site) -> None:
    """A retry asks for what the first attempt asked for."""
    broken, well = ModelServer(), ModelServer()
    gate = await gate_to(site, broken, well, cached=True, pool={"cache_rows": ("m",), "retries": 1})
    for value in (1.0, 2.0):
        await ask(gate, batch(value))
    before = len(broken.requests) + len(well.requests)
    broken.behave = failing(grpc.StatusCode.UNAVAILABLE, "gone")
    for value in (3.0, 4.0, 5.0, 6.0):
        answer = await ask(gate, batch(1.0, value, 2.0))
        assert data_of(answer) == [1.0, value, 2.0]
    assert {row for call in asked(broken) + asked(well) for row in call[1:]} == set()
    assert len(broken.requests) + len(well.requests) > before + 4
    await idle(gate)


async def test_rows_that_the_model_has_run_are_counted(site: Site) -> None:
    """As Triton counts inferences: what a cache answers is none."""
    model = ModelServer()
    gate = await gate_to(site, model, cached=True, pool={"cache_rows": ("m",), "count_models": True})
    await ask(gate, batch(1.0, 2.0, 3.0))
    await ask(gate, batch(1.0, 2.0, 3.0, 4.0))
    ((model_name, counts),) = gate.proxy.model_counts("pool")
    assert (model_name, counts[ROWS_RUN]) == ("m", 4)


async def test_rows_from_before_a_purge_do_not_go_with_those_from_after_it(site: Site) -> None:
    """The model was replaced, and says the same version: the batch is asked for as a whole."""
    model = Held()
    gate = await gate_to(site, model, **ROWS)
    model.release.set()
    await ask(gate, batch(1.0, 2.0))
    model.release.clear()
    (task,) = await in_flight(gate, 1, batch(1.0, 3.0))
    await settle(lambda: len(model.requests) == 2, "no call was made")
    ResultCache(gate.segment, MIB).purge(tags.of_model("pool", "m").encode())
    model.then = doubled
    model.release.set()
    assert data_of(await task) == [2.0, 6.0]
    assert asked(model) == [[1.0, 2.0], [3.0], [1.0, 3.0]]
    after = await ask(gate, batch(1.0, 2.0))
    assert (after.cache, data_of(after)) == ("tidegate; fwd=miss; stored", [2.0, 4.0])
    await idle(gate)


async def doubled(sent: Any, context: grpc.aio.ServicerContext) -> Any:
    answer = await echo(sent, context)
    values = memoryview(sent.raw_input_contents[0]).cast("f").tolist()
    answer.raw_output_contents[0] = floats(*[2 * value for value in values])
    return answer


async def test_a_hit_saves_what_its_row_took(site: Site) -> None:
    async def slow(sent: Any, context: Any) -> Any:
        await asyncio.sleep(0.08)
        return await echo(sent, context)

    gate = await gate_to(site, ModelServer(slow), **ROWS)
    await ask(gate, batch(1.0, 2.0, 3.0, 4.0))
    store = ResultCache(gate.segment, MIB)
    await ask(gate, batch(1.0))
    saved = store.stats()["saved_us"]
    assert saved >= 20_000
    await ask(gate, batch(1.0, 2.0))
    assert store.stats()["saved_us"] == 3 * saved


async def test_rows_are_named_by_a_reload(site: Site) -> None:
    model = ModelServer()
    gate = await gate_to(site, model, cached=True)
    await ask(gate, batch(1.0, 2.0))
    (pool,) = gate.plan.pools
    site.reload(gate, generation=2, pools=(replace(pool, cache_rows=("m",)),))
    await ask(gate, batch(1.0, 2.0))
    assert (await ask(gate, batch(2.0, 1.0))).cache == "tidegate; hit"
    assert len(model.requests) == 2
