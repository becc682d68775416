"""What servers of the plain protocol lack: configurations and statistics are made where no endpoint has them."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from datapath import Gate, Site
from infer_site import error_of, gate_to, idle
from oip_site import ModelServer, ask, binary, echo, failing, floats, plain, tensor

from lb.inference.synthesis import MARK
from lb.wire import grpc_service_pb2 as wire

SERVICE = "/inference.GRPCInferenceService/"
STATS = "/v2/models/m/stats"


def plain_server(name: str = "m") -> ModelServer:
    """As KServe's and MLServer's: it describes its models, no more."""
    server = ModelServer()
    server.without = frozenset(("ModelConfig", "ModelStatistics"))
    described = wire.ModelMetadataResponse.TensorMetadata(name="x", datatype="FP32", shape=[-1, 2])
    metadata = wire.ModelMetadataResponse(name=name, versions=["3"], inputs=[described], outputs=[described])

    def manage(method: str) -> Any:
        async def describe(data: bytes, context: grpc.aio.ServicerContext) -> bytes:
            if wire.ModelMetadataRequest.FromString(data).name != name:
                await context.abort(grpc.StatusCode.NOT_FOUND, "no such model")
            return bytes(metadata.SerializeToString())

        return describe if method == "ModelMetadata" else ModelServer._manage(server, method)

    server._manage = manage  # type: ignore[method-assign]
    return server


async def counted_gate(site: Site, *servers: ModelServer, **options: Any) -> Gate:
    gate = await gate_to(site, *servers, **options)

    def count(pool: str) -> None:
        site.reload_pool(gate, count_models=True)

    gate.master.count = count
    return gate


async def by_grpc(gate: Gate, method: str, request: Any) -> bytes:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gate.port}") as channel:
        found: bytes = await channel.unary_unary(SERVICE + method)(request.SerializeToString())
        return found


async def statistics(gate: Gate, path: str = STATS) -> list[dict[str, Any]]:
    answer = await ask(gate, path=path, method="GET")
    assert answer.status == 200, answer.body
    found: list[dict[str, Any]] = answer.json["model_stats"]
    return found


def message(rows: int, model: str = "m") -> Any:
    made = wire.ModelInferRequest(model_name=model, raw_input_contents=[floats(*[1.0] * 2 * rows)])
    made.inputs.add(name="x", datatype="FP32", shape=[rows, 2])
    return made


async def test_a_configuration_is_made_of_the_metadata(site: Site) -> None:
    gate = await gate_to(site, plain_server(), plain_server())
    answer = await ask(gate, path="/v2/models/m/config", method="GET")
    assert answer.json["max_batch_size"] > 0
    assert answer.json["input"][0]["dims"] == [2]
    assert MARK in answer.json["parameters"]
    found = await by_grpc(gate, "ModelConfig", wire.ModelConfigRequest(name="m"))
    assert wire.ModelConfigResponse.FromString(found).config.output[0].name == "x"
    answer = await ask(gate, path="/v2/models/none/config", method="GET")
    assert (answer.status, error_of(answer)) == (404, "no such model")
    await idle(gate)


async def test_a_configuration_that_a_server_has_is_not_made(site: Site) -> None:
    server, other = ModelServer(), plain_server()
    server.management["ModelConfig"] = wire.ModelConfigResponse()
    server.management["ModelConfig"].config.name = "its own"
    gate = await gate_to(site, other, server)
    assert (await ask(gate, path="/v2/models/m/config", method="GET")).json["name"] == "its own"


async def test_inferences_are_counted_from_the_first_question_on(site: Site) -> None:
    servers = [plain_server(), plain_server()]
    gate = await counted_gate(site, *servers)
    assert (await ask(gate, plain(tensor([1.0, 2.0], shape=[1, 2])))).status == 200
    (found,) = await statistics(gate)
    assert (found["name"], found["version"], found["inference_count"]) == ("m", "3", 0)
    for _ in range(3):
        body, headers = binary((tensor([], shape=[2, 2]), floats(1, 2, 3, 4)))
        assert (await ask(gate, body, headers=headers)).status == 200
    await by_grpc(gate, "ModelInfer", message(4))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gate.port}") as channel:
        call = channel.stream_stream(SERVICE + "ModelStreamInfer")()
        for rows in (1, 1, 1):
            await call.write(message(rows).SerializeToString())
            await call.read()
        (found,) = await statistics(gate)
        assert found["inference_count"] == 3 * 2 + 4 + 3  # as they come: the stream goes on
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
    await by_grpc(gate, "ModelMetadata", wire.ModelMetadataRequest(name="m"))  # which is no inference
    await idle(gate)
    (found,) = await statistics(gate)
    assert (found["inference_count"], found["execution_count"]) == (3 * 2 + 4 + 3, 7)
    assert found["inference_stats"]["success"]["count"] == 7
    assert found["inference_stats"]["compute_infer"]["ns"] > 0
    (said,) = wire.ModelStatisticsResponse.FromString(
        await by_grpc(gate, "ModelStatistics", wire.ModelStatisticsRequest(name="m"))
    ).model_stats
    assert said.inference_count == 13
    assert [one["name"] for one in await statistics(gate, "/v2/models/stats")] == ["m"]
    await idle(gate)


async def test_failures_and_cached_answers_are_counted_apart(site: Site) -> None:
    server = plain_server()
    gate = await counted_gate(site, server, cached=True)
    await statistics(gate)
    for _ in range(3):
        assert (await ask(gate, plain(tensor([1.0, 2.0], shape=[1, 2])))).status == 200
    server.behave = failing(grpc.StatusCode.INTERNAL, "no")
    assert (await ask(gate, plain(tensor([5.0, 2.0], shape=[1, 2])))).status == 500
    server.behave = echo
    await idle(gate)
    (found,) = await statistics(gate)
    stats = found["inference_stats"]
    assert (found["inference_count"], stats["success"]["count"], stats["fail"]["count"]) == (1, 3, 1)
    assert (stats["cache_hit"]["count"], stats["cache_miss"]["count"]) == (2, 1)


async def test_the_sum_goes_on_over_workers(site: Site) -> None:
    gate = await counted_gate(site, plain_server())
    await statistics(gate)
    rows = ("m", [2, 200, 0, 0, 0, 2, 2, 0, 0, 0, 0, 9])
    answers: list[dict[str, Any]] = [{"a": [rows], "b": [rows]}, {"b": [rows], "c": [("m", [0] * 12)]}, {"c": []}]
    counts = gate.master.counts
    for found in answers:

        async def told(pool: str, found: dict[str, Any] = found) -> dict[str, Any]:
            return found

        counts._ask = told
        assert (await statistics(gate))[0]["inference_count"] == 4


async def test_models_that_are_not_there(site: Site) -> None:
    gate = await counted_gate(site, plain_server())
    answer = await ask(gate, path="/v2/models/none/stats", method="GET")
    assert (answer.status, error_of(answer)) == (404, "no such model")
    assert not gate.master.counts.counting("pool")
    assert await statistics(gate, "/v2/models/stats") == []
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await by_grpc(gate, "ModelStatistics", wire.ModelStatisticsRequest(version="1"))
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_pool_that_is_gone_is_forgotten(site: Site) -> None:
    gate = await counted_gate(site, plain_server())
    await statistics(gate)
    assert gate.master.counts.counting("pool")
    gate.master.calls.follow(())
    assert not gate.master.counts.counting("pool")
