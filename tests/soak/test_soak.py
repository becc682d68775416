"""Mixed traffic for a long time, with reloads and restarts of everything behind the daemon: nothing leaks.

    make soak                        ten minutes
    make soak SOAK_SECONDS=3600      longer: what leaks slowly shows

Not part of `make test`.
"""

from __future__ import annotations

import asyncio
import os
import random
import ssl
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from authority import Authority
from daemon import Daemon, eventually, http_listener, open_files, route
from flooding_peer import FloodingPeer
from hostile_guests import PATH, POOL, attackers, flooding_peers, hostile_pool, victims
from soak_site import (
    DatagramEndpoint,
    Endpoint,
    GrpcEndpoint,
    Ledger,
    StreamEndpoint,
    grpc_client,
    http_client,
    tcp_client,
    udp_client,
)

SECONDS = float(os.environ.get("TIDEGATE_SOAK_SECONDS", "0"))
# What a restart makes of the calls under way: refused, ended by the server, or cut off in the middle of an answer.
GRPC_LOSSES = {"grpc unavailable", "grpc cancelled", "grpc internal"}
GRPC_ENDS = {"grpc ok", "grpc streamed", "grpc given up", "grpc deadline_exceeded", *GRPC_LOSSES}
MOST_GROWTH = 4 << 20  # of one process, after the first quarter
CLIENTS = {"http": 12, "https": 4, "grpc": 4, "grpc over tls": 4, "tcp": 8, "udp": 8}
ATTACKERS = 3
AUTHORITY = Authority()

pytestmark = pytest.mark.skipif(not SECONDS, reason="make soak")


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[list[Daemon]]:
    made: list[Daemon] = []
    yield made
    for one in made:
        one.kill()


def config(
    endpoints: dict[str, list[Endpoint]], dice: random.Random, pair: tuple[str, str], peers: list[FloodingPeer]
) -> dict[str, Any]:
    """Another one each time: weights, limits, timeouts, policies, a listener more or less."""

    def some(kind: str) -> list[dict[str, Any]]:
        chosen = dice.sample(endpoints[kind], dice.randint(2, len(endpoints[kind])))
        return [{"address": e.address, "weight": dice.randint(1, 5)} for e in chosen]

    health = {"interval": "200ms", "timeout": "500ms", "fall": 2, "rise": 1}
    policies = ("least_request", "round_robin", "power_of_two")

    def routes(listener: str) -> list[dict[str, Any]]:
        pools = {"grpc": "/soak.Echo/", "http": "/"}
        return [{**route(prefix, pool), "name": f"{listener}-{pool}"} for pool, prefix in pools.items()]

    listeners = {
        "web": http_listener(
            *routes("web"),
            route(PATH, POOL),
            idle_timeout=f"{dice.randint(2, 4)}s",
            http2={"max_connection_age": "30s"},
        ),
        "secure": http_listener(
            *routes("secure"), protocol="https", tls={"certificates": [{"cert": pair[0], "key": pair[1]}]}
        ),
        "raw": {"bind": "127.0.0.1:0", "protocol": "tcp", "pool": "tcp", "max_connections": dice.randint(500, 1000)},
        "dgram": {
            "bind": "127.0.0.1:0", "protocol": "udp", "pool": "udp", "idle_timeout": "2s",
            "udp": {"max_sessions": dice.randint(500, 1000), "responses": dice.choice((1, None))},
        },
    }  # fmt: skip
    if dice.random() < 0.5:
        listeners["extra"] = http_listener({**route("/", "http"), "name": "extra"})
    return {
        "workers": 2,
        "listeners": listeners,
        "pools": {
            "http": {
                "protocol": "http", "endpoints": some("http"), "policy": dice.choice(policies), "retries": 2,
                "idle_timeout": "2s", "health": {"type": "tcp", **health},
            },
            "grpc": {
                "protocol": "grpc", "endpoints": some("grpc"), "policy": dice.choice(policies), "retries": 2,
                "health": {"type": "tcp", **health},
            },
            "tcp": {"protocol": "tcp", "endpoints": some("tcp"), "retries": 2, "health": {"type": "tcp", **health}},
            POOL: hostile_pool(peers, dice.choice(("grpc", "oip"))),
            "udp": {"protocol": "udp", "endpoints": some("udp"), "health": {"type": "udp", "send": "?", **health}},
        },
        "log": {"access": "/dev/null"},
    }  # fmt: skip


