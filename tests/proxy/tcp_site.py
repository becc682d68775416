"""Endpoints and helpers for the tests of TCP sessions."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from datapath import Gate, settle

Reader = asyncio.StreamReader


Writer = asyncio.StreamWriter


TCP: dict[str, Any] = {"protocol": "tcp"}


BLOCK = random.Random(7).randbytes(1 << 18)


async def echo(reader: Reader, writer: Writer) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def idle(gate: Gate) -> None:
    """Everything has been given back."""
    await settle(lambda: gate.in_flight() == 0 and gate.proxy.busy() == 0, "a session is left")
    series = gate.total(1)
    assert series["started"] == series["finished"]
    assert gate.proxy.stats()["connections"] == 0


async def read_all(reader: Reader) -> bytes:
    return await asyncio.wait_for(reader.read(-1), 30)
