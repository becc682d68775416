"""Checks over gRPC that use one connection after another: when a new one is made, and that none stays."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from health_servers import NOT_SERVING, SERVING, grpc_server, inference_server
from readiness import Inference

from lb.config.schema.file import HealthConfig
from lb.health.check import Check, CheckFailed, Means
from lb.health.registry import build
from lb.net.poller import Poller


class Relay:
    """In front of a server: counts connections, and can close or delay them."""

    def __init__(self, to: str) -> None:
        self.host, _, self.port = to.rpartition(":")
        self.made = self.open = 0
        self.writers: set[asyncio.StreamWriter] = set()
        self.silent = False

    async def start(self) -> Relay:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self.server.sockets[0].getsockname()[1]}"
        return self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.made += 1
        self.open += 1
        behind, there = await asyncio.open_connection(self.host, int(self.port))
        self.writers |= {writer, there}
        await asyncio.gather(self._copy(reader, there), self._copy(behind, writer))
        self.writers -= {writer, there}
        self.open -= 1

    async def _copy(self, source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await source.read(65_536):
                if not self.silent:
                    to.write(data)
        to.close()

    def cut(self) -> None:
        for writer in self.writers:
            writer.close()

    async def none_open(self) -> None:
        async with asyncio.timeout(30):
            while self.open:
                await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def checks(**config: Any) -> AsyncIterator[Check]:
    poller = Poller(asyncio.get_running_loop())
    with contextlib.ExitStack() as closing:
        yield build(HealthConfig(**config), None, Means(poller, closing))
    poller.close()


async def test_a_connection_is_kept_and_made_anew_once_in_a_while(tmp_path: Path) -> None:
    async with grpc_server(socket.AF_INET, tmp_path, {"": SERVING}) as (address, _):
        relay = await Relay(address).start()
        async with checks(type="grpc") as check:
            for _ in range(30):
                await check.run(relay.address)
            assert relay.made == 1
            for _ in range(30):
                await check.run(relay.address)
            assert relay.made == 2
            await check.run(relay.address)
            assert relay.made == 3
        await relay.none_open()
        once = build(HealthConfig(type="grpc"))
        for _ in range(3):
            await once.run(relay.address)
        assert relay.made == 6, "a check for any address keeps none"
        await relay.none_open()


async def test_a_connection_that_was_closed_meanwhile_is_no_failure(tmp_path: Path) -> None:
    async with grpc_server(socket.AF_INET, tmp_path, {"": SERVING}) as (address, _):
        relay = await Relay(address).start()
        async with checks(type="grpc") as check:
            for made in (1, 2, 3):
                await check.run(relay.address)
                assert relay.made == made
                relay.cut()
                await relay.none_open()


async def test_what_fails_is_asked_over_a_new_connection(tmp_path: Path) -> None:
    async with grpc_server(socket.AF_INET, tmp_path, {"": SERVING}) as (address, servicer):
        relay = await Relay(address).start()
        async with checks(type="grpc", service="none") as check:
            for made in (1, 2):
                with pytest.raises(CheckFailed, match="unknown service"):
                    await check.run(relay.address)
                assert relay.made == made
        async with checks(type="grpc") as check:
            await check.run(relay.address)
            await servicer.set("", NOT_SERVING)
            with pytest.raises(CheckFailed, match="NOT_SERVING"):
                await check.run(relay.address)
            await servicer.set("", SERVING)
            await check.run(relay.address)
            relay.server.close()
            relay.cut()
            await relay.none_open()
            with pytest.raises(CheckFailed, match="refused"):
                await check.run(relay.address)


async def test_a_check_that_is_not_answered_in_time_keeps_nothing(tmp_path: Path) -> None:
    async with grpc_server(socket.AF_INET, tmp_path, {"": SERVING}) as (address, _):
        relay = await Relay(address).start()
        async with checks(type="grpc") as check:
            await check.run(relay.address)
            relay.silent = True
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await check.run(relay.address)
            await relay.none_open()
            relay.silent = False
            await check.run(relay.address)
            assert relay.made == 2


async def test_checks_of_the_inference_protocol_keep_theirs(tmp_path: Path) -> None:
    async with inference_server(socket.AF_INET, tmp_path, Inference({"m": "READY"})) as address:
        relay = await Relay(address).start()
        async with checks(type="oip", models="index") as check:
            for _ in range(5):
                assert await check.run(relay.address) == {"m": True}
            assert relay.made == 1
        await relay.none_open()
