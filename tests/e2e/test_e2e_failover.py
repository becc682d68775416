"""Levels and zones that are lost, whole or in part, while clients go on."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import forked
import pytest
from daemon import Daemon, http_listener, route
from endpoints import Endpoint
from name_server import NameServer, name_server
from ports import free_port
from test_e2e_operate import operate
from traffic import Load, load, request
from waiting import until_in_thread as until

Start = Callable[..., Daemon]
GET = request("GET", "/x")

# Answers with its name, from a process of its own, until that is killed.
SERVER = """
import asyncio, sys
async def serve(reader, writer):
    body = sys.argv[2].encode()
    try:
        while await reader.readuntil(b"\\r\\n\\r\\n"):
            await asyncio.sleep(0.002)
            writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n%s" % (len(body), body))
    except (ConnectionError, asyncio.IncompleteReadError):
        writer.close()
async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1]))
    print("listening", flush=True)
    await server.serve_forever()
asyncio.run(main())
"""


class Server:
    """A process that can be killed and started again, at the same address."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-c", SERVER, str(self.port), self.name]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "listening\n"

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


@pytest.fixture
def server() -> Iterator[Callable[[str], Server]]:
    made: list[Server] = []

    def make(name: str) -> Server:
        made.append(Server(name))
        return made[-1]

    yield make
    for one in made:
        one.kill()


HEALTH = {"type": "tcp", "interval": "100ms", "timeout": "30s", "fall": 1, "rise": 1}


def config(endpoints: list[dict[str, Any]], top: dict[str, Any] | None = None, **pool: Any) -> dict[str, Any]:
    settings = {"protocol": "http", "endpoints": endpoints, "health": HEALTH, "policy": "round_robin", **pool}
    listeners = {"web": http_listener(route("/", "http"))}
    return {**(top or {}), "listeners": listeners, "pools": {"http": settings}}


def shares(daemon: Daemon) -> list[float]:
    return [level["share"] for level in daemon.pool("http")["levels"]]


async def served_by(running: Load, *names: bytes, count: int = 50) -> None:
    """Waits until `count` answers in a row come from these alone, and from each.

    Workers take a new plan over one by one, and requests that were under way end meanwhile.
    """
    for _ in range(20):
        running.seen.clear()
        await running.until(count)
        if set(running.seen) == set(names):
            return
    raise AssertionError(f"it is served by {running.seen}")


async def test_a_level_that_is_killed_costs_no_request_and_comes_back(
    start: Start, server: Callable[[str], Server]
) -> None:
    """Both of its endpoints at once, under load: seen by their connections before any check looks."""
    a, b, spare = server("a"), server("b"), server("spare")
    outlier = {"consecutive_gateway_failure": 1, "max_ejection_percent": 100, "base_ejection_time": "200ms"}
    endpoints = [{"address": e.address, "priority": 10 * (e is spare)} for e in (a, b, spare)]
    daemon = start(config(endpoints, priorities={"spill": "none"}, outlier=outlier, panic_threshold=0, retries=3))
    async with load(daemon.port(), [GET], clients=16, bodies=True) as running:
        await running.until(300)
        assert set(running.seen) == {b"a", b"b"}
        assert shares(daemon) == [1, 0]
        a.kill()
        running.seen.clear()
        await running.until(300)
        assert set(running.seen) <= {b"a", b"b"}, "half of a level does it alone"
        b.kill()
        await until(lambda: shares(daemon) == [0, 1], "the failover")
        await served_by(running, b"spare", count=300)
        await asyncio.to_thread(a.start)
        await until(lambda: shares(daemon) == [1, 0], "the way back")
        await until(lambda: daemon.pool("http")["endpoints"][0]["steering"]["ejection_state"] == "well", "all of it")
        running.seen.clear()
        await running.until(300)
        assert not running.failures
        assert running.seen[b"a"] > running.seen[b"spare"]
    assert "pool http fails over: priority 10 has 100 % of the requests (priority 0: 0 of 2 healthy" in daemon.log
    assert "pool http: priority 0 has all requests again (priority 0: 1 of 2 healthy" in daemon.log
    assert daemon.log.count("fails over") == 1
    failovers = await asyncio.to_thread(daemon.metrics, "tidegate_pool_failovers_total")
    assert list(failovers.values()) == [1]


