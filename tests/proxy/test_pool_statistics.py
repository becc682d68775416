"""ModelStatistics of a pool: the sum over its endpoints, over REST, gRPC and gRPC-Web."""

from __future__ import annotations

import asyncio
import base64
import re
from typing import Any

import grpc
import pytest
from datapath import Gate, Site
from infer_site import error_of, gate_to, idle
from oip_site import INFER, OIP, ModelServer, ask, plain, request

from lb.wire import grpc_service_pb2 as wire

PATH = "/inference.GRPCInferenceService/ModelStatistics"
REST = "/v2/models/m/stats"


class Counting(ModelServer):
    """Counts its inferences as Triton does; `restart` counts from the beginning."""

    def __init__(self, name: str = "m") -> None:
        super().__init__()
        self.name = name
        self.begun_at = 0
        self.release = asyncio.Event()
        self.release.set()
        self.asked = 0

    def restart(self) -> None:
        self.begun_at = len(self.requests)

    def _manage(self, method: str) -> Any:
        if method != "ModelStatistics":
            return super()._manage(method)

        async def handler(data: bytes, context: grpc.aio.ServicerContext) -> bytes:
            self.asked += 1
            asked = wire.ModelStatisticsRequest.FromString(data)
            await self.release.wait()
            if asked.name not in ("", self.name):
                await context.abort(grpc.StatusCode.NOT_FOUND, f"unknown model {asked.name}: 100 %")
            count = len(self.requests) - self.begun_at
            took = wire.StatisticDuration(count=count, ns=1000 * count)
            stats = wire.ModelStatistics(
                name=self.name,
                version="1",
                inference_count=count,
                execution_count=count,
                inference_stats=wire.InferStatistics(success=took),
            )
            return wire.ModelStatisticsResponse(model_stats=[stats]).SerializeToString()

        return handler


async def infer(gate: Gate, times: int) -> None:
    for _ in range(times):
        assert (await ask(gate, plain())).status == 200


async def by_rest(gate: Gate, path: str = REST) -> list[dict[str, Any]]:
    answer = await ask(gate, path=path, method="GET")
    assert answer.status == 200, answer.body
    found: list[dict[str, Any]] = answer.json["model_stats"]
    return found


async def by_grpc(gate: Gate, name: str = "m") -> list[Any]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gate.port}") as channel:
        call = channel.unary_unary(PATH)(wire.ModelStatisticsRequest(name=name).SerializeToString())
        return list(wire.ModelStatisticsResponse.FromString(await call).model_stats)


async def test_rest_and_grpc_tell_the_sum(site: Site) -> None:
    servers = [Counting(), Counting(), Counting()]
    gate = await gate_to(site, *servers)
    await infer(gate, 7)
    assert sorted(len(server.requests) for server in servers) == [2, 2, 3]
    for _ in range(3):
        (rest,) = await by_rest(gate)
        assert (rest["inference_count"], rest["execution_count"], rest["version"]) == (7, 7, "1")
        assert rest["inference_stats"]["success"] == {"count": 7, "ns": 7000}
        assert rest["inference_stats"]["queue"] == {"count": 0, "ns": 0}
        (by_call,) = await by_grpc(gate)
        assert (by_call.inference_count, by_call.inference_stats.success.ns) == (7, 7000)
    assert [found.name for found in await by_grpc(gate, "")] == ["m"]
    assert [found["name"] for found in await by_rest(gate, "/v2/models/stats")] == ["m"]
    await idle(gate)


async def test_the_sum_goes_on_over_restarts_and_scaling(site: Site) -> None:
    servers = [Counting(), Counting()]
    gate = await gate_to(site, *servers)
    await infer(gate, 10)
    assert (await by_rest(gate))[0]["inference_count"] == 10
    servers[0].restart()
    assert (await by_rest(gate))[0]["inference_count"] == 10
    await infer(gate, 4)
    assert (await by_rest(gate))[0]["inference_count"] == 14
    (pool,) = gate.plan.pools
    site.reload_pool(gate, endpoints=pool.endpoints[:1])
    assert (await by_rest(gate))[0]["inference_count"] == 14
    await infer(gate, 3)
    assert (await by_grpc(gate))[0].inference_count == 17
    site.reload_pool(gate, generation=3, endpoints=pool.endpoints)
    assert (await by_grpc(gate))[0].inference_count == 17
    await idle(gate)


async def test_an_endpoint_that_does_not_answer_counts_with_what_is_known(site: Site) -> None:
    servers = [Counting(), Counting()]
    gate = await gate_to(site, *servers)
    await infer(gate, 4)
    assert (await by_rest(gate))[0]["inference_count"] == 4
    gate.master.down = {gate.plan.pools[0].endpoints[0].address}
    assert (await by_rest(gate))[0]["inference_count"] == 4
    gate.master.down = set()
    await servers[1].server.stop(None)
    assert (await by_rest(gate))[0]["inference_count"] == 4
    await servers[0].server.stop(None)
    answer = await ask(gate, path=REST, method="GET")
    assert (answer.status, bool(error_of(answer))) == (503, True)