def gauges(daemon: Daemon) -> dict[str, float]:
    """Everything that is not zero although nobody is there."""
    names = (
        "tidegate_listener_open_connections", "tidegate_route_in_flight", "tidegate_endpoint_in_flight",
        "tidegate_endpoint_outstanding", "tidegate_worker_connections", "tidegate_udp_listener_open_sessions",
        "tidegate_udp_endpoint_open_sessions",
    )  # fmt: skip
    return {f"{name} {sorted(k)}": v for name in names for k, v in daemon.metrics(name).items() if v}


async def at_rest(daemon: Daemon) -> dict[int, int]:
    """Descriptors of each process once nothing is in flight and idle connections have gone."""
    await asyncio.to_thread(eventually, lambda: not gauges(daemon), "in-flight counts", 30)
    await asyncio.sleep(5)
    least: dict[int, int] = {}
    pids = [daemon.process.pid, *daemon.worker_pids()]
    for _ in range(40):  # health checks come and go meanwhile
        await asyncio.sleep(0.05)
        least = {pid: min(open_files(pid), least.get(pid, 1 << 20)) for pid in pids}
    return least


async def disturb(
    daemon: Daemon,
    endpoints: dict[str, list[Endpoint]],
    dice: random.Random,
    another: dict[str, Any],
    done: Counter[str],
) -> None:
    """A reload, or an endpoint that dies and comes back; one at a time."""
    if dice.random() < 0.5:
        outcome = await asyncio.to_thread(daemon.reload, another)
        assert outcome["ok"], outcome
        done["reloads"] += 1
        return
    victim = dice.choice(endpoints[dice.choice(sorted(endpoints))])
    await victim.stop()
    await asyncio.sleep(dice.uniform(0.1, 1.5))
    async with asyncio.timeout(60):
        while True:
            try:
                await victim.start()
                break
            except OSError:  # some connection got the port meanwhile
                await asyncio.sleep(0.1)
    done["restarts"] += 1


async def traffic(daemon: Daemon, seconds: float, disturbed: Any, counts: Counter[str]) -> None:
    """Clients of every kind for so long, while `disturbed()` is awaited again and again."""
    stop = asyncio.Event()
    https = partial(http_client, trust=ssl.create_default_context(cadata=AUTHORITY.pem.decode()))
    secure = partial(grpc_client, trust=grpc.ssl_channel_credentials(AUTHORITY.pem))
    kinds: dict[str, tuple[Any, str]] = {
        "http": (http_client, "web"), "https": (https, "secure"), "grpc": (grpc_client, "web"),
        "grpc over tls": (secure, "secure"), "tcp": (tcp_client, "raw"), "udp": (udp_client, "dgram"),
    }  # fmt: skip
    ports = {name: daemon.port(name) for _, name in kinds.values()}
    tasks = [
        asyncio.create_task(work(ports[name], stop, counts))
        for kind, (work, name) in kinds.items()
        for _ in range(CLIENTS[kind])
    ]
    tasks += [
        asyncio.create_task(attackers(lambda: ports["web"], stop, counts, random.Random(n))) for n in range(ATTACKERS)
    ]
    tasks.append(asyncio.create_task(victims(lambda: ports["web"], stop, counts)))
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    try:
        while loop.time() < end:
            await disturbed()
    finally:
        stop.set()
        await asyncio.gather(*tasks)


