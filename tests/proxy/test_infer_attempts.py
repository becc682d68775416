"""Inferences that are tried again, that are late, and whose clients or servers leave."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import grpc
import pytest
from datapath import SECOND, Gate, Site, settle
from hedge_site import call, series
from infer_site import MIB, Held, error_of, gate_to, idle
from oip_site import (
    INFER,
    OIP,
    Dying,
    ModelServer,
    ask,
    binary,
    echo,
    failing,
    plain,
    read_answer,
    request,
    tensor,
)
from ports import free_port
from routing_site import routing_gate

from lb.wire import grpc_service_pb2 as wire

# Retries.


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED])
async def test_a_server_that_goes_away_is_passed_over(site: Site, code: grpc.StatusCode) -> None:
    going, staying = ModelServer(failing(code, "shutting down")), ModelServer()
    gate = await gate_to(site, going, staying)
    assert [(await ask(gate, plain())).status for _ in range(6)] == [200] * 6
    assert going.requests
    assert len(staying.requests) == 6
    assert gate.total(2)["retries"] == len(going.requests)
    await idle(gate)


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.INTERNAL])
@pytest.mark.parametrize("on", [[], ["reset"], ["connect"]], ids=["pool", "reset", "connect"])
async def test_so_is_it_for_clients_that_speak_grpc(site: Site, code: grpc.StatusCode, on: list[str]) -> None:
    going, staying = ModelServer(failing(code, "shutting down")), ModelServer()
    pool = {**OIP, "endpoints": [await site.model(going), await site.model(staying)], "policy": "round_robin"}
    route = {"pool": "models", **({"retry": {"on": on, "budget": 100, "backoff": {"base": "0s"}}} if on else {})}
    gate = await routing_gate(site, [route], {"models": pool})
    hidden = code is not grpc.StatusCode.INTERNAL and on != ["connect"]
    plainly = wire.ModelInferRequest(model_name="m").SerializeToString()
    sequence = wire.ModelInferRequest(model_name="m")
    sequence.parameters["sequence_id"].int64_param = 7
    sequence.parameters["sequence_start"].bool_param = True
    noticed = [await code_of(gate, plainly) for _ in range(4)]
    assert noticed == ([0] * 4 if hidden else [code.value[0], 0] * 2)
    assert series(gate)["retries"] == (len(going.requests) if hidden else 0)
    assert {await code_of(gate, sequence.SerializeToString()) for _ in range(2)} == {0, code.value[0]}  # never hidden
    await idle(gate)


async def code_of(gate: Gate, message: bytes) -> int:
    try:
        await call(gate, "/inference.GRPCInferenceService/ModelInfer", message)
    except grpc.aio.AioRpcError as error:
        return int(error.code().value[0])
    return 0


async def test_a_broken_connection_is_tried_on_another_endpoint(site: Site) -> None:
    dying, model = Dying(), ModelServer()
    gate = await site.gate([await site.endpoint(dying), await site.model(model)], pool=OIP)
    assert [(await ask(gate, plain())).status for _ in range(6)] == [200] * 6
    assert dying.requests
    assert len(model.requests) == 6
    await idle(gate)


async def test_an_endpoint_that_refuses_is_passed_over(site: Site) -> None:
    model = ModelServer()
    gate = await site.gate([f"127.0.0.1:{free_port()}", await site.model(model)], pool=OIP)
    assert [(await ask(gate, plain())).status for _ in range(6)] == [200] * 6
    await idle(gate)
    nobody = await site.gate([f"127.0.0.1:{free_port()}"], pool=OIP)
    answer = await ask(nobody, plain())
    assert (answer.status, bool(error_of(answer))) == (502, True)
    await idle(nobody)


async def test_retries_have_a_limit(site: Site) -> None:
    servers = [ModelServer(failing(grpc.StatusCode.UNAVAILABLE, "no")) for _ in range(4)]
    gate = await gate_to(site, *servers, pool={"retries": 2})
    assert (await ask(gate, plain())).status == 503
    assert sum(len(s.requests) for s in servers) == 3
    assert max(len(s.requests) for s in servers) == 1
    await idle(gate)


@pytest.mark.parametrize("sequence", [5, "conversation-5"])
async def test_sequences_are_never_tried_again(site: Site, sequence: int | str) -> None:
    """Their state lives in one endpoint, which may have moved on."""
    dying, model = Dying(), ModelServer(failing(grpc.StatusCode.UNAVAILABLE, "no"))
    gate = await site.gate([await site.endpoint(dying), await site.model(model)], pool={**OIP, "retries": 3})
    body = plain(parameters={"sequence_id": sequence, "sequence_start": True})
    answers = sorted([(await ask(gate, body)).status for _ in range(2)])
    assert answers == [502, 503]
    assert dying.requests == len(model.requests) == 1
    await idle(gate)


class Hanging(ModelServer):
    """Does not answer within any time that a test gives it; grpcio keeps the deadline that it is told."""

    def __init__(self) -> None:
        super().__init__(self._hang)

    async def _hang(self, request: Any, context: Any) -> Any:
        await asyncio.sleep(30)


async def test_a_server_that_keeps_the_time_of_its_try_is_tried_again_elsewhere(site: Site) -> None:
    """It says DEADLINE_EXCEEDED of a try just before our own timer looks: that is the timeout, too."""
    hanging, model = Hanging(), ModelServer()
    pool = {**OIP, "endpoints": [await site.model(hanging), await site.model(model)], "policy": "round_robin"}
    retry = {"on": ["timeout"], "per_attempt_timeout": "50ms", "budget": 100, "backoff": {"base": "0s"}}
    gate = await routing_gate(site, [{"pool": "models", "retry": retry}], {"models": pool})
    assert [(await ask(gate, plain())).status for _ in range(6)] == [200] * 6
    found = series(gate)
    assert len(hanging.requests) == found["retries"] > 0
    assert series(gate, gate.plan.pools[0].endpoints[0].series)["timeouts"] == found["retries"]
    assert found["timeouts"] == 0  # none that a client has seen
    await idle(gate)


async def test_a_deadline_that_the_server_keeps_is_a_timeout(site: Site) -> None:
    pool = {**OIP, "endpoints": [await site.model(Hanging())]}
    gate = await routing_gate(site, [{"pool": "models", "response_timeout": "50ms"}], {"models": pool})
    answer = await ask(gate, plain())
    assert (answer.status, error_of(answer)) == (504, "the model server did not answer in time")
    assert series(gate)["timeouts"] == 1
    await idle(gate)


# Deadlines and clients that leave.


@pytest.mark.parametrize(
    ("options", "body"),
    [
        ({"pool": {"response_timeout_ns": SECOND // 10}}, plain()),
        ({"route": {"timeout_ns": SECOND // 10}}, plain()),
        ({}, plain(parameters={"timeout": 100_000})),
    ],
    ids=["pool", "route", "request"],
)
@pytest.mark.parametrize("cached", [False, True])
async def test_a_deadline_passes(site: Site, options: dict[str, Any], body: Any, cached: bool) -> None:
    model = Held()
    gate = await gate_to(site, model, cached=cached, **options)
    answer = await ask(gate, body)
    assert (answer.status, bool(error_of(answer))) == (504, True)
    await idle(gate)
    await settle(lambda: model.cancelled == 1, "the server was not told")
    model.release.set()
    assert (await ask(gate, plain())).status == 200  # on the same connection


async def test_the_server_is_told_the_deadline(site: Site) -> None:
    seen: list[float] = []

    async def remember(sent: Any, context: grpc.aio.ServicerContext) -> Any:
        seen.append(context.time_remaining())
        return await echo(sent, context)

    gate = await gate_to(site, ModelServer(remember), route={"timeout_ns": 5 * SECOND})
    assert (await ask(gate, plain())).status == 200
    assert 0 < seen[0] <= 5.1


async def test_a_client_that_leaves_frees_the_slot(site: Site) -> None:
    model = Held()
    gate = await gate_to(site, model)
    _, writer = await gate.connect()
    writer.write(request("POST", INFER, json.dumps(plain()).encode()))
    await settle(lambda: gate.in_flight() == 1 and len(model.requests) == 1, "the request did not arrive")
    writer.close()
    await idle(gate)
    await settle(lambda: model.cancelled == 1, "the server was not told")


async def test_a_slow_client_does_not_hold_the_endpoint(site: Site) -> None:
    gate = await gate_to(site, ModelServer())
    body, headers = binary((tensor([], shape=[8 * MIB]), bytes(32 * MIB)))
    reader, writer = await asyncio.open_connection("127.0.0.1", gate.port, limit=65536)
    writer.write(request("POST", INFER, body, headers))
    await settle(lambda: gate.total(10)["requests.2xx"] == 1 and gate.in_flight() == 0, "the answer did not come")
    got = 0
    while data := await asyncio.wait_for(reader.read(MIB), 30):
        got += len(data)
    assert got > 32 * MIB
    writer.close()
    await idle(gate)


async def test_no_endpoint_available(site: Site) -> None:
    gate = await gate_to(site, ModelServer(), cached=True)
    gate.segment.set_health(0, False, 0)
    answer = await ask(gate, plain())
    assert answer.status == 503
    assert answer.headers["retry-after"] == "1"
    assert error_of(answer)
    await idle(gate)


async def test_a_server_that_stops_gracefully_loses_nothing(site: Site) -> None:
    first, second = ModelServer(), ModelServer()
    gate = await gate_to(site, first, second)
    failures: list[str] = []
    stop = asyncio.Event()

    async def client() -> int:
        n = 0
        reader, writer = await gate.connect()
        with contextlib.closing(writer):
            while not stop.is_set():
                writer.write(request("POST", INFER, json.dumps(plain()).encode(), close=False))
                answer = await read_answer(reader)
                if answer.status != 200:
                    failures.append(f"{answer.status} {answer.body!r}")
                n += 1
        return n

    clients = [asyncio.create_task(client()) for _ in range(8)]
    await settle(lambda: len(first.requests) > 50, "no load")
    await first.server.stop(5)
    served = len(second.requests)
    await settle(lambda: len(second.requests) > served + 100, "the other one does not go on")
    stop.set()
    assert sum(await asyncio.gather(*clients)) > 100
    assert failures == []
    await idle(gate)
