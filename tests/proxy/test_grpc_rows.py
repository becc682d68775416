"""The result cache row by row for clients of gRPC and gRPC-Web."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from datapath import Gate, Site, settle
from infer_site import Held, gate_to, idle
from oip_site import ModelServer, ask, failing, floats, plain, tensor
from test_grpc_cache import HIT, MISS, echo_any, over_web, stub, tell
from test_grpc_web_exchange import BINARY, TEXT
from test_infer_rows import ROWS, asked, doubled, no_rows, rows_of, versions

from lb.wire import grpc_service_pb2 as wire

PARTIAL = "tidegate; fwd=partial; stored"


def batch(*values: float, typed: bool = False, **members: Any) -> Any:
    made = wire.ModelInferRequest(model_name="m", **members)
    given = made.inputs.add(name="x", datatype="FP32", shape=[len(values), 1])
    if typed:
        given.contents.fp32_contents.extend(values)
    else:
        made.raw_input_contents.append(floats(*values))
    return made


def values_of(answer: Any) -> list[float]:
    (output,) = answer.outputs
    values = memoryview(answer.raw_output_contents[0]).cast("f").tolist()
    assert list(output.shape) == [len(values), 1]
    return values


def plain_batch(*values: float, **members: Any) -> Any:
    return plain(tensor(values, shape=[len(values), 1]), **members)


async def test_clients_of_all_kinds_share_rows(site: Site) -> None:
    model = ModelServer(echo_any)
    gate = await gate_to(site, model, **ROWS)
    async with stub(gate) as call:
        first = await tell(call, batch(1.0, 2.0, id="a"))
        assert (first.cache, values_of(first.answer), first.answer.id) == (MISS, [1.0, 2.0], "a")
        second = await tell(call, batch(3.0, 2.0, 4.0, 1.0, id="b"))
        assert (second.cache, values_of(second.answer), second.answer.id) == (PARTIAL, [3.0, 2.0, 4.0, 1.0], "b")
        assert second.answer.model_version == "1"
        third = await tell(call, batch(4.0, 3.0, 2.0, typed=True))
        assert (third.cache, values_of(third.answer), third.answer.id) == (HIT, [4.0, 3.0, 2.0], "")
        typed = await tell(call, batch(5.0, 1.0, 6.0, typed=True))
        assert (typed.cache, values_of(typed.answer)) == (PARTIAL, [5.0, 1.0, 6.0])
        alone = await tell(call, batch(6.0))
        assert (alone.cache, values_of(alone.answer)) == (HIT, [6.0])
    over_json = await ask(gate, plain_batch(6.0, 5.0, 1.0, id="c"))
    assert (over_json.cache, over_json.json["outputs"][0]["data"]) == (HIT, [6.0, 5.0, 1.0])
    assert asked(model) == [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]
    assert [sent.id for sent in model.requests] == ["a", "b", ""]
    hit, miss, repeated = rows_of(gate)
    assert (hit, miss, repeated) == (9, 6, 0)
    await idle(gate)


@pytest.mark.parametrize("kind", [BINARY, TEXT])
@pytest.mark.parametrize("http", ["1.1", "2"])
async def test_over_the_web(site: Site, http: str, kind: str) -> None:
    model = ModelServer()
    gate = await gate_to(site, model, **ROWS)
    await ask(gate, plain_batch(1.0, 2.0))
    fields, answer, trailers = await over_web(gate, http, kind, batch(2.0, 3.0, id="w"))
    assert (fields["cache-status"], fields["content-type"]) == (PARTIAL, kind)
    assert (values_of(answer), answer.id) == ([2.0, 3.0], "w")
    assert b"grpc-status: 0\r\n" in trailers
    assert asked(model) == [[1.0, 2.0], [3.0]]
    await idle(gate)


async def test_equal_rows_are_asked_for_once(site: Site) -> None:
    model = ModelServer()
    gate = await gate_to(site, model, **ROWS)
    async with stub(gate) as call:
        told = await tell(call, batch(1.0, 1.0, 2.0, 1.0, id="a"))
        assert (told.cache, values_of(told.answer)) == (MISS + "; stored", [1.0, 1.0, 2.0, 1.0])
        assert told.answer.id == "a"
    assert asked(model) == [[1.0, 2.0]]
    await idle(gate)


async def test_a_compressed_request(site: Site) -> None:
    model = ModelServer()
    gate = await gate_to(site, model, **ROWS)
    await ask(gate, plain_batch(1.0, 2.0))
    async with stub(gate) as call:
        told = await tell(call, batch(2.0, 3.0), compression=grpc.Compression.Gzip)
        assert (told.cache, values_of(told.answer)) == (PARTIAL, [2.0, 3.0])
    assert asked(model) == [[1.0, 2.0], [3.0]]
    await idle(gate)


async def test_metadata_goes_along(site: Site) -> None:
    """The call is the client's own, with another message."""
    seen: list[Any] = []

    async def behave(sent: Any, context: grpc.aio.ServicerContext) -> Any:
        seen.append(dict(context.invocation_metadata()).get("authorization"))
        return await echo_any(sent, context)

    gate = await gate_to(site, ModelServer(behave), **ROWS)
    async with stub(gate) as call:
        await tell(call, batch(1.0, 2.0), metadata=[("authorization", "one")])
        await tell(call, batch(1.0, 3.0), metadata=[("authorization", "two")])
    assert seen == ["one", "two"]


