"""`tidegate models`: what model servers serve, as they say it themselves, and the model cache, which is theirs."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console

from lb.cli.admin import AdminClient
from lb.cli.status import cell, table_of
from lb.config.units import format_size
from lb.errors import TidegateError
from lb.health.check import CheckFailed
from lb.health.checks.grpc_connection import CallFailed, grpc_connection
from lb.wire import grpc_service_pb2 as wire

_SERVICE = "/inference.GRPCInferenceService/"
_TIMEOUT = 5.0  # s, for all that is asked of one server
# What our model server says of a model in its configuration's parameters.
_PROVIDER, _FILES, _RESIDENT = "execution_provider", "file_bytes", "resident_bytes"


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A version of a model at one server. What a server does not say is "" or None; sizes are bytes: of the model's
    files, and of memory that was taken as it was loaded."""

    server: str
    name: str
    version: str
    state: str
    provider: str = ""
    file_bytes: int | None = None
    resident_bytes: int | None = None
    reason: str = ""


def servers_of(client: AdminClient) -> list[str]:
    """The endpoints of the daemon's pools of model servers. Raises AdminError."""
    pools = client.status()["pools"]
    return [one["address"] for pool in pools if pool["protocol"] == "oip" for one in pool["endpoints"]]


def list_models(servers: Sequence[str], as_json: bool) -> int:
    """Prints what they have; 1 if one of them cannot be asked."""
    found, failures = asyncio.run(_ask_all(servers))
    if as_json:
        print(json.dumps([asdict(model) for model in found], indent=2))
    else:
        console = Console(highlight=False, width=None if sys.stdout.isatty() else 400)
        table = table_of("server", "model", "version", "state", "provider", "files", "memory", "reason")
        for model in found:
            sizes = ("" if size is None else _about(size) for size in (model.file_bytes, model.resident_bytes))
            words = (model.server, model.name, model.version, model.state, model.provider, *sizes, model.reason)
            table.add_row(*map(cell, words))
        console.print(table)
    for failure in failures:
        print(f"tidegate: {failure}", file=sys.stderr)
    return 1 if failures else 0


def cache(arguments: Sequence[str]) -> None:
    """Replaces this process by the model server's command. Raises TidegateError if that is not installed."""
    if importlib.util.find_spec("backend") is None:
        raise TidegateError("the model server is not installed, whose cache this is")
    os.execv(sys.executable, [sys.executable, "-P", "-m", "backend", "cache", *arguments])  # noqa: S606


async def _ask_all(servers: Sequence[str]) -> tuple[list[ServedModel], list[str]]:
    said = await asyncio.gather(*map(_ask, servers), return_exceptions=True)
    found: list[ServedModel] = []
    failures = []
    for server, answer in zip(servers, said, strict=True):
        if isinstance(answer, list):
            found += answer
        elif isinstance(answer, CheckFailed | TimeoutError):
            failures.append(f"{server}: {answer or f'no answer within {_TIMEOUT:g} s'}")
        else:
            raise answer
    return found, failures


async def _ask(server: str) -> list[ServedModel]:
    """Raises CheckFailed, TimeoutError."""
    async with asyncio.timeout(_TIMEOUT), grpc_connection(server, None) as connection:
        request = wire.RepositoryIndexRequest().SerializeToString()
        index = wire.RepositoryIndexResponse.FromString(await connection.unary(_SERVICE + "RepositoryIndex", request))
        found = []
        for one in index.models:
            state = one.state.rpartition(".")[2]  # MLServer: State.READY
            facts: dict[str, Any] = {}
            if state == "READY":
                asked = wire.ModelConfigRequest(name=one.name, version=one.version).SerializeToString()
                try:
                    said = await connection.unary(_SERVICE + "ModelConfig", asked)
                except CallFailed:  # KServe's and MLServer's have none
                    said = b""
                facts = _facts(wire.ModelConfigResponse.FromString(said).config)
            found.append(ServedModel(server, one.name, one.version, state, **facts, reason=one.reason))
    return found


def _facts(config: Any) -> dict[str, Any]:
    said = {name: parameter.string_value for name, parameter in config.parameters.items()}
    sizes = {name: int(text) for name in (_FILES, _RESIDENT) if (text := said.get(name, "")).isdecimal()}
    return {"provider": said.get(_PROVIDER, ""), **sizes}


def _about(size: int) -> str:
    """A size in the largest unit of which there is one, rounded."""
    unit = 1 << max(size.bit_length() - 1, 0) // 10 * 10
    return format_size(round(size / unit) * unit)
