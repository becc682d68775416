"""Servers of both versions, and Tidegate in front of each, on a loop that runs whenever a test asks it to."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from datapath import SECOND, Gate, Site
from exchanges import Server
from http2_peers import Http2Server

from lb.config.plan.plan import HopPlan


@dataclass
class Rig:
    runner: asyncio.Runner
    http1: Server
    http2: Http2Server
    to_http1: Gate
    to_http2: Gate
    direct: int  # the HTTP/2 server's own port


@contextlib.contextmanager
def running() -> Iterator[Rig]:
    site = Site()
    listener = {
        "hop": HopPlan(via="gate"), "max_header_bytes": 65536, "max_headers": 200, "header_timeout_ns": SECOND,
        "body_timeout_ns": SECOND,
    }  # fmt: skip

    async def start(runner: asyncio.Runner) -> Rig:
        http1, http2 = Server(), Http2Server()
        addresses = [await site.endpoint(http1), await site.endpoint(http2)]
        gates = [
            await site.gate([address], listener=listener, pool={"retries": 0, "protocol": protocol})
            for address, protocol in zip(addresses, ("http", "http2"), strict=True)
        ]
        return Rig(runner, http1, http2, *gates, int(addresses[1].rpartition(":")[2]))

    async def stop() -> None:
        for gate in site.gates:
            gate.proxy.close()
        for listening in site.servers:
            listening.close()
        await asyncio.sleep(0)

    with asyncio.Runner() as runner:
        rig = runner.run(start(runner))
        yield rig
        assert rig.to_http1.in_flight() == rig.to_http2.in_flight() == 0
        runner.run(stop())