async def test_an_answer_is_of_one_version(site: Site) -> None:
    model = ModelServer(versions("1", "2"))
    gate = await gate_to(site, model, **ROWS)
    async with stub(gate) as call:
        await tell(call, batch(1.0, 2.0))
        mixed = await tell(call, batch(2.0, 3.0, id="m"))
        assert (mixed.answer.model_version, values_of(mixed.answer), mixed.answer.id) == ("2", [2.0, 3.0], "m")
        assert asked(model) == [[1.0, 2.0], [3.0], [2.0, 3.0]]
        assert (await tell(call, batch(3.0, 2.0))).cache == HIT
    assert gate.total(2).values("cache_whole_batches") == {"request": 0, "answer": 1}
    await idle(gate)


async def test_rows_from_before_a_replacement_and_a_model_without_rows(site: Site) -> None:
    model = ModelServer(doubled)
    gate = await gate_to(site, model, **ROWS)
    async with stub(gate) as call:
        assert values_of((await tell(call, batch(1.0, 2.0))).answer) == [2.0, 4.0]
        model.behave = no_rows
        told = await tell(call, batch(1.0, 3.0, id="n"))
        assert told.answer.raw_output_contents[0] == floats(4.0)
        repeated = await tell(call, batch(5.0, 5.0, 6.0))
        assert repeated.answer.raw_output_contents[0] == floats(16.0)
    assert asked(model) == [[1.0, 2.0], [3.0], [1.0, 3.0], [5.0, 6.0], [5.0, 5.0, 6.0]]
    await idle(gate)


async def test_errors_of_an_endpoint_that_was_asked_for_rows(site: Site) -> None:
    model = ModelServer()
    gate = await gate_to(site, model, **ROWS)
    async with stub(gate) as call:
        await tell(call, batch(1.0, 2.0))
        for code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INTERNAL):
            model.behave = failing(code, f"no: {code.name}")
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await tell(call, batch(1.0, 3.0))
            assert (refused.value.code(), refused.value.details()) == (code, f"no: {code.name}")
        model.behave = echo_any
        assert (await tell(call, batch(1.0, 3.0))).cache == PARTIAL
    await idle(gate)


async def test_another_endpoint_gets_the_same_rows(site: Site) -> None:
    broken, well = ModelServer(), ModelServer()
    gate = await gate_to(site, broken, well, cached=True, pool={"cache_rows": ("m",), "retries": 1})
    async with stub(gate) as call:
        for value in (1.0, 2.0):
            await tell(call, batch(value))
        broken.behave = failing(grpc.StatusCode.UNAVAILABLE, "gone")
        before = len(broken.requests)
        for value in (3.0, 4.0, 5.0, 6.0, 7.0, 8.0):
            assert values_of((await tell(call, batch(1.0, value, 2.0))).answer) == [1.0, value, 2.0]
    assert len(broken.requests) > before
    assert all(len(call) == 1 for call in asked(broken) + asked(well))
    await idle(gate)


async def test_a_deadline_while_rows_are_asked_for(site: Site) -> None:
    model = Held()
    gate = await gate_to(site, model, **ROWS)
    model.release.set()
    await ask(gate, plain_batch(1.0, 2.0))
    model.release.clear()
    async with stub(gate) as call:
        with pytest.raises(grpc.aio.AioRpcError) as late:
            await tell(call, batch(1.0, 3.0), timeout=0.3)
        assert late.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        model.release.set()
        assert values_of((await tell(call, batch(1.0, 3.0))).answer) == [1.0, 3.0]
    await idle(gate)


async def both_kinds(gate: Gate, call: Any, count: int) -> list[list[float]]:
    async def by_grpc(i: int) -> list[float]:
        told = await tell(call, batch(1.0, 3.0, 3.0, id=str(i)))
        assert told.answer.id == str(i)
        return values_of(told.answer)

    async def by_json(i: int) -> list[float]:
        answer = await ask(gate, plain_batch(1.0, 3.0, 3.0, id=str(i)))
        assert answer.json["id"] == str(i)
        found: list[float] = answer.json["outputs"][0]["data"]
        return found

    return list(await asyncio.gather(*[(by_grpc, by_json)[i % 2](i) for i in range(count)]))


async def test_identical_batches_of_both_kinds_are_one_call(site: Site) -> None:
    model = Held()
    gate = await gate_to(site, model, **ROWS)
    model.release.set()
    await ask(gate, plain_batch(1.0, 2.0))
    model.release.clear()
    async with stub(gate) as call:
        task = asyncio.create_task(both_kinds(gate, call, 20))
        await settle(lambda: gate.proxy.busy() == 20, "the requests did not arrive")
        model.release.set()
        assert await task == [[1.0, 3.0, 3.0]] * 20
    assert asked(model) == [[1.0, 2.0], [3.0]]
    await idle(gate)


async def test_a_leader_that_leaves_hands_its_rows_over(site: Site) -> None:
    model = Held()
    gate = await gate_to(site, model, **ROWS)
    model.release.set()
    await ask(gate, plain_batch(1.0, 2.0))
    model.release.clear()
    async with stub(gate) as call:
        leader = asyncio.create_task(tell(call, batch(1.0, 3.0, typed=True)))
        await settle(lambda: len(model.requests) == 2, "no call was made")
        follower = asyncio.create_task(tell(call, batch(1.0, 3.0, typed=True)))
        await settle(lambda: gate.proxy.busy() == 2, "the request did not arrive")
        # Others are read meanwhile: what is asked for later must not be theirs.
        for value in (7.0, 8.0):
            other = asyncio.create_task(tell(call, batch(value, value + 0.5, typed=True)))
            await settle(lambda n=int(value): len(model.requests) == n - 4, "no call was made")
            other.cancel()
        leader.cancel()
        await settle(lambda: len(model.requests) == 5, "nobody took over")
        model.release.set()
        assert values_of((await follower).answer) == [1.0, 3.0]
    assert model.requests[4].raw_input_contents[0] == floats(3.0)
    await idle(gate)
