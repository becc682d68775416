"""What the tests of inference over HTTP share: a gate to model servers."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import grpc
from datapath import Gate, Site, settle
from oip_site import (
    OIP,
    Answer,
    ModelServer,
    echo,
)

MIB = 1 << 20


async def gate_to(site: Site, *servers: ModelServer, cached: bool = False, **options: Any) -> Gate:
    addresses = [await site.model(server) for server in servers]
    return await site.gate(
        addresses, pool={**OIP, **options.pop("pool", {})}, cache_size=8 * MIB if cached else 0, **options
    )


async def idle(gate: Gate) -> None:
    """Everything has been given back."""
    await settle(lambda: gate.in_flight() == 0 and gate.proxy.busy() == 0, "an exchange is left")
    series = gate.total(2)
    assert series["started"] == series["finished"]


def error_of(answer: Answer) -> str:
    assert answer.headers["content-type"] == "application/json"
    body = json.loads(answer.body)
    assert list(body) == ["error"]
    return str(body["error"])


class Held(ModelServer):
    """Answers only when `release` is set."""

    def __init__(self) -> None:
        super().__init__(self.hold)
        self.release = asyncio.Event()
        self.then = echo

    async def hold(self, sent: Any, context: grpc.aio.ServicerContext) -> Any:
        await self.release.wait()
        return await self.then(sent, context)
