"""Requests whose time is over at an endpoint that has much to do: no fault of that endpoint, whoever says so first."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from datapath import Gate, Site
from oip_site import ModelServer, ask, echo, plain
from routing_site import routing_gate
from test_grpc import channel_to

from lb.endpoints.ejection_state import EjectionStates
from lb.wire import grpc_service_pb2 as wire

TAKES = 0.02  # seconds
SOONER = 0.002
INFER = "/inference.GRPCInferenceService/ModelInfer"


def ejected(gate: Gate) -> bool:
    return EjectionStates(gate.segment, [endpoint.slot for endpoint in gate.plan.pools[0].endpoints]).ejected() > 0


def late(answers: bool = True) -> Any:
    """Answers one after another, and says itself, a little early, whose time is over. Not `answers`: that of all."""
    turn = asyncio.Lock()

    async def behave(request: Any, context: grpc.aio.ServicerContext) -> Any:
        try:
            if not answers:
                raise TimeoutError
            async with asyncio.timeout(context.time_remaining() - SOONER), turn:
                await asyncio.sleep(TAKES)
        except TimeoutError:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "too late")
        return await echo(request, context)

    return behave


async def gate_to(site: Site, protocol: str, answers: bool) -> Gate:
    pool = {
        "protocol": protocol,
        "endpoints": [await site.model(ModelServer(late(answers))) for _ in range(2)],  # one of them may be ejected
        "outlier": {"consecutive_5xx": 3, "max_ejection_percent": 100},
    }
    return await routing_gate(site, [{"pool": "two", "timeout": "200ms"}], {"two": pool})


async def rest(gate: Gate) -> int:
    return (await ask(gate, plain())).status


async def by_grpc(gate: Gate) -> int:
    async with channel_to(gate) as channel:
        try:
            await channel.unary_unary(INFER)(wire.ModelInferRequest(model_name="m").SerializeToString(), timeout=0.2)
        except grpc.aio.AioRpcError as error:
            return 504 if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED else 503
        return 200


@pytest.mark.parametrize(("protocol", "request_once"), [("oip", rest), ("oip", by_grpc), ("grpc", by_grpc)])
async def test_one_that_answers_others_meanwhile_is_not_ejected(site: Site, protocol: str, request_once: Any) -> None:
    gate = await gate_to(site, protocol, True)
    statuses = await asyncio.gather(*(request_once(gate) for _ in range(32)))
    assert statuses.count(200) >= 4
    assert statuses.count(504) >= 3
    assert not ejected(gate)


@pytest.mark.parametrize(("protocol", "request_once"), [("oip", rest), ("oip", by_grpc), ("grpc", by_grpc)])
async def test_one_that_says_so_at_once_is_ejected(site: Site, protocol: str, request_once: Any) -> None:
    gate = await gate_to(site, protocol, False)
    for _ in range(6):
        assert await request_once(gate) in (503, 504)
    assert ejected(gate)
