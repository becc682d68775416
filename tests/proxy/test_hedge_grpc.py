"""Hedges of gRPC calls and of inferences."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import grpc
import pytest
from datapath import Site, settle
from hedge_site import HEDGE, Told, call, idle, lost, models, results, series, two
from oip_site import INFER, OIP, plain
from oip_site import ask as ask_model
from routing_site import routing_gate

from lb.wire import grpc_service_pb2 as wire


async def test_a_grpc_method_that_the_route_declares_safe(site: Site) -> None:
    gate, a, b = await two(site, "grpc", ["hang"], ["answer"], route={"idempotent": True})
    assert await call(gate) == b"b"
    assert a.seen == b.seen
    await settle(lambda: lost(a), "the first endpoint was not told")
    await idle(gate)


async def test_other_grpc_methods_have_none(site: Site) -> None:
    gate, a, _b = await two(site, "grpc", ["hang"], ["answer"])
    task = asyncio.create_task(call(gate))
    await settle(lambda: len(a.seen) == 1, "no request")
    await asyncio.sleep(0.2)
    a.go.set()
    assert await task == b"a"
    assert results(gate)[0] == 0


async def test_a_grpc_error_of_the_hedge_does_not_win(site: Site) -> None:
    gate, a, _b = await two(site, "grpc", ["hang"], ["14"], route={"idempotent": True})
    task = asyncio.create_task(call(gate))
    await settle(lambda: results(gate)[2] == 1, "the hedge is not lost")
    a.go.set()
    assert await task == b"a"
    await idle(gate)


async def test_a_stream_that_is_still_sent_has_no_hedge(site: Site) -> None:
    gate, a, _b = await two(site, "grpc", ["hang"], ["answer"], route={"idempotent": True})
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gate.port}") as channel:
        both = channel.stream_stream("/test.Kinds/Both")()
        await both.write(b"one")
        await settle(lambda: len(a.fields) == 1, "no request")
        await asyncio.sleep(0.2)
        assert results(gate)[0] == 0
        both.cancel()
    await idle(gate)


async def test_an_inference_has_a_hedge(site: Site) -> None:
    gate, (a, b) = await models(site, True, False)
    answer = await ask_model(gate, plain())
    assert answer.status == 200
    assert answer.json["outputs"][0]["data"] == [1.5, -2.0]
    assert len(a.requests) == len(b.requests) == 1
    await settle(lambda: a.cancelled == 1, "the first server was not told")
    await idle(gate)
    assert results(gate) == (1, 1, 0, 0)


async def test_the_first_server_answers_and_the_hedge_is_cancelled(site: Site) -> None:
    gate, (a, b) = await models(site, True, True)
    task = asyncio.create_task(ask_model(gate, plain()))
    await settle(lambda: len(b.requests) == 1, "no hedge")
    a.go.set()
    assert (await task).status == 200
    await settle(lambda: b.cancelled == 1, "the hedge's server was not told")
    await idle(gate)
    assert results(gate) == (1, 0, 1, 0)


@pytest.mark.parametrize("sequence", [7, "talk"])
async def test_a_sequence_has_none(site: Site, sequence: int | str) -> None:
    gate, (a, b) = await models(site, True, False)
    task = asyncio.create_task(ask_model(gate, plain(parameters={"sequence_id": sequence, "sequence_start": True})))
    await settle(lambda: len(a.requests) == 1, "no request")
    await asyncio.sleep(0.2)
    a.go.set()
    assert (await task).status == 200
    assert (len(a.requests), len(b.requests), results(gate)[0]) == (1, 0, 0)
    await idle(gate)


def infer_request(sequence: int = 0) -> bytes:
    made = wire.ModelInferRequest(model_name="m")
    if sequence:
        made.parameters["sequence_id"].int64_param = sequence
        made.parameters["sequence_start"].bool_param = True
    return made.SerializeToString()


@pytest.mark.parametrize(("sequence", "hedges"), [(0, 1), (7, 0)])
async def test_an_inference_over_grpc(site: Site, sequence: int, hedges: int) -> None:
    gate, (a, b) = await models(site, True, False)
    method = "/inference.GRPCInferenceService/ModelInfer"
    task = asyncio.create_task(call(gate, method, infer_request(sequence)))
    await settle(lambda: len(a.requests) == 1 and results(gate)[0] == hedges, "no request, or no hedge")
    await asyncio.sleep(0.2)
    a.go.set()
    await task
    assert results(gate)[0] == len(b.requests) == hedges
    await idle(gate)


async def test_the_client_of_an_inference_leaves_during_its_hedge(site: Site) -> None:
    gate, (a, b) = await models(site, True, True)
    _reader, writer = await gate.connect()
    body = json.dumps(plain()).encode()
    writer.write(b"POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s" % (INFER.encode(), len(body), body))
    await settle(lambda: len(b.requests) == 1, "no hedge")
    writer.transport.abort()
    await settle(lambda: a.cancelled == b.cancelled == 1, "the servers were not told")
    await idle(gate)


class Full(Told):
    """Says RESOURCE_EXHAUSTED when it is told to go on."""

    async def _behave(self, request: Any, context: Any) -> Any:
        await self.go.wait()
        await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")


@pytest.mark.parametrize("pause", ["0s", "60s"])
async def test_a_first_try_with_an_error_to_be_tried_again_leaves_it_to_the_hedge(site: Site, pause: str) -> None:
    """No third server is asked, and no retry is spent."""
    first, second, third = servers = Full(True), Told(True), Told(True)
    pool = {**OIP, "endpoints": [await site.model(one) for one in servers], "policy": "round_robin"}
    retry = {"on": ["resource-exhausted"], "budget": 100, "backoff": {"base": pause}}
    gate = await routing_gate(site, [{"pool": "models", "hedge": HEDGE, "retry": retry}], {"models": pool})
    task = asyncio.create_task(ask_model(gate, plain()))
    await settle(lambda: len(second.requests) == 1, "no hedge")
    first.go.set()
    await settle(lambda: gate.in_flight() == 1, "the first has not answered")
    second.go.set()
    assert (await asyncio.wait_for(task, 30)).status == 200
    assert results(gate) == (1, 1, 0, 0)
    assert (series(gate)["retries"], len(third.requests)) == (0, 0)
    await idle(gate)
