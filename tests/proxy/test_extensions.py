"""Which extensions a pool announces: those that all endpoints have, that its route allows, and that work here."""

from __future__ import annotations

import grpc
import pytest
from datapath import Gate, Site
from infer_site import gate_to, idle
from oip_site import ModelServer, ask, request

from lb.config.plan.plan import SequencePlan
from lb.inference.server_calls import Kind
from lb.wire import grpc_service_pb2 as wire

PATH = "/inference.GRPCInferenceService/ServerMetadata"
TRITON = [
    "classification", "sequence", "model_repository", "model_repository(unload_dependents)", "schedule_policy",
    "model_configuration", "system_shared_memory", "cuda_shared_memory", "binary_tensor_data", "parameters",
    "statistics", "trace", "logging",
]  # fmt: skip
ALWAYS = [
    "binary_tensor_data",
    "generate",
    "classification",
    "schedule_policy",
    "model_configuration",
    "parameters",
    "statistics",
]


def server(extensions: list[str]) -> ModelServer:
    made = ModelServer()
    made.management["ServerMetadata"] = wire.ServerMetadataResponse(name="s", version="9", extensions=extensions)
    return made


async def extensions_of(gate: Gate) -> list[str]:
    """Over REST, and as gRPC has it, too."""
    answer = await ask(gate, path="/v2", method="GET")
    assert (answer.json["name"], answer.json["version"]) == ("s", "9")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gate.port}") as channel:
        said = wire.ServerMetadataResponse.FromString(await channel.unary_unary(PATH)(b""))
    assert (said.name, list(said.extensions)) == ("s", answer.json["extensions"])
    await idle(gate)
    return list(said.extensions)


async def test_what_works_without_a_word_of_the_route(site: Site) -> None:
    gate = await gate_to(site, server([*TRITON, "something_new"]), server(TRITON))
    assert await extensions_of(gate) == ALWAYS


async def test_what_the_route_allows(site: Site) -> None:
    for kind, more in (
        (Kind.MODELS, ["model_repository", "model_repository(unload_dependents)"]),
        (Kind.SETTINGS, ["trace", "logging"]),
        (Kind.SHARED_MEMORY, ["system_shared_memory", "cuda_shared_memory"]),
    ):
        gate = await gate_to(site, server(TRITON), route={"server_calls": int(kind)})
        assert set(await extensions_of(gate)) == {*ALWAYS, *more}


async def test_sequences_where_they_are_kept_together(site: Site) -> None:
    gate = await gate_to(site, server(TRITON), pool={"sequence": SequencePlan(10**9, 10**9)})
    assert "sequence" in await extensions_of(gate)


async def test_what_all_endpoints_have(site: Site) -> None:
    gate = await gate_to(site, server(["classification", "statistics"]), server(["statistics"]), server(TRITON))
    assert await extensions_of(gate) == ["binary_tensor_data", "generate", "statistics", "model_configuration"]


async def test_what_is_made_up_for(site: Site) -> None:
    gate = await gate_to(site, server([]))
    assert await extensions_of(gate) == ["binary_tensor_data", "generate", "model_configuration", "statistics"]


async def test_endpoints_that_do_not_answer_have_no_say(site: Site) -> None:
    away = server([])
    gate = await gate_to(site, away, server(["classification", "statistics"]))
    await away.server.stop(None)
    assert "classification" in await extensions_of(gate)
    gate.master.down = {endpoint.address for endpoint in gate.plan.pools[0].endpoints}
    assert (await ask(gate, path="/v2", method="GET")).status == 503


async def test_an_answer_that_is_none(site: Site) -> None:
    broken = ModelServer()
    broken.management["ServerMetadata"] = b"\xff"
    gate = await gate_to(site, broken)
    assert (await ask(gate, path="/v2", method="GET")).status == 500
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await extensions_over_grpc(gate)
    assert error.value.code() is grpc.StatusCode.INTERNAL
    assert (await ask(gate, path="/v2", method="POST")).status == 405


async def extensions_over_grpc(gate: Gate) -> bytes:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gate.port}") as channel:
        found: bytes = await channel.unary_unary(PATH)(b"")
        return found


async def test_grpc_web(site: Site) -> None:
    gate = await gate_to(site, server(TRITON))
    answer = await gate.exchange(request("POST", PATH, bytes(5), {"Content-Type": "application/grpc-web"}))
    assert b"schedule_policy" in answer
    assert b"cuda_shared_memory" not in answer
