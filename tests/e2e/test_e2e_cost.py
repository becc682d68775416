"""Requests that are weighed by the real daemon: several workers, their deaths, reloads, and what an operator sees."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest_asyncio
from daemon import Daemon, eventually, http_listener, route
from traffic import ask_once, request

from lb.wire import grpc_service_pb2 as wire

Start = Callable[..., Daemon]


class ModelServer:
    """Works on one request after another: 1 ms for each of its batch, 10 ms for the model `large`. `work` is the most
    milliseconds that were there at once."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.served: list[int] = []
        self.server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        handler = {"ModelInfer": grpc.unary_unary_rpc_method_handler(self._infer)}
        self.server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("inference.GRPCInferenceService", handler),)
        )

    async def start(self) -> str:
        port = self.server.add_insecure_port("127.0.0.1:0")
        await self.server.start()
        return f"127.0.0.1:{port}"

    async def _infer(self, data: bytes, context: grpc.aio.ServicerContext) -> bytes:
        message = wire.ModelInferRequest.FromString(data)
        batch = int(message.inputs[0].shape[0])
        async with self.lock:
            await asyncio.sleep(batch * (0.01 if message.model_name == "large" else 0.001))
        self.served.append(batch)
        answer = wire.ModelInferResponse(model_name=message.model_name, model_version="1")
        answer.outputs.add(name="y", datatype="FP32", shape=[1])
        answer.raw_output_contents.append(b"\0\0\0\0")
        encoded: bytes = answer.SerializeToString()
        return encoded


@pytest_asyncio.fixture
async def servers() -> AsyncIterator[list[ModelServer]]:
    made = [ModelServer(), ModelServer()]
    yield made
    for one in made:
        await one.server.stop(0)


def infer(batch: int, model: str = "small") -> bytes:
    tensor = {"name": "x", "datatype": "FP32", "shape": [batch, 1], "data": [0.5] * batch}
    return request("POST", f"/v2/models/{model}/infer", json.dumps({"inputs": [tensor]}).encode())


def config(addresses: list[str], **pool: Any) -> dict[str, Any]:
    settings = {"protocol": "oip", "endpoints": addresses, "cost": "batch", **pool}
    return {"workers": 2, "listeners": {"web": http_listener(route("/", "models"))}, "pools": {"models": settings}}


def costs(daemon: Daemon) -> list[float]:
    return list(daemon.metrics("tidegate_endpoint_outstanding_cost").values())


def model_costs(daemon: Daemon) -> dict[str, float]:
    return {dict(labels)["model"]: value for labels, value in daemon.metrics("tidegate_model_cost").items()}


def apart(known: dict[str, float]) -> bool:
    return len(known) == 2 and known["large"] > 1.5 * known["small"]


async def test_models_are_learned_and_nothing_is_left_by_workers_that_die(
    start: Start, servers: list[ModelServer]
) -> None:
    daemon = start(config([await one.start() for one in servers]))
    port = daemon.port()
    stop = asyncio.Event()
    answered = 0

    async def client(n: int) -> None:
        nonlocal answered
        while not stop.is_set():
            n += 1
            try:
                await ask_once(port, infer(1 + n % 8, "large" if n % 3 == 0 else "small"))
                answered += 1
            except (OSError, EOFError):
                pass  # its worker was the one

    clients = [asyncio.create_task(client(n)) for n in range(8)]
    for index in (0, 1, 0):
        goal = answered + 40
        await asyncio.to_thread(eventually, lambda goal=goal: answered > goal, "answers")
        assert any(await asyncio.to_thread(costs, daemon))
        victim = daemon.worker_pids()[index]
        os.kill(victim, signal.SIGKILL)
        await asyncio.to_thread(
            eventually, lambda victim=victim: victim not in daemon.worker_pids(), "the worker was not replaced"
        )
    # How soon is the scheduling's: it is learned from shares of latencies, and those who wait for each other mix both.
    await asyncio.to_thread(eventually, lambda: apart(model_costs(daemon)), "large was not told apart from small")
    stop.set()
    await asyncio.gather(*clients)
    await asyncio.to_thread(eventually, lambda: costs(daemon) == [0, 0], "what dead workers had still counts")
    before = await asyncio.to_thread(model_costs, daemon)
    assert set(before) == {"small", "large"}

    assert daemon.reload(config([*daemon_addresses(daemon)], policy="power_of_two"))["ok"]
    assert await asyncio.to_thread(model_costs, daemon) == before, "a reload forgot what was learned"


def daemon_addresses(daemon: Daemon) -> list[str]:
    return [e["address"] for e in daemon.pool("models")["endpoints"]]


async def test_an_operator_sees_what_requests_cost(start: Start, servers: list[ModelServer]) -> None:
    daemon = start(config([await one.start() for one in servers]))
    port = daemon.port()
    for n in range(12):
        assert (await ask_once(port, infer(1 + n % 4))).status == 200
    asked = [asyncio.create_task(ask_once(port, infer(200))) for _ in range(3)]
    await asyncio.to_thread(eventually, lambda: sum(costs(daemon)) > 10, "the cost of what is there")
    assert [answer.status for answer in await asyncio.gather(*asked)] == [200] * 3

    def shown(*words: str) -> str:
        return daemon.command(*words, check=True).stdout

    status = await asyncio.to_thread(shown, "status")
    assert "models (batch)" in status
    assert "small" in status
    assert "cost 0" in status
    assert ", cost 0" in await asyncio.to_thread(shown, "explain", "models")
    row = daemon.pool("models")
    assert row["cost"]["unit"] == "batch"
    assert row["cost"]["models"]["small"]["samples"] >= 12
