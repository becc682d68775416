"""Calls that Python answers when something goes wrong, and long streams of inferences."""

from __future__ import annotations

import asyncio
import socket
import time
from contextlib import asynccontextmanager
from types import SimpleNamespace

import grpc
import numpy as np
import pytest
from backend_process import infer_request

from backend.errors import InvalidInput
from backend.grpc.front import Front
from backend.inference.load import Load
from backend.listener import Listener
from lb.net.poller import Poller

INFER = "/inference.GRPCInferenceService/ModelInfer"
LIVE = "/inference.GRPCInferenceService/ServerLive"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
SMALL = infer_request("scale", ("x", "FP32", np.ones((1, 2), "<f4"))).SerializeToString()


async def test_a_long_stream_is_answered_in_order_to_its_end(stub):
    """Inferences of several models, wrong ones among them, sent faster than they are answered."""
    kinds = np.random.default_rng(7).integers(4, size=4000)

    async def requests():
        for number, kind in enumerate(kinds):
            if kind == 1:
                yield infer_request("slow", ("count", "INT64", np.array(number, "<i8")), id=str(number))
            else:
                x = np.array([[number, -number]], "<f4")
                yield infer_request("scale" if kind else "nothing", ("x", "FP32", x), id=str(number))

    answers = [answer async for answer in stub.ModelStreamInfer(requests())]
    assert [answer.infer_response.id for answer in answers] == [str(number) for number in range(4000)]
    for number, (kind, answer) in enumerate(zip(kinds, answers, strict=True)):
        if kind == 0:
            assert "'nothing'" in answer.error_message
        elif kind == 1:
            assert answer.infer_response.raw_output_contents[0] == np.array(number, "<i8").tobytes()
        else:
            assert (
                answer.infer_response.raw_output_contents[0] == np.array([10 * number, -10 * number], "<f4").tobytes()
            )


@pytest.mark.parametrize("typed", [False, True])
async def test_the_parameter_timeout_is_a_deadline(stub, second, typed):
    """In microseconds, as for Triton's clients; also of a request that Python reads."""
    request = infer_request("slow", ("count", "INT64", np.array(1000 * second, "<i8")))
    if typed:
        request.inputs[0].contents.int64_contents.append(1000 * second)
        del request.raw_input_contents[:]
    request.parameters["timeout"].int64_param = 200_000
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.ModelInfer(request)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED


@asynccontextmanager
async def front_of(service):
    """A server without models whose rare calls `service` answers; a channel to it."""
    poller = Poller(asyncio.get_running_loop())
    front = Front(poller, Load(1, time.monotonic_ns()), service)
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setblocking(False)
    port = listening.getsockname()[1]
    listener = Listener(front, listening.detach(), True)
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield front, channel
    finally:
        listener.close()
        front.close()
        poller.close()


@pytest.mark.parametrize("where", ["begin", "take", "decompress", "irregular"])
async def test_an_error_that_nobody_thought_of_is_an_answer_and_a_report(where, caplog):
    def broken(*arguments):
        raise RuntimeError("broken")

    gone = []
    handler = SimpleNamespace(take=broken, gone=lambda: gone.append(True))
    service = SimpleNamespace(begin=lambda call, path: handler, decompress=broken, irregular=broken)
    if where == "begin":
        service.begin = broken
    async with front_of(service) as (front, channel):
        call = channel.unary_unary(LIVE if where in ("begin", "take") else INFER)
        compression = grpc.Compression.Gzip if where == "decompress" else None
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(SMALL * 10, timeout=10, compression=compression)
        assert caught.value.code() == grpc.StatusCode.INTERNAL
        assert caught.value.details() == "unexpected error; the server's log has more"
        assert "RuntimeError: broken" in caplog.text
        assert front.calls == 0
        assert gone == ([True] if where == "take" else [])


async def test_who_waits_for_a_message_that_is_refused_hears_of_it():
    gone = []

    def decompress(encoding, data):
        raise InvalidInput("no gzip")

    handler = SimpleNamespace(take=lambda message: None, gone=lambda: gone.append(True))
    async with front_of(SimpleNamespace(begin=lambda call, path: handler, decompress=decompress)) as (_, channel):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(REFLECTION)(SMALL * 10, timeout=10, compression=grpc.Compression.Gzip)
        assert caught.value.details() == "no gzip"
        assert gone == [True]
