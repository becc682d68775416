"""The simulation of scaling beside the real daemon: emulated servers that start, serve and stop, under a real load.

It measures, so it has a target of its own: `make test-scaling-agreement`, on a machine that does nothing else.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from array import array
from collections.abc import Callable
from typing import Any

import aiohttp
from daemon import ROOT, Daemon, eventually, http_listener, route

from lb.config.units import MILLISECOND, SECOND
from lb.scaling.simulate.cli import rule
from lb.scaling.simulate.run import Setup, simulate
from lb.scaling.simulate.trace import Trace

Start = Callable[..., Daemon]
# So long that a busy machine's own delays are little of it.
SERVICE = 400 * MILLISECOND
OBJECTIVE = 2 * SECOND
SLEEP = 6
MOST = 6
BIN = 250 * MILLISECOND
# Requests/s, seconds: nothing to do, more than one replica can, and less again.
LOAD = ((1.0, 10), (8.0, 35), (2.0, 25))
BODY = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [0.5]}]}


def config() -> dict[str, Any]:
    emulator = (
        f"-m bench.emulator --servers 1 --port {{port}} --execution serial --time constant:{SERVICE // 1_000_000}"
    )
    return {
        "workers": 1,
        "listeners": {"web": http_listener(route("/", "p", retry="off", hedge="off"))},
        "pools": {
            "p": {
                "protocol": "http",
                "policy": "least_request",
                "max_in_flight": 1,
                "queue": {"max": 10_000, "timeout": "120s"},
                "serve": {
                    # A replica that takes its time, as one with a large model does.
                    "command": ["sh", "-c", f"sleep {SLEEP}; exec {sys.executable} {emulator}"],
                    "env": {"PYTHONPATH": str(ROOT)},
                    "min": 1,
                    "max": MOST,
                    "start_timeout": "60s",
                },
                "scaling": {"kpa": {"container_concurrency": 1}},
            }
        },
    }


class Played:
    """Requests at random times; what came of each, and the replicas meanwhile."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.arrived: list[int] = []
        self.late = 0
        self.replica_seconds = 0.0
        self.starts: list[float] = []

    async def run(self) -> None:
        draw = random.Random(1)
        url = f"http://127.0.0.1:{self.daemon.port()}/v2/models/m/infer"
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            begun = time.monotonic()
            watching = asyncio.create_task(self._watch(begun))
            asked, at, end = [], 0.0, 0.0
            for rate, seconds in LOAD:
                end += seconds
                at = max(at, end - seconds)
                while (at := at + draw.expovariate(rate)) < end:
                    await asyncio.sleep(max(0.0, begun + at - time.monotonic()))
                    self.arrived.append(round((time.monotonic() - begun) * SECOND))
                    asked.append(asyncio.create_task(self._ask(session, url)))
            await asyncio.sleep(max(0.0, begun + end - time.monotonic()))
            watching.cancel()
            await asyncio.gather(*asked)

    async def _ask(self, session: aiohttp.ClientSession, url: str) -> None:
        begun = time.monotonic()
        async with session.post(url, json=BODY) as response:
            assert response.status == 200
            await response.read()
        self.late += time.monotonic() - begun > OBJECTIVE / SECOND

    async def _watch(self, begun: float) -> None:
        before, waiting = begun, {}
        while True:
            managed = (await asyncio.to_thread(self.daemon.pool, "p"))["managed"]
            now = time.monotonic()
            alive = [r for r in managed["replicas"] if r["state"] != "stopped"]
            self.replica_seconds += len(alive) * (now - before)
            before = now
            for replica in alive:
                first = waiting.setdefault(replica["index"], now)
                if replica["state"] == "ready" and first is not None:
                    if first > begun + 1:
                        self.starts.append(now - first)
                    waiting[replica["index"]] = None
            await asyncio.sleep(0.2)

    def trace(self, later: int) -> Trace:
        """What arrived, behind so many empty bins."""
        counts = array("q", [0] * (later + sum(seconds for _, seconds in LOAD) * SECOND // BIN))
        for at in self.arrived:
            counts[min(later + at // BIN, len(counts) - 1)] += 1
        return Trace(BIN, counts)


async def test_the_simulation_says_what_the_daemon_does(start: Start) -> None:
    """Late requests and replica seconds within a tenth.

    The rule decides every two seconds. Where between two decisions the load rises is worth a third of the late
    requests, and is the daemon's own affair: it is simulated for all bins of those two seconds.
    """
    daemon = start(config())
    await asyncio.to_thread(eventually, lambda: len(daemon.pool("p")["endpoints"]) == 1, "one server", 60)
    played = Played(daemon)
    await played.run()
    # The simulation has one start time. Where replicas start at once on few cores, the mean has the same capacity.
    start_time = round(sum(played.starts) / len(played.starts) * SECOND)
    setup = Setup(SERVICE, 1, start_time, OBJECTIVE, 1, MOST)
    phases = rule("kpa", setup).interval // BIN
    results = [simulate(played.trace(later), setup, rule("kpa", setup)) for later in range(phases)]
    late = [result.violations for result in results]
    paid = [result.replica_seconds for result in results]
    print(f"late: {played.late}, simulated {late}; replica seconds: {played.replica_seconds:.0f}, simulated {paid}")
    assert all(result.requests == len(played.arrived) for result in results)
    assert 0.9 * min(paid) < played.replica_seconds < 1.1 * max(paid)
    assert 0.9 * min(late) < played.late < 1.1 * max(late)
