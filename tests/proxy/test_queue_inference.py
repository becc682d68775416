"""Inferences that wait for an endpoint, however they come."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from compiled.endpoint_set import acquire, release
from datapath import Site, settle
from msgspec.structs import replace
from oip_site import OIP, ModelServer, echo, plain
from oip_site import ask as ask_model
from queue_site import QUEUE, line, waiting

from lb.config.plan.plan import QueuePlan
from lb.wire import grpc_service_pb2 as wire


class HeldModel(ModelServer):
    """A model server that answers one request at a time when told to; `active` are those it has."""

    def __init__(self) -> None:
        super().__init__(self.wait)
        self.active = 0
        self.peak = 0
        self.turns = asyncio.Semaphore(0)

    async def wait(self, request: Any, context: Any) -> Any:
        self.active += 1
        self.peak = max(self.peak, self.active)
        await self.turns.acquire()
        self.active -= 1
        return await echo(request, context)


async def test_inferences_wait_however_they_come(site: Site) -> None:
    model = HeldModel()
    gate = await site.gate([await site.model(model)], cap=1, pool={**OIP, "queue": QUEUE})
    tasks = [asyncio.create_task(ask_model(gate, plain()))]
    await settle(lambda: model.active == 1, "it does not get there")
    tasks.append(asyncio.create_task(ask_model(gate, plain())))
    await settle(lambda: waiting(gate) == 1, "it does not wait")
    request = wire.ModelInferRequest(model_name="m", raw_input_contents=[bytes(50_000)])
    request.inputs.add(name="x", datatype="UINT8", shape=[50_000])
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gate.port}") as channel:
        infer = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=wire.ModelInferRequest.SerializeToString,
            response_deserializer=wire.ModelInferResponse.FromString,
        )
        call = infer(request, timeout=20)
        await settle(lambda: waiting(gate) == 2, "it does not wait")
        given_up = infer(request, timeout=20)
        await settle(lambda: waiting(gate) == 3, "it does not wait")
        given_up.cancel()
        await settle(lambda: waiting(gate) == 2, "it still waits")
        late = infer(request, timeout=0.1)
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await late
        assert failure.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        for _ in range(3):
            model.turns.release()
        answer = await call
    assert answer.raw_output_contents[0] == bytes(50_000)
    assert [(await task).status for task in tasks] == [200, 200]
    assert (model.peak, len(model.requests)) == (1, 3)
    assert waiting(gate) == 0
    assert gate.in_flight() == 0


@pytest.mark.parametrize("queue", [None, replace(QUEUE, max=0)])
async def test_a_full_queue_is_said_to_grpc_clients(site: Site, queue: QueuePlan | None) -> None:
    model = HeldModel()
    gate = await site.gate([await site.model(model)], cap=1, pool={**OIP, "queue": queue})
    first = asyncio.create_task(ask_model(gate, plain()))
    await settle(lambda: model.active == 1, "it does not get there")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gate.port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(b"", timeout=20)
    assert failure.value.code() == grpc.StatusCode.UNAVAILABLE
    assert dict(failure.value.trailing_metadata() or ())["retry-after"] == "1"
    assert queue is None or line(gate)["ended.full"] == 1
    model.turns.release()
    assert (await first).status == 200


async def test_the_timeout_of_an_inference_is_its_deadline(site: Site) -> None:
    model = HeldModel()
    gate = await site.gate([await site.model(model)], cap=1, pool={**OIP, "queue": QUEUE})
    first = asyncio.create_task(ask_model(gate, plain()))
    await settle(lambda: model.active == 1, "it does not get there")
    answer = await ask_model(gate, plain(parameters={"timeout": 50_000}))
    assert answer.status == 504
    model.turns.release()
    assert (await first).status == 200
    assert len(model.requests) == 1


async def test_a_reload_changes_the_protocol(site: Site) -> None:
    """Inferences that wait, by REST and by gRPC, are still asked for as they were to be."""
    model = HeldModel()
    gate = await site.gate([await site.model(model)], cap=1, pool={**OIP, "queue": QUEUE})
    first = asyncio.create_task(ask_model(gate, plain()))
    await settle(lambda: model.active == 1, "it does not get there")
    second = asyncio.create_task(ask_model(gate, plain()))
    await settle(lambda: waiting(gate) == 1, "it does not wait")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gate.port}") as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        third = infer(wire.ModelInferRequest(model_name="m").SerializeToString(), timeout=20)
        await settle(lambda: waiting(gate) == 2, "it does not wait")
        site.reload_pool(gate, protocol="http")
        for _ in range(3):
            model.turns.release()
        await third
    assert [(await task).status for task in (first, second)] == [200, 200]
    assert (model.peak, len(model.requests)) == (1, 3)
    assert waiting(gate) == 0
    assert gate.in_flight() == 0


async def test_who_waits_for_a_pool_that_is_gone_has_its_endpoint_when_it_has_room(site: Site) -> None:
    """A pool is renamed while an inference waits in this worker, and all that its endpoint has is another worker's."""
    model = HeldModel()
    gate = await site.gate([await site.model(model)], cap=1, pool={**OIP, "queue": QUEUE})
    model.turns.release()
    assert (await ask_model(gate, plain())).status == 200
    endpoints = gate.proxy.pools[0].endpoints
    acquire(endpoints, 0)
    second = asyncio.create_task(ask_model(gate, plain()))
    await settle(lambda: waiting(gate) == 1, "it does not wait")
    open_before = gate.proxy.stats()["sources"]
    site.reload_pool(gate, name="renamed", queue=None)
    await settle(lambda: gate.proxy.stats()["sources"] < open_before, "the connection that nobody uses stays open")
    release(endpoints, 0)
    model.turns.release()
    assert (await second).status == 200
    await settle(lambda: gate.in_flight() == 0, "in-flight counts")
    again = gate.proxy.stats()["sources"]
    await settle(lambda: gate.proxy.stats()["sources"] < again, "its last connection stays open")
