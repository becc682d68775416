"""Answers to copies compared with the originals', over a real daemon and real gRPC servers; and a canary that is taken
back because its answers differ."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import grpc
import pytest
from daemon import Daemon, eventually, http_listener

from lb.wire import grpc_service_pb2 as wire

Start = Callable[..., Daemon]
METHOD = "/inference.GRPCInferenceService/ModelInfer"
SIZES = {"small": 4, "large": 20_000, "huge": 100_000}  # elements, of FP32


class Server:
    """Answers each model with numbers: those of `small`, `large` and `huge` are by `value`, `fails` is an error."""

    def __init__(self) -> None:
        self.value = 1.0
        self.fails = False

    async def start(self) -> str:
        self._server = grpc.aio.server()
        handler = grpc.unary_unary_rpc_method_handler(self._infer)
        service = grpc.method_handlers_generic_handler("inference.GRPCInferenceService", {"ModelInfer": handler})
        self._server.add_generic_rpc_handlers((service,))
        port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        return f"127.0.0.1:{port}"

    async def stop(self) -> None:
        await self._server.stop(0)

    async def _infer(self, data: bytes, context: grpc.aio.ServicerContext) -> bytes:
        sent = wire.ModelInferRequest.FromString(data)
        if sent.model_name == "failing" and self.fails:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no")
        made = wire.ModelInferResponse(model_name=sent.model_name, model_version=str(self.value))
        count = SIZES.get(sent.model_name, 1)
        made.outputs.add(name="y", datatype="FP32", shape=[1, count]).contents.fp32_contents.extend(
            [0.5] * (count - 1) + [self.value]
        )
        return made.SerializeToString()


@pytest.fixture
async def servers() -> AsyncIterator[tuple[Server, Server, dict[str, Any]]]:
    old, new = Server(), Server()
    pools = {
        name: {"protocol": "oip", "endpoints": [await server.start()]} for name, server in (("old", old), ("new", new))
    }
    yield old, new, pools
    await old.stop()
    await new.stop()


def document(text: str) -> bytes:
    return json.dumps({"inputs": [{"name": "x", "datatype": "BYTES", "shape": [1], "data": [text]}]}).encode()


async def reports(daemon: Daemon, holds: Callable[[dict[str, Any]], bool], what: str, of: str = "mirrors") -> Any:
    found: dict[str, Any] = {}
    for _ in range(200):
        code, body = await asyncio.to_thread(daemon.admin, f"/api/v1/{of}")
        assert code == 200
        found = json.loads(body)[of][0]
        if holds(found):
            return found
        await asyncio.sleep(0.05)
    raise AssertionError(f"{what}: {found}")


async def test_answers_are_compared_and_told(start: Start, servers: tuple[Server, Server, dict[str, Any]]) -> None:
    old, new, pools = servers
    mirror = {"pool": "new", "compare": {"absolute": 0, "relative": 0.01}}
    config = {"listeners": {"web": http_listener({"name": "r", "pool": "old", "mirror": mirror})}, "pools": pools}
    daemon = await asyncio.to_thread(start, config)
    port = await asyncio.to_thread(daemon.port)
    request = wire.ModelInferRequest()
    request.inputs.add(name="x", datatype="INT32", shape=[1]).contents.int_contents.append(1)

    async def rest(model: str) -> int:
        async with session.post(f"http://127.0.0.1:{port}/v2/models/{model}/infer", data=document("a")) as answer:
            await answer.read()
            return answer.status

    async def call(model: str) -> bytes:
        request.model_name = model
        sent: bytes = await channel.unary_unary(METHOD)(request.SerializeToString(), timeout=20)
        return sent

    async with (
        aiohttp.ClientSession() as session,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        # Small and large, by REST and by gRPC: the same, and within the tolerance.
        for value in (1.0, 1.005):
            new.value = value
            for model in ("small", "large"):
                assert await rest(model) == 200
                await call(model)
        seen = await reports(daemon, lambda row: row["equal"] == 8, "eight that are equal")
        assert (seen["different"], seen["skipped"], seen["samples"]) == (0, 0, [])
        assert {(row["model"], row["answers"]) for row in seen["tensors"]} == {("small", 4), ("large", 4)}
        assert all(row["largest_absolute"] == pytest.approx(0.005, rel=1e-3) for row in seen["tensors"])
        # Beyond it.
        new.value = 1.5
        for model in ("small", "large"):
            assert await rest(model) == 200
            await call(model)
        seen = await reports(daemon, lambda row: row["different"] == 4, "four that differ")
        assert [row["different"] for row in seen["tensors"]] == [2, 2]
        texts = {sample["text"] for sample in seen["samples"]}
        assert texts == {
            "output y: 1 of 4 elements, the first at 3, 1 and 1.5",
            "output y: 1 of 20000 elements, the first at 19999, 1 and 1.5",
        }
        # One side alone fails; both do; an answer that is too large.
        new.fails = True
        assert await rest("failing") == 200
        seen = await reports(daemon, lambda row: row["different"] == 5, "the status differs")
        assert seen["samples"][0]["text"] == "gRPC status 0 of the original, 3 of the copy"
        old.fails = True
        assert await rest("failing") == 400
        with pytest.raises(grpc.aio.AioRpcError):
            await call("failing")
        await reports(daemon, lambda row: row["equal"] == 10, "two that fail alike")
        await call("huge")
        assert await rest("huge") == 200
        await reports(daemon, lambda row: row["skipped"] == 2, "two that are too large")
        # Shadows that are gone do not matter.
        await new.stop()
        assert await rest("small") == 200
        await call("small")
        await reports(daemon, lambda row: row["skipped"] == 4, "two without an answer")

    different = frozenset({("route", "r"), ("result", "different")})
    assert daemon.metrics("tidegate_mirror_comparisons_total")[different] == 5
    shown = await asyncio.to_thread(daemon.command, "mirror", "report", check=True)
    assert "1 of 4 elements" in shown.stdout
    assert (await asyncio.to_thread(daemon.command, "mirror", "report", "r", "--json", check=True)).stdout
    assert (await asyncio.to_thread(daemon.command, "mirror", "report", "q")).returncode == 1
    await asyncio.to_thread(daemon.kill_worker)
    changed = {**config, "log": {"level": "warning"}}  # a reload that meets the death of a worker changes nothing
    await asyncio.to_thread(eventually, lambda: daemon.reload(changed)["ok"], "a reload")
    await reports(daemon, lambda row: (row["equal"], row["different"]) == (10, 5), "what was found stays")


async def test_a_canary_whose_answers_differ_is_taken_back(
    start: Start, servers: tuple[Server, Server, dict[str, Any]]
) -> None:
    _, new, pools = servers
    canary = {"pool": "new", "steps": [20, 50], "interval": "1s", "min_requests": 10, "max_difference": 1}
    mirror = {"pool": "new", "compare": {}}
    route = {"name": "r", "pool": "old", "mirror": mirror, "canary": canary}
    daemon = await asyncio.to_thread(start, {"listeners": {"web": http_listener(route)}, "pools": pools})
    url = f"http://127.0.0.1:{daemon.port()}/v2/models/small/infer"
    # Its answers are fast and no errors, but other numbers.
    new.value = 1.1

    async def ask() -> None:
        async with aiohttp.ClientSession() as session:
            while True:
                async with session.post(url, data=document("a")) as answer:
                    assert answer.status == 200
                await asyncio.sleep(0.02)

    async with asyncio.TaskGroup() as group:
        clients = [group.create_task(ask()) for _ in range(4)]
        row = await reports(daemon, lambda row: row["phase"] in ("aborted", "promoted"), "the end", "canaries")
        for client in clients:
            client.cancel()
    assert row["phase"] == "aborted", row
    assert row["reason"].endswith("compared answers differ")