async def test_models_of_different_endpoints(site: Site) -> None:
    gate = await gate_to(site, Counting("m"), Counting("n"))
    assert [found["name"] for found in await by_rest(gate, "/v2/models/stats")] == ["m", "n"]
    assert [found["name"] for found in await by_rest(gate)] == ["m"]


async def test_an_error_of_all_endpoints_is_passed_on(site: Site) -> None:
    gate = await gate_to(site, Counting(), Counting())
    answer = await ask(gate, path="/v2/models/none/stats", method="GET")
    assert (answer.status, error_of(answer)) == (404, "unknown model none: 100 %")
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await by_grpc(gate, "none")
    assert error.value.code() is grpc.StatusCode.NOT_FOUND
    assert error.value.details() == "unknown model none: 100 %"
    await idle(gate)


async def test_a_pool_without_endpoints(site: Site) -> None:
    gate = await site.gate([], pool=OIP)
    answer = await ask(gate, path=REST, method="GET")
    assert (answer.status, error_of(answer)) == (503, "no endpoint of pool pool is available")
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await by_grpc(gate)
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("text", [False, True])
async def test_grpc_web(site: Site, text: bool) -> None:
    gate = await gate_to(site, Counting(), Counting())
    await infer(gate, 3)
    message = wire.ModelStatisticsRequest(name="m").SerializeToString()
    body = b"\0" + len(message).to_bytes(4) + message
    kind = "application/grpc-web-text" if text else "application/grpc-web"
    sent = request("POST", PATH, base64.b64encode(body) if text else body, {"Content-Type": kind})
    head, _, answer = (await gate.exchange(sent)).partition(b"\r\n\r\n")
    assert b" 200 " in head.split(b"\r\n")[0]
    assert kind.encode() in head
    pieces = b""
    while answer:
        size, _, answer = answer.partition(b"\r\n")
        piece, answer = answer[: int(size, 16)], answer[int(size, 16) + 2 :]
        pieces += b"".join(map(base64.b64decode, re.findall(rb"[^=]+=*", piece))) if text else piece
    size = int.from_bytes(pieces[1:5])
    (found,) = wire.ModelStatisticsResponse.FromString(pieces[5 : 5 + size]).model_stats
    assert found.inference_count == 3
    assert pieces[5 + size :].startswith(b"\x80")
    assert b"grpc-status:0" in pieces[5 + size :].replace(b" ", b"")
    await idle(gate)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", grpc.StatusCode.INTERNAL),
        (b"\0\0\0\0\5abc", grpc.StatusCode.INTERNAL),
        (b"\1\0\0\0\1a", grpc.StatusCode.UNKNOWN),
        (bytes(70_000), grpc.StatusCode.RESOURCE_EXHAUSTED),
    ],
)
async def test_bodies_that_are_no_request(site: Site, body: bytes, code: grpc.StatusCode) -> None:
    gate = await gate_to(site, Counting())
    answer = await gate.exchange(request("POST", PATH, body, {"Content-Type": "application/grpc-web"}))
    assert b"rpc-status: %d\r\n" % code.value[0] in answer.lower()
    await idle(gate)


async def test_who_comes_during_a_round_waits_for_the_next(site: Site) -> None:
    """An answer has what was counted before the call; equal calls are asked once."""
    server = Counting()
    gate = await gate_to(site, server)
    await infer(gate, 1)
    server.release.clear()
    first = asyncio.create_task(by_rest(gate))
    while not server.asked:
        await asyncio.sleep(0.01)
    await infer(gate, 1)
    later = [asyncio.create_task(by_rest(gate)) for _ in range(20)]
    await asyncio.sleep(0.1)
    server.release.set()
    await first
    assert [found["inference_count"] for (found,) in await asyncio.gather(*later)] == [2] * 20
    assert server.asked == 2
    await idle(gate)


@pytest.mark.parametrize("path", [REST, PATH])
async def test_clients_that_leave(site: Site, path: str) -> None:
    server = Counting()
    gate = await gate_to(site, server)
    server.release.clear()
    _, writer = await gate.connect()
    if path == REST:
        writer.write(request("GET", path))
    else:
        writer.write(request("POST", path, bytes(5), {"Content-Type": "application/grpc-web"}))
    await writer.drain()
    while not server.asked:
        await asyncio.sleep(0.01)
    writer.close()
    await idle(gate)
    server.release.set()
    assert (await ask(gate, plain(), INFER)).status == 200
    assert len(await by_rest(gate)) == 1


async def test_a_deadline_that_passes(site: Site) -> None:
    server = Counting()
    gate = await gate_to(site, server)
    server.release.clear()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gate.port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await channel.unary_unary(PATH)(b"", timeout=0.2)
    assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await idle(gate)
    server.release.set()
