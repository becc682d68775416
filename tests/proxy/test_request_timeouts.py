"""The `timeout` parameter of an inference (µs): a deadline, over REST, gRPC and gRPC-Web alike."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from datapath import SECOND, Gate, Site, settle
from infer_site import Held, gate_to, idle
from oip_site import OIP, ModelServer, ask, echo, plain, request
from queue_site import QUEUE

from lb.wire import grpc_service_pb2 as wire

PATH = "/inference.GRPCInferenceService/ModelInfer"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
LONGEST = 2**63 - 1


def message(timeout: int, size: int = 0) -> bytes:
    made = wire.ModelInferRequest(model_name="m")
    made.parameters["timeout"].int64_param = timeout
    made.inputs.add(name="x", datatype="UINT8", shape=[size])
    made.raw_input_contents.append(bytes(size))
    return made.SerializeToString()


async def by_rest(gate: Gate, timeout: int) -> bool:
    """Whether it was answered; if not, its time was over."""
    answer = await ask(gate, plain(parameters={"timeout": timeout}))
    assert answer.status in (200, 504)
    return answer.status == 200


async def by_grpc(gate: Gate, timeout: int, size: int = 0) -> bool:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gate.port}") as channel:
        call = channel.unary_unary(PATH)(message(timeout, size))
        code = await call.code()
    assert code in (grpc.StatusCode.OK, grpc.StatusCode.DEADLINE_EXCEEDED)
    return code is grpc.StatusCode.OK


async def by_web(gate: Gate, timeout: int) -> bool:
    sent = message(timeout)
    body = b"\0" + len(sent).to_bytes(4) + sent
    answer = await gate.exchange(request("POST", PATH, body, {"Content-Type": "application/grpc-web"}))
    return b"rpc-status: 4\r\n" not in answer.lower()


WAYS = pytest.mark.parametrize("infer", [by_rest, by_grpc, by_web])


@WAYS
async def test_the_model_server_is_given_up_then_and_told_before(site: Site, infer: Any) -> None:
    left: list[float | None] = []

    async def slow(sent: Any, context: grpc.aio.ServicerContext) -> Any:
        left.append(context.time_remaining())
        await asyncio.sleep(5)
        return await echo(sent, context)

    model = ModelServer(slow)
    gate = await gate_to(site, model)
    assert not await infer(gate, 200_000)
    assert left[0] is not None
    assert left[0] <= 0.2
    await settle(lambda: model.cancelled == 1, "the call goes on")
    await idle(gate)


@WAYS
@pytest.mark.parametrize("timeout", [0, 20_000_000, LONGEST])
async def test_times_that_do_not_pass(site: Site, infer: Any, timeout: int) -> None:
    gate = await gate_to(site, ModelServer())
    assert await infer(gate, timeout)
    await idle(gate)


@WAYS
async def test_the_earlier_of_two_deadlines_counts(site: Site, infer: Any) -> None:
    gate = await gate_to(site, Held(), route={"timeout_ns": SECOND // 10})
    assert not await infer(gate, 20_000_000)
    await idle(gate)


@WAYS
async def test_a_place_in_the_queue_ends_then(site: Site, infer: Any) -> None:
    model = Held()
    gate = await site.gate([await site.model(model)], cap=1, pool={**OIP, "queue": QUEUE})
    first = asyncio.create_task(ask(gate, plain()))
    await settle(lambda: len(model.requests) == 1, "it does not get there")
    assert not await infer(gate, 100_000)
    model.release.set()
    assert (await first).status == 200
    assert len(model.requests) == 1
    assert await infer(gate, 20_000_000)
    await idle(gate)


async def test_a_message_that_comes_in_pieces(site: Site) -> None:
    """A tensor behind it, larger than any buffer, is still on its way when the time is read."""
    gate = await gate_to(site, Held())
    assert not await by_grpc(gate, 300_000, size=3 << 20)
    await idle(gate)


async def test_messages_of_a_stream_are_the_model_servers(site: Site) -> None:
    gate = await gate_to(site, ModelServer())

    async def messages() -> AsyncIterator[bytes]:
        yield message(1)
        await asyncio.sleep(0.2)
        yield message(1)

    async with grpc.aio.insecure_channel(f"127.0.0.1:{gate.port}") as channel:
        answers = [each async for each in channel.stream_stream(STREAM)(messages())]
    assert len(answers) == 2
    await idle(gate)