async def test_half_of_a_level_has_what_it_carries_and_the_next_the_rest(
    start: Start, endpoint: Callable[..., Any]
) -> None:
    """As Envoy: 140 % of a half are 70 %. By an operator's drains, which the command line shows."""
    made: list[Endpoint] = [await endpoint(name, 0.002) for name in "abcd"]
    daemon = start(config([{"address": e.address, "priority": i // 2} for i, e in enumerate(made)]))
    async with load(daemon.port(), [GET], clients=8, bodies=True) as running:
        await running.until(100)
        await operate(daemon, "drain", "http", made[0].address)
        assert shares(daemon) == [0.7, 0.3]
        await served_by(running, b"b", b"c", b"d", count=600)
        assert 0.6 < running.seen[b"b"] / sum(running.seen.values()) < 0.8
        text = await operate(daemon, "status")
        assert "priority 0 has 70 % and priority 1 has 30 % of the requests" in daemon.log
        assert "http 0 1 of 2 70 % 70 % - -" in [" ".join(line.split()) for line in text.splitlines()]
        await operate(daemon, "enable", "http", made[0].address)
        assert shares(daemon) == [1, 0]
        await served_by(running, b"a", b"b", count=200)
        assert not running.failures
    row = daemon.pool("http")["endpoints"][2]
    assert (row["priority"], row["steering"]["requests"]) == (1, 0)
    assert row["steering"]["why_not"] == "priority 1: priority 0 has all requests"
    text = await operate(daemon, "explain", "http")
    assert text.count("priority 1: priority 0 has all requests") == 2


async def test_the_own_zone_first_then_others_and_back(start: Start, server: Callable[[str], Server]) -> None:
    own, far = [server("own1"), server("own2")], [server("far1"), server("far2")]
    endpoints = [{"address": e.address, "zone": "eu-1"} for e in own] + [{"address": far[0].address, "zone": "eu-2"}]
    endpoints.append({"address": far[1].address})
    settings = {"retries": 3, "zones": {}, "outlier": {"consecutive_gateway_failure": 1, "max_ejection_percent": 100}}
    daemon = start(config(endpoints, {"zone": "eu-1"}, panic_threshold=0, **settings))

    def parts() -> tuple[float, float]:
        (level,) = daemon.pool("http")["levels"]
        return level["own_zone"], level["other_zones"]

    async with load(daemon.port(), [GET], clients=16, bodies=True) as running:
        await running.until(300)
        assert set(running.seen) == {b"own1", b"own2"}
        own[0].kill()
        await until(lambda: parts() == (0.7, 0.3), "the half of the zone")
        await served_by(running, b"own2", b"far1", b"far2", count=400)
        own[1].kill()
        await until(lambda: parts() == (0, 1), "the loss of the zone")
        await served_by(running, b"far1", b"far2", count=300)
        assert not running.failures
        labels = {"pool": "http", "priority": "0", "zone": "other"}
        assert (await asyncio.to_thread(daemon.metrics, "tidegate_pool_zone_share"))[frozenset(labels.items())] == 1
    assert (daemon.status())["zone"] == "eu-1"
    assert "the own zone has 70 % of the requests of priority 0, other zones the rest" in daemon.log


@pytest.fixture
async def names() -> AsyncIterator[NameServer]:
    async with name_server() as running:
        yield running


async def test_priorities_of_srv_records(start: Start, endpoint: Callable[..., Any], names: NameServer) -> None:
    first, second, third = [await endpoint(name, 0.002) for name in "abc"]

    def offer(*records: tuple[int, Endpoint]) -> None:
        names.set("host.test.", "A", "127.0.0.1", ttl=1)
        texts = [f"{priority} 1 {e.address.rpartition(':')[2]} host.test." for priority, e in records]
        names.set("_x._tcp.test.", "SRV", *texts, ttl=1)

    offer((10, first), (20, second), (30, third))
    dns = {"name": "_x._tcp.test", "type": "SRV", "resolvers": [names.address]}
    settings = {"protocol": "http", "policy": "round_robin", "discover": {"dns": dns}}
    daemon = await asyncio.to_thread(
        start, {"listeners": {"web": http_listener(route("/", "http"))}, "pools": {"http": settings}}
    )
    assert [row["priority"] for row in (await asyncio.to_thread(daemon.pool, "http"))["endpoints"]] == [0, 1, 2]
    async with load(await asyncio.to_thread(daemon.port), [GET], clients=4, bodies=True) as running:
        await running.until(50)
        assert set(running.seen) == {b"a"}
        await operate(daemon, "maintenance", "http", first.address)
        await served_by(running, b"b")
        offer((20, second), (10, third))
        await until(lambda: len(daemon.pool("http")["endpoints"]) == 2, "the new records")
        await served_by(running, b"c")
        offer((5, second), (5, third))
        await until(lambda: daemon.pool("http")["levels"] is None, "one level")
        await served_by(running, b"b", b"c")
        assert not running.failures


def test_a_configuration_that_makes_no_sense_is_refused(tmp_path: Any) -> None:
    path = tmp_path / "tidegate.yaml"
    path.write_text(
        "listeners: {web: {bind: 127.0.0.1:0, protocol: http, routes: [{pool: a}]}}\n"
        "pools:\n  a:\n    protocol: http\n    endpoints: [127.0.0.1:1]\n    zones: {}\n"
    )
    done = forked.run(["check", "-c", str(path)])
    assert done.returncode != 0
    assert f"{path}:6: pools.a.zones: needs the top-level zone" in done.stderr
