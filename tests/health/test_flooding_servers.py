"""Servers that make a check's connection answer without end, and never read: nothing of the check stays."""

from __future__ import annotations

import asyncio

import pytest
from flooding_peer import FLOODS, FloodingPeer

from lb.config.schema import HealthConfig
from lb.health.check import CheckFailed
from lb.health.registry import build

CHECKS = 10


@pytest.mark.parametrize("kind", ["grpc", "oip"])
@pytest.mark.parametrize("flood", ["ping", "settings"])
async def test_connections_of_checks_end(kind: str, flood: str) -> None:
    peer = FloodingPeer(FLOODS[flood])
    await peer.start()
    check = build(HealthConfig(type=kind, timeout=300_000_000))
    for _ in range(CHECKS):
        with pytest.raises((CheckFailed, TimeoutError)):
            async with asyncio.timeout(0.3):
                await check.run(peer.address)
    assert peer.made > 1
    async with asyncio.timeout(20):
        while peer.open:
            await asyncio.sleep(0.02)
    peer.close()