async def test_nothing_leaks(daemon: list[Daemon], tmp_path: Path) -> None:
    dice = random.Random(11)
    endpoints: dict[str, list[Endpoint]] = {
        "http": [StreamEndpoint(http=True) for _ in range(3)],
        "tcp": [StreamEndpoint(http=False) for _ in range(3)],
        "udp": [DatagramEndpoint() for _ in range(3)],
        "grpc": [GrpcEndpoint() for _ in range(3)],
    }
    for one in (e for group in endpoints.values() for e in group):
        await one.start()
    peers = await flooding_peers()
    try:
        await soak(daemon, tmp_path, endpoints, dice, peers)
    finally:
        for peer in peers:
            peer.close()
        # A server of grpcio that is not stopped keeps a thread, and the process, for ever.
        for one in (e for group in endpoints.values() for e in group):
            await one.stop()


async def soak(
    daemon: list[Daemon],
    tmp_path: Path,
    endpoints: dict[str, list[Endpoint]],
    dice: random.Random,
    peers: list[FloodingPeer],
) -> None:
    pair = AUTHORITY.issue("localhost", "127.0.0.1").write(tmp_path)
    running = Daemon(tmp_path, config(endpoints, dice, pair, peers)).wait_ready()
    daemon.append(running)
    workers = running.worker_pids()
    names = {running.process.pid: "master", **{pid: f"worker {i}" for i, pid in enumerate(workers)}}
    ledger = Ledger(list(names))
    counts: Counter[str] = Counter()
    done: Counter[str] = Counter()

    async def warm() -> None:
        await asyncio.sleep(1)

    async def disturbed() -> None:
        await disturb(running, endpoints, dice, config(endpoints, dice, pair, peers), done)
        await asyncio.sleep(1)
        ledger.sample()

    await traffic(running, min(10.0, SECONDS / 10), warm, Counter())
    before = await at_rest(running)
    await traffic(running, SECONDS, disturbed, counts)
    # One listener may be there or not; the same plan as before the start is compared with.
    await asyncio.to_thread(running.reload, config(endpoints, random.Random(11), pair, peers))
    after = await at_rest(running)
    print(
        f"\nsoak of {SECONDS:.0f} s: {dict(done)}, {dict(sorted(counts.items()))}\n{ledger.report(names.__getitem__)}"
    )
    print("descriptors at rest, before and after:", {names[pid]: (before[pid], after[pid]) for pid in before})
    assert running.worker_pids() == workers
    assert all(worker["restarts"] == 0 for worker in running.status()["workers"])
    for pid, name in names.items():
        assert after[pid] <= before[pid], f"{name} has {after[pid] - before[pid]} descriptors more"
        assert ledger.growth(pid) < MOST_GROWTH, f"{name} grew by {ledger.growth(pid) / 1024:.0f} KiB"
    assert counts["http ok"]
    assert counts["tcp ok"]
    assert counts["udp ok"]
    assert counts["grpc ok"]
    assert counts["grpc streamed"]
    assert counts["grpc given up"]
    assert counts["grpc deadline_exceeded"]
    # Attackers are ended, and whoever asks for what a hostile endpoint has is told so.
    assert counts["attack cut"]
    assert counts["hostile endpoint 502"]
    assert not counts["hang: hostile endpoint"]
    # Requests that can be repeated are, so that a restart costs none of them but those whose answer had begun.
    assert counts["http failed"] + counts["http cut"] <= 2 * done["restarts"], counts
    # A call is not repeated once the server may have begun with it.
    assert sum(counts[end] for end in GRPC_LOSSES) <= 4 * done["restarts"], counts
    assert {key for key in counts if key.startswith("grpc ")} <= GRPC_ENDS
    # A call that was cancelled, or ran out of time, left no stream behind.
    assert [one.running for one in endpoints["grpc"] if isinstance(one, GrpcEndpoint)] == [0, 0, 0]
