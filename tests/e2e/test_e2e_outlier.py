"""Endpoints that fail under load: ejected for all workers at once, tried again, taken back; panics."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from daemon import Daemon, http_listener, route
from test_e2e_operate import operate
from traffic import load, request
from waiting import until_in_thread as until

Start = Callable[..., Daemon]
GET = request("GET", "/x")


class Moody:
    """An HTTP endpoint whose `status` and `delay` (seconds) can be changed while it runs; counts its answers."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.status = 200
        self.delay = 0.0
        self.active = 0
        self.peak = 0
        self.served: Counter[int] = Counter()
        self.writers: set[asyncio.StreamWriter] = set()

    async def start(self) -> Moody:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self.server.sockets[0].getsockname()[1]}"
        return self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.add(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                status = self.status
                self.active += 1
                self.peak = max(self.peak, self.active)
                if self.delay:
                    await asyncio.sleep(self.delay)
                self.active -= 1
                self.served[status] += 1
                body = self.name.encode()
                writer.write(b"HTTP/1.1 %d Whatever\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body))
        self.writers.discard(writer)
        writer.close()

    def refuse(self) -> None:
        """No new connections, and an end to those there are."""
        self.server.close()
        for writer in self.writers:
            writer.close()


@pytest.fixture
async def moody() -> AsyncIterator[Callable[[str], Any]]:
    made: list[Moody] = []

    async def make(name: str) -> Moody:
        made.append(await Moody(name).start())
        return made[-1]

    yield make
    for one in made:
        one.server.close()
    await asyncio.sleep(0)


def config(endpoints: list[Moody], workers: int = 4, **pool: Any) -> dict[str, Any]:
    """Without hedges: on a busy machine they would be some of the requests that are counted."""
    addresses = [e.address for e in endpoints]
    settings = {"protocol": "http", "policy": "round_robin", "avoid_failing": False, "endpoints": addresses, **pool}
    listener = http_listener(route("/", "http", hedge="off"))
    return {"workers": workers, "listeners": {"web": listener}, "pools": {"http": settings}}


def ejection_state(daemon: Daemon, endpoint: Moody) -> dict[str, Any]:
    row = next(row for row in daemon.pool("http")["endpoints"] if row["address"] == endpoint.address)
    found: dict[str, Any] = row["steering"]
    return found


async def test_failures_in_a_row_are_counted_over_all_workers(start: Start, moody: Callable[[str], Any]) -> None:
    a, b, c, d = [await moody(name) for name in "abcd"]
    outlier = {"consecutive_5xx": 20, "base_ejection_time": "3s", "probation_requests": 10, "interval": "60s"}
    daemon = start(config([a, b, c, d], outlier=outlier))
    async with load(daemon.port(), [GET], clients=32) as running:
        await running.until(400)
        d.status = 500
        await until(lambda: ejection_state(daemon, d)["ejection_state"] == "ejected", "the ejection")
        # Those that were under way when the twentieth came are all that may come on top. Clients read them later.
        assert 20 <= d.served[500] <= 20 + 32
        await until(lambda: len(running.failures) >= 20, "the failures at the clients")
        assert len(running.failures) <= 20 + 32
        # On probation one failure is enough, and then it stays away for twice as long. Others may be under way by then,
        # but no more than the probation has requests.
        failed = d.served[500]
        await until(lambda: ejection_state(daemon, d)["ejections"].get("probation", 0) >= 1, "the failed probation")
        assert failed < d.served[500] <= failed + 10
        d.status, before, d.peak = 200, len(running.failures), 0
        await until(lambda: ejection_state(daemon, d)["ejection_state"] == "well", "the return")
        served = d.served[200]
        await running.until(400)
        assert d.served[200] >= served + 80, "its share again"
        assert len(running.failures) - before <= 1, "whatever was under way as it was healed"
    ejections = await asyncio.to_thread(daemon.metrics, "tidegate_endpoint_ejections_total")
    assert {dict(labels)["reason"] for labels in ejections} == {"consecutive_5xx", "probation"}
    assert "is ejected for 3.0 s (ejection 1 in a row): consecutive_5xx" in daemon.log
    assert "takes requests again" in daemon.log


async def test_clients_see_nothing_of_an_endpoint_that_refuses(start: Start, moody: Callable[[str], Any]) -> None:
    """Connections that fail are tried elsewhere, and from the fifth on nobody tries there."""
    a, b, c = [await moody(name) for name in "abc"]
    daemon = start(config([a, b, c], outlier={"base_ejection_time": "60s"}))
    async with load(daemon.port(), [GET], clients=32) as running:
        await running.until(300)
        c.refuse()
        await until(lambda: ejection_state(daemon, c)["ejection_state"] == "ejected", "the ejection")
        errors = await asyncio.to_thread(daemon.metrics, "tidegate_endpoint_connect_errors_total")
        await running.until(600)
        assert await asyncio.to_thread(daemon.metrics, "tidegate_endpoint_connect_errors_total") == errors
        assert not running.failures


async def test_the_share_that_may_be_ejected_is_kept(start: Start, moody: Callable[[str], Any]) -> None:
    endpoints = [await moody(name) for name in "abcdef"]
    outlier = {"max_ejection_percent": 34, "base_ejection_time": "60s"}
    daemon = start(config(endpoints, outlier=outlier, panic_threshold=0))
    async with load(daemon.port(), [GET], clients=48) as running:
        await running.until(200)
        for each in endpoints:
            each.status = 503
        await running.until(600)
        rows = [ejection_state(daemon, each)["ejection_state"] for each in endpoints]
        assert Counter(rows) == {"ejected": 2, "well": 4}


async def test_the_slow_and_the_failing_are_found_by_their_rates(start: Start, moody: Callable[[str], Any]) -> None:
    endpoints = [await moody(name) for name in "abcdef"]
    outlier = {
        "consecutive_5xx": 0, "interval": "1s", "base_ejection_time": "60s", "success_rate_request_volume": 20,
        "latency_factor": 4, "latency_request_volume": 20,
    }  # fmt: skip
    daemon = start(config(endpoints, outlier=outlier))
    for each in endpoints:
        each.delay = 0.005
    endpoints[5].delay = 0.1
    async with load(daemon.port(), [GET], clients=32) as running:
        await until(lambda: ejection_state(daemon, endpoints[5])["reason"] == "latency", "the ejection of the slow one")
        assert not running.failures
        endpoints[0].status = 500
        await until(lambda: ejection_state(daemon, endpoints[0])["reason"] == "success_rate", "that of the failing one")
        rows = [ejection_state(daemon, each)["ejection_state"] for each in endpoints]
        assert Counter(rows) == {"ejected": 2, "well": 4}
    assert "median latency" in daemon.log
    assert "success rate" in daemon.log


async def test_an_endpoint_that_is_slow_among_slow_ones_is_found(start: Start, moody: Callable[[str], Any]) -> None:
    """Inferences take a while everywhere; the log says what was measured."""
    slow, *others = [await moody(name) for name in "abc"]
    slow.delay = 0.6
    for other in others:
        other.delay = 0.11
    outlier = {
        "consecutive_5xx": 0, "interval": "1s", "success_rate_stdev_factor": 0,
        "latency_factor": 3, "latency_request_volume": 5, "max_ejection_percent": 40,
    }  # fmt: skip
    daemon = start(config([slow, *others], outlier=outlier))
    async with load(daemon.port(), [GET], clients=24) as running:
        await until(lambda: ejection_state(daemon, slow)["reason"] == "latency", "the ejection of the slow one")
        assert not running.failures
    said = re.search(r"median latency ([0-9.]+) ms, of the others ([0-9.]+) ms", daemon.log)
    assert said, daemon.log
    assert 500 <= float(said[1]) <= 1000, "not the bucket that 600 ms are in"
    assert 100 <= float(said[2]) <= 250, "not the buckets that 110 ms, or a little more, are in"


async def test_a_panic_spreads_over_all_and_ends(start: Start, moody: Callable[[str], Any]) -> None:
    """Three of four take no new connections, and so are down by their checks, but go on with those they have."""
    endpoints = [await moody(name) for name in "abcd"]
    health = {"type": "tcp", "interval": "100ms", "timeout": "2s", "fall": 1, "rise": 1}
    daemon = start(config(endpoints, health=health, panic_threshold=50, retries=10, outlier="off"))
    async with load(daemon.port(), [GET], clients=16, bodies=True) as running:
        await running.until(100)
        listening = [(each.server.sockets[0].getsockname()[1], each) for each in endpoints[1:]]
        for _, each in listening:
            each.server.close()
        await until(lambda: daemon.pool("http")["panic"], "the panic")
        # Connections that are open go on: their endpoints serve, whatever the checks say.
        before = Counter(running.seen)
        await running.until(400)
        assert not running.failures
        assert all((running.seen - before)[name] >= 50 for name in (b"b", b"c", b"d"))
        for port, each in listening:
            each.server = await asyncio.start_server(each._serve, "127.0.0.1", port)
        await until(lambda: not daemon.pool("http")["panic"], "the end of the panic")
    panics = await asyncio.to_thread(daemon.metrics, "tidegate_pool_panics_total")
    assert list(panics.values()) == [1]
    assert "is in a panic: all endpoints get requests" in daemon.log
    assert "is no longer in a panic" in daemon.log


async def test_an_endpoint_that_comes_up_starts_slowly(start: Start, moody: Callable[[str], Any]) -> None:
    """Enabled again, it begins with a part of its share, which grows to the whole."""
    a, b = [await moody(name) for name in "ab"]
    daemon = start(config([a, b], slow_start="8s"))
    assert ejection_state(daemon, a)["share"] == 1, "nobody starts slowly with the daemon"
    async with load(daemon.port(), [GET], clients=8) as running:
        await operate(daemon, "drain", "http", b.address)
        await running.until(50)
        await operate(daemon, "enable", "http", b.address)
        for _ in range(2):
            before = ejection_state(daemon, b)["share"]
            a.served.clear()
            b.served.clear()
            await running.until(400)
            after = ejection_state(daemon, b)["share"]
            assert 0.8 * before <= b.served[200] / a.served[200] <= 1.2 * after
            if after == 1:
                break
            await until(lambda: ejection_state(daemon, b)["share"] == 1, "the whole share")
        assert not running.failures
    assert before == 1


async def test_endpoints_that_are_still_starting_cause_no_panic_and_get_nothing(
    start: Start, moody: Callable[[str], Any]
) -> None:
    """More of them than of those that serve: with `initial: down` nobody asks them before their checks were good."""
    serving, starting = [await moody(name) for name in "ab"], [await moody(name) for name in "cdef"]
    for each in starting:
        each.status = 503
    settings = {
        "health": {"type": "http", "interval": "50ms", "initial": "down", "fall": 1, "rise": 1},
        "outlier": {"consecutive_5xx": 0},
        "panic_threshold": 50,  # for all: they are surely down
        "policy": "round_robin",
    }
    daemon = start(config(serving, **settings))
    await until(lambda: all(e["health"] == "up" for e in daemon.pool("http")["endpoints"]), "the first checks")
    async with load(daemon.port(), [GET], clients=8, bodies=True) as running:
        await running.until(100)
        assert (await asyncio.to_thread(daemon.reload, config([*serving, *starting], **settings)))["ok"]
        await until(lambda: all(each.served[503] > 3 for each in starting), "checks of the new ones")
        await running.until(200)
        assert set(running.seen) == {b"a", b"b"}
        assert not running.failures
        for each in starting:
            each.status = 200
        await until(lambda: len(running.seen) == 6, "their share")
        assert not running.failures
    assert "panic" not in daemon.log
    # From now on they count: it is a panic when they fail.
    for each in starting:
        each.status = 503
    await until(lambda: daemon.pool("http")["panic"], "the panic")
