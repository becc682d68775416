"""Random configurations, reloaded one after another under traffic, while workers die, endpoints stand still and the
operator changes what he likes: every request gets an end, nothing breaks, and nothing is left in flight.

    make chaos                          two minutes
    make chaos CHAOS_SECONDS=600        longer
    make chaos CHAOS_SEED=7             other configurations than last time's

Not part of `make test`.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from chaos_clients import Chaos
from chaos_config import Ports, Roll
from daemon import Daemon, environment, eventually, route
from hostile_guests import PATH, POOL, attackers, flooding_peers, hostile_pool, victims
from ports import free_port

SECONDS = float(os.environ.get("TIDEGATE_CHAOS_SECONDS", "120"))
SEED = int(os.environ.get("TIDEGATE_CHAOS_SEED", "1"))
ENDPOINTS = 5
ATTACKERS = 3
CLIENTS = {"http": 14, "grpc": 5, "tcp": 3, "udp": 2}
# What no run may have in its log. Errors of endpoints are logged, too: these are the daemon's own.
FAULTS = re.compile(r"Traceback|Sanitizer|runtime error:|exception was never|internal error|signal (?!SIGKILL)")


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[str]]]:
    script = str(Path(__file__).with_name("chaos_server.py"))
    made = [
        subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True, env=environment())
        for _ in range(ENDPOINTS)
    ]
    yield made
    for one in made:
        one.kill()
        one.wait()


# Ends a connection after so many requests, by a GOAWAY that leaves some of those under way to the next one.
GOING = """
daemon off; master_process off; pid {folder}/nginx.pid; error_log /dev/null;
events {{ worker_connections 1000; }}
http {{
  access_log off; keepalive_requests 50; client_max_body_size 0; client_body_temp_path {folder}/body;
  {servers}
}}
"""


@pytest.fixture
def going(tmp_path: Path) -> Iterator[Callable[[list[Ports]], list[Ports]]]:
    """Gives each endpoint the port of an nginx before its gRPC."""
    made: list[subprocess.Popen[bytes]] = []

    def start(ports: list[Ports]) -> list[Ports]:
        ports = [replace(each, going=free_port()) for each in ports]
        servers = "".join(
            f"server {{ listen 127.0.0.1:{each.going} http2; location / {{ grpc_pass 127.0.0.1:{each.grpc}; }} }}\n"
            for each in ports
        )
        config = tmp_path / "nginx.conf"
        config.write_text(GOING.format(folder=tmp_path, servers=servers))
        # To standard error goes what it calls deprecated: `http2 on` is not known to older ones.
        made.append(subprocess.Popen(["nginx", "-c", str(config)], stderr=subprocess.DEVNULL))
        return ports

    yield start
    for one in made:
        assert one.poll() is None, "nginx has ended"
        one.kill()
        one.wait()


@pytest.fixture
def started(tmp_path: Path) -> Iterator[list[Daemon]]:
    made: list[Daemon] = []
    yield made
    for one in made:
        one.kill()


class Operator:
    """Does one thing after another to the daemon and its endpoints; `did` counts them."""

    def __init__(
        self,
        daemon: Daemon,
        roll: Callable[[], dict[str, Any]],
        endpoints: list[subprocess.Popen[str]],
        dice: random.Random,
    ) -> None:
        self.daemon = daemon
        self.roll = roll
        self.endpoints = endpoints
        self.dice = dice
        self.did: Counter[str] = Counter()
        self.addresses: dict[str, str] = {}
        self.killed_at = -math.inf

    def port(self, listener: str) -> int:
        return int(self.addresses[listener].rpartition(":")[2])

    def look(self) -> dict[str, Any]:
        status = self.daemon.status()
        self.addresses = {row["name"]: row["address"] for row in status["listeners"]}
        return status

    async def act(self) -> None:
        outcome = await asyncio.to_thread(self.daemon.reload, self.roll())
        assert outcome["ok"], outcome
        self.did["reloads"] += 1
        status = await asyncio.to_thread(self.look)
        chance = self.dice.random()
        if chance < 0.05:
            pid = self.dice.choice(status["workers"])["pid"]
            # Seldom enough that no worker is in a crash loop: with both there nobody serves for half a minute.
            if pid is not None and time.monotonic() > self.killed_at + 15:
                self.killed_at = time.monotonic()
                os.kill(pid, signal.SIGKILL)
                self.did["killed workers"] += 1
        elif chance < 0.35:
            await self.change(status)
        elif chance < 0.5:
            victim = self.dice.choice(self.endpoints)
            victim.send_signal(signal.SIGSTOP)
            asyncio.get_running_loop().call_later(self.dice.uniform(0, 1), victim.send_signal, signal.SIGCONT)
            self.did["stopped endpoints"] += 1
        elif chance < 0.6:
            assert (await asyncio.to_thread(self.daemon.admin, "/metrics"))[0] == 200

    async def change(self, status: dict[str, Any]) -> None:
        pool = self.dice.choice(status["pools"])
        wanted: dict[str, Any] = {"pool": pool["name"], "address": self.dice.choice(pool["endpoints"])["address"]}
        if self.dice.random() < 0.5:
            wanted["admin"] = self.dice.choice(["drain", "maintenance", "enabled", "enabled"])
        else:
            wanted["weight"] = self.dice.choice([0, 1, 5])
        code, body = await asyncio.to_thread(self.daemon.admin, "/api/v1/endpoint", "POST", json.dumps(wanted))
        assert code == 200, body
        self.did["changed endpoints"] += 1


def left(daemon: Daemon) -> list[str]:
    """What is in flight or in line."""
    found = []
    for pool in daemon.status()["pools"]:
        found += [f"{pool['name']} {e['address']}" for e in pool["endpoints"] if e["in_flight"]]
        if (pool.get("queue") or {}).get("waiting"):
            found.append(f"{pool['name']} queue")
    return found


async def test_any_configuration_follows_any_other(
    processes: list[subprocess.Popen[str]],
    going: Callable[[list[Ports]], list[Ports]],
    started: list[Daemon],
    tmp_path: Path,
) -> None:
    dice = random.Random(SEED)
    ports = going([Ports(**json.loads(process.stdout.readline())) for process in processes if process.stdout])
    honest = Roll(dice, ports, str(tmp_path / "access.log"))
    peers = await flooding_peers()

    def roll() -> dict[str, Any]:
        made = honest()
        made["pools"][POOL] = hostile_pool(peers, dice.choice(["grpc", "oip"]))
        made["listeners"]["web"]["routes"].insert(0, route(PATH, POOL))
        return made

    daemon = Daemon(tmp_path, roll())
    started.append(daemon)
    daemon.wait_ready()
    operator = Operator(daemon, roll, processes, dice)
    operator.look()
    chaos = Chaos(operator.port, random.Random(SEED))
    tasks = [asyncio.create_task(getattr(chaos, kind)()) for kind, count in CLIENTS.items() for _ in range(count)]
    web = partial(operator.port, "web")
    tasks += [asyncio.create_task(attackers(web, chaos.stop, chaos.counts, random.Random(n))) for n in range(ATTACKERS)]
    tasks.append(asyncio.create_task(victims(web, chaos.stop, chaos.counts)))
    loop = asyncio.get_running_loop()
    end = loop.time() + SECONDS
    try:
        while loop.time() < end:
            await operator.act()
            await asyncio.sleep(dice.uniform(0, 0.6))
    finally:
        chaos.stop.set()
        await asyncio.gather(*tasks)
        for peer in peers:
            peer.close()
    print(f"\nchaos of {SECONDS:.0f} s, seed {SEED}: {dict(operator.did)}\n{dict(sorted(chaos.counts.items()))}")
    await asyncio.sleep(1)  # the last endpoint that stands still goes on
    await asyncio.to_thread(eventually, lambda: left(daemon) == [], "nothing in flight", 20)
    assert await asyncio.to_thread(daemon.stop) == 0
    assert not [line for line in daemon.log.splitlines() if FAULTS.search(line)]
    assert not [what for what in chaos.counts if what.startswith("hang")]
    assert chaos.counts["http 200"]
    assert chaos.counts["grpc ok"]
    assert chaos.counts["tcp ok"]
    assert chaos.counts["udp ok"]
