"""Servers that talk without end to whoever checks them: nothing of a check stays, whether or not they read."""

from __future__ import annotations

import asyncio
import logging
import socket
from pathlib import Path

import pytest
from flooding_peer import FLOODS, IDLE_TALK, FloodingPeer

from lb.config.schema.file import HealthConfig
from lb.config.units import SECOND
from lb.health.check import CheckFailed
from lb.health.load_reports import LoadReportMonitor, ReportTarget
from lb.health.registry import build

CHECKS = 10


async def no_connection(peer: FloodingPeer) -> None:
    async with asyncio.timeout(20):
        while peer.open:
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("kind", ["grpc", "oip"])
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX])
@pytest.mark.parametrize("flood", FLOODS)
async def test_connections_of_checks_end(kind: str, family: socket.AddressFamily, flood: str, tmp_path: Path) -> None:
    sock = None
    if family == socket.AF_UNIX:
        sock = socket.socket(family)
        sock.bind(str(tmp_path / "s"))
        sock.listen(128)
    peer = FloodingPeer(FLOODS[flood])
    await peer.start(sock)
    check = build(HealthConfig(type=kind, timeout=300_000_000))
    for _ in range(CHECKS):
        with pytest.raises((CheckFailed, TimeoutError)):
            async with asyncio.timeout(0.3):
                await check.run(peer.address)
    assert peer.made > 1
    await no_connection(peer)
    peer.close()


@pytest.mark.parametrize("flood", FLOODS | IDLE_TALK)
async def test_a_check_fails_however_long_it_may_take(flood: str) -> None:
    peer = FloodingPeer((FLOODS | IDLE_TALK)[flood], reads=True, waits=flood in IDLE_TALK)
    await peer.start()
    with pytest.raises(CheckFailed, match=r"frames and no answer|HTTP/2|reset"):
        async with asyncio.timeout(30):
            await build(HealthConfig(type="grpc")).run(peer.address)
    await no_connection(peer)
    peer.close()


@pytest.mark.parametrize("flood", ["ping", "answers to PINGs"])
async def test_load_reports_from_a_server_that_floods(flood: str, caplog: pytest.LogCaptureFixture) -> None:
    peer = FloodingPeer((FLOODS | IDLE_TALK)[flood], reads=True, waits=flood in IDLE_TALK)
    await peer.start()
    monitor = LoadReportMonitor(lambda *_: None)
    with caplog.at_level(logging.WARNING, "tidegate.health"):
        monitor.update([ReportTarget("pool", peer.address, 3, SECOND)])
        async with asyncio.timeout(30):
            while not any("frames and no answer" in record.getMessage() for record in caplog.records):
                await asyncio.sleep(0.02)
    await monitor.close()
    await no_connection(peer)
    peer.close()
