"""Calls of the inference protocol whose effect would be one model server's alone: refused over gRPC as over REST."""

from __future__ import annotations

import grpc
import pytest
from datapath import Gate, Site
from hedge_site import Multiplexed, call, idle
from infer_site import gate_to
from oip_site import ModelServer, ask, request
from routing_site import routing_gate

SERVICE = "/inference.GRPCInferenceService/"
CALLS = {
    "RepositoryModelLoad": "/v2/repository/models/m/load",
    "RepositoryModelUnload": "/v2/repository/models/m/unload",
    "SystemSharedMemoryStatus": "/v2/systemsharedmemory/status",
    "SystemSharedMemoryRegister": "/v2/systemsharedmemory/region/r/register",
    "SystemSharedMemoryUnregister": "/v2/systemsharedmemory/unregister",
    "CudaSharedMemoryStatus": "/v2/cudasharedmemory/status",
    "CudaSharedMemoryRegister": "/v2/cudasharedmemory/region/r/register",
    "CudaSharedMemoryUnregister": "/v2/cudasharedmemory/unregister",
    "TraceSetting": "/v2/trace/setting",
    "LogSettings": "/v2/logging",
}


@pytest.mark.parametrize("method", CALLS)
async def test_refused_with_the_reason_that_rest_gives(site: Site, method: str) -> None:
    server = ModelServer()
    gate = await routing_gate(
        site, [{"pool": "p"}], {"p": {"protocol": "oip", "endpoints": [await site.model(server)]}}
    )
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call(gate, SERVICE + method, b"\n\1m")
    assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED
    rest = await ask(gate, b"", CALLS[method])
    assert rest.status == 404
    assert error.value.details() == rest.json["error"]
    await idle(gate)


async def test_refused_over_grpc_web(site: Site) -> None:
    gate = await routing_gate(
        site, [{"pool": "p"}], {"p": {"protocol": "oip", "endpoints": [await site.model(ModelServer())]}}
    )
    answer = await gate.exchange(
        request("POST", SERVICE + "RepositoryModelLoad", bytes(5), {"Content-Type": "application/grpc-web"})
    )
    assert b"rpc-status: 12\r\n" in answer.lower()
    assert b"loading and unloading" in answer


@pytest.mark.parametrize("method", ["RepositoryIndex", "ServerLive", "ModelConfig"])
async def test_what_only_reads_is_passed_on(site: Site, method: str) -> None:
    endpoint = Multiplexed("a", ["answer"])
    pool = {"protocol": "oip", "endpoints": [await site.endpoint(endpoint)]}
    gate = await routing_gate(site, [{"pool": "p"}], {"p": pool})
    assert await call(gate, SERVICE + method, b"") == b"a"


async def test_a_pool_of_protocol_grpc_passes_them_on(site: Site) -> None:
    endpoint = Multiplexed("a", ["answer"])
    pool = {"protocol": "grpc", "endpoints": [await site.endpoint(endpoint)]}
    gate = await routing_gate(site, [{"pool": "p"}], {"p": pool})
    assert await call(gate, SERVICE + "RepositoryModelLoad", b"") == b"a"


async def details_of(gate: Gate, path: str) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call(gate, path, b"")
    assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED
    await idle(gate)
    return str(error.value.details())


async def test_a_method_that_the_protocol_has_not_is_named_and_those_that_it_has(site: Site) -> None:
    """Some servers say "Method not found!", and which server is asked would say nothing of the others."""
    server = ModelServer()
    gate = await gate_to(site, server)
    said = await details_of(gate, SERVICE + "ModelInferr")
    assert said == (
        "inference.GRPCInferenceService has no method 'ModelInferr' here; it has ModelInfer, ModelStreamInfer, "
        "ServerLive, ServerReady, ModelReady, ServerMetadata, ModelMetadata, ModelConfig, ModelStatistics, "
        "RepositoryIndex"
    )
    assert len(await details_of(gate, SERVICE + "x" * 5000)) < 400
    assert server.requests == []


async def test_a_method_that_the_model_server_has_not_is_named(site: Site) -> None:
    gate = await gate_to(site, ModelServer())
    missing = "the model server has no method 'RepositoryIndex' of inference.GRPCInferenceService"
    assert await details_of(gate, SERVICE + "RepositoryIndex") == missing
    assert await details_of(gate, SERVICE + "ModelMetadata") == "ModelMetadata is not here"  # its own word
    assert await details_of(gate, SERVICE + "ModelConfig") == "ModelMetadata is not here"  # nor what would stand in
    foreign = await details_of(gate, "/tensorflow.serving.PredictionService/Predict")
    assert foreign.startswith(
        "the model server has no method 'Predict' of tensorflow.serving.PredictionService; offered is "
        "inference.GRPCInferenceService with ModelInfer, "
    )
    rest = await ask(gate, b"", "/v2/repository/index")
    assert (rest.status, rest.json["error"]) == (501, missing)


async def test_an_endpoint_that_gives_no_message(site: Site) -> None:
    endpoint = Multiplexed("a", ["12"])
    pool = {"protocol": "oip", "endpoints": [await site.endpoint(endpoint)]}
    gate = await routing_gate(site, [{"pool": "p"}], {"p": pool})
    assert (await details_of(gate, SERVICE + "ServerLive")).startswith("the model server has no method 'ServerLive'")
