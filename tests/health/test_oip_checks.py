"""What the OIP check makes of a server's answers about itself and its models."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest
from health_servers import SERVING, grpc_server, inference_server
from readiness import Inference

from lb.config.schema.file import HealthConfig
from lb.health.check import NO_INDEX, CheckFailed
from lb.health.registry import build

STATES = {"a": "READY", "b": "UNAVAILABLE", "c": "LOADING"}


@pytest.mark.parametrize(
    ("models", "expected"),
    [
        (None, None),
        (["a", "b", "c", "none"], {"a": True, "b": False, "c": False, "none": False}),
        ("index", {"a": True, "b": False, "c": False}),
    ],
)
async def test_oip_tells_which_models_are_ready(tmp_path: Path, models: Any, expected: dict[str, bool] | None) -> None:
    async with inference_server(socket.AF_INET, tmp_path, Inference(STATES)) as address:
        assert await asyncio.wait_for(build(HealthConfig(type="oip", models=models)).run(address), 20) == expected


@pytest.mark.parametrize("status", ["UNKNOWN", "INTERNAL", "INVALID_ARGUMENT", "FAILED_PRECONDITION"])
async def test_oip_takes_an_error_about_a_model_for_not_ready_where_the_server_is(tmp_path: Path, status: str) -> None:
    """KServe's server says UNKNOWN of a model that it does not have: it is ready all the same, and so are others."""
    inference = Inference({"a": "READY", "b": status})
    async with inference_server(socket.AF_INET, tmp_path, inference) as address:
        check = build(HealthConfig(type="oip", models=["a", "b"]))
        assert await asyncio.wait_for(check.run(address), 20) == {"a": True, "b": False}
        assert inference.asked.count("ServerReady") == 2, "asked again, for the error may be that of the server"


async def test_oip_fails_when_a_model_cannot_be_asked_about(tmp_path: Path) -> None:
    inference = Inference({"a": "READY", "b": "RESOURCE_EXHAUSTED"})
    async with inference_server(socket.AF_INET, tmp_path, inference) as address:
        with pytest.raises(CheckFailed, match="RESOURCE_EXHAUSTED"):
            await asyncio.wait_for(build(HealthConfig(type="oip", models=["a", "b"])).run(address), 20)


async def test_oip_takes_a_model_for_ready_when_any_version_is(tmp_path: Path) -> None:
    versions = {"a:1": "UNAVAILABLE", "a:2": "READY", "b:1": "LOADING", "b:2": "UNAVAILABLE"}
    async with inference_server(socket.AF_INET, tmp_path, Inference(versions)) as address:
        found = await asyncio.wait_for(build(HealthConfig(type="oip", models="index")).run(address), 20)
    assert found == {"a": True, "b": False}


async def test_oip_asks_for_models_that_the_index_names_without_a_state(tmp_path: Path) -> None:
    """As Triton does with what its repository has and nobody loaded; other servers may leave out the state of all."""
    inference = Inference({"loaded": "READY", "never": "UNAVAILABLE", "ready": "READY", "gone": "UNAVAILABLE"})
    inference.silent = frozenset(("never", "ready"))
    async with inference_server(socket.AF_INET, tmp_path, inference) as address:
        found = await asyncio.wait_for(build(HealthConfig(type="oip", models="index")).run(address), 20)
    assert found == {"loaded": True, "never": False, "ready": True, "gone": False}
    assert sorted(call for call in inference.asked if "Model" in call) == ["ModelReady never", "ModelReady ready"]


async def test_oip_reads_states_as_mlserver_writes_them(tmp_path: Path) -> None:
    states = {"a": "State.READY", "b": "State.UNAVAILABLE", "c": "State.LOADING", "d": "NOT_READY", "e": "READY.NOT"}
    async with inference_server(socket.AF_INET, tmp_path, Inference(states)) as address:
        found = await asyncio.wait_for(build(HealthConfig(type="oip", models="index")).run(address), 20)
    assert found == {"a": True, "b": False, "c": False, "d": False, "e": False}


async def test_oip_judges_a_server_without_an_index_by_its_own_readiness(tmp_path: Path) -> None:
    inference = Inference(STATES)
    inference.index = False
    async with inference_server(socket.AF_INET, tmp_path, inference) as address:
        check = build(HealthConfig(type="oip", models="index"))
        assert await asyncio.wait_for(check.run(address), 20) is NO_INDEX
        inference.ready = False
        with pytest.raises(CheckFailed, match="not ready"):
            await asyncio.wait_for(check.run(address), 20)


async def test_oip_passes_over_names_that_are_not_fit_for_the_log(tmp_path: Path) -> None:
    names = ("a", "", "b\nERROR forged", "\x1b[2J", "c" * 257)
    inference = Inference(dict.fromkeys(names, "READY"))
    async with inference_server(socket.AF_INET, tmp_path, inference) as address:
        found = await asyncio.wait_for(build(HealthConfig(type="oip", models="index")).run(address), 20)
    assert found == {"a": True}


async def test_oip_fails_when_the_server_is_not_ready_and_asks_no_further(tmp_path: Path) -> None:
    inference = Inference(STATES, ready=False)
    async with inference_server(socket.AF_INET, tmp_path, inference) as address:
        for models in (None, ["digits"]):
            with pytest.raises(CheckFailed, match="not ready"):
                await asyncio.wait_for(build(HealthConfig(type="oip", models=models)).run(address), 20)
    assert inference.asked == ["ServerReady"] * 2


@pytest.mark.parametrize(
    ("states", "passes"),
    [
        ({"a": "READY", "b": "UNLOADING"}, True),
        ({"a": "READY", "b": "LOADING"}, True),
        ({"a": "READY", "b": "UNAVAILABLE"}, False),
        ({"a": "READY"}, False),  # it is about to end
        ({"b": "LOADING"}, False),
    ],
)
async def test_oip_takes_a_server_for_ready_while_it_changes_one_model(
    tmp_path: Path, states: dict[str, str], passes: bool
) -> None:
    """Triton is not ready then, and serves the others."""
    inference = Inference(states, ready=False)
    async with inference_server(socket.AF_INET, tmp_path, inference) as address:
        check = build(HealthConfig(type="oip", models="index"))
        if passes:
            assert await asyncio.wait_for(check.run(address), 20) == {name: s == "READY" for name, s in states.items()}
        else:
            with pytest.raises(CheckFailed, match="not ready"):
                await asyncio.wait_for(check.run(address), 20)


async def test_oip_fails_on_a_server_without_the_protocol(tmp_path: Path) -> None:
    async with grpc_server(socket.AF_INET, tmp_path, {"": SERVING}) as (address, _):
        with pytest.raises(CheckFailed, match="UNIMPLEMENTED"):
            await asyncio.wait_for(build(HealthConfig(type="oip")).run(address), 20)
