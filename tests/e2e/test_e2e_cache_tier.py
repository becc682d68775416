"""Daemons that share answers in real servers of a cache tier, which fail in every way. Asserted on content: an answer
is that of the model to this request, and never one from before a purge."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from daemon import Daemon, http_listener, route, worker_of
from infer_server import InferServer
from ports import free_port
from tier_servers import SECRET, CuttingRelay, TierServers
from traffic import Answer, Client, request
from waiting import until

from lb.wire import grpc_service_pb2 as wire

Start = Callable[..., Daemon]
INFER = "/v2/models/m/infer"
METHOD = "/inference.GRPCInferenceService/ModelInfer"


class Model(InferServer):
    """Answers with the version of its weights and what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = 1

    async def numbers(self, sent: wire.ModelInferRequest) -> list[int]:
        weights = self.weights
        await self.open.wait()
        return [weights, int.from_bytes(sent.raw_input_contents[0], "little")]


@pytest.fixture
async def model() -> AsyncIterator[Model]:
    made = Model()
    await made.start()
    yield made
    await made.stop()


@pytest.fixture(params=["valkey", "memcached"])
def servers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TierServers]:
    """Redis speaks as Valkey does, and has the tests with `redis` and those of tests/cache."""
    yield from _running(TierServers(request.param, tmp_path))


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[TierServers]:
    yield from _running(TierServers("redis", tmp_path))


def _running(made: TierServers) -> Iterator[TierServers]:
    made.start()
    yield made
    made.stop()


def config(
    model: Model, servers: TierServers, secret: bytes = SECRET, port: int = 0, **settings: Any
) -> dict[str, Any]:
    file = servers.folder / f"secret-{len(secret)}"
    file.write_bytes(secret)
    file.chmod(0o600)
    kind = servers.kind if servers.kind in ("memcached", "valkey") else "redis"
    tier = {"type": kind, "servers": [f"127.0.0.1:{port or servers.ports[0]}"], "secret_file": str(file)}
    # Long enough for a machine that is busy with other tests.
    tier |= {"timeout": "2s", "connect_timeout": "2s"} | settings.pop("tier", {})
    pool = {"protocol": "oip", "endpoints": [f"127.0.0.1:{model.port}"], "outlier": "off"}
    return {
        "workers": 2,
        "listeners": {"web": http_listener(route("/", "models", **settings.pop("route", {})))},
        "pools": {"models": pool},
        "cache": {"size": "4MiB", "ttl": "1h", "refresh_early": False, "tier": tier, **settings},
    }


def question(number: int = 1, **headers: str) -> bytes:
    tensor = {"name": "x", "datatype": "INT32", "shape": [1], "data": [number]}
    return request("POST", INFER, {"inputs": [tensor]}, **headers)


def tier_of(daemon: Daemon) -> dict[str, Any]:
    code, body = daemon.admin("/api/v1/cache")
    assert code == 200
    found: dict[str, Any] = json.loads(body)["tier"]
    return found


async def up(daemon: Daemon) -> None:
    """All of its processes use the tier."""

    def look() -> bool:
        tier = tier_of(daemon)
        return len(tier["processes"]) == 3 and tier["state"] == "closed"

    await until(look, "the tier is up")


async def stored(daemon: Daemon, count: int) -> None:
    await until(lambda: tier_of(daemon)["stored"] >= count, f"{count} answers are in the tier")


@asynccontextmanager
async def client_of(daemon: Daemon) -> AsyncIterator[Client]:
    client = await Client(daemon.port()).connect()
    yield client
    client.close()


async def ask(client: Client, number: int = 1, **headers: str) -> tuple[int, str | None]:
    """The weights that answered, and what the cache says."""
    answer = await client.ask(question(number, **headers))
    return weights(answer, number), answer.cache


def weights(answer: Answer, number: int) -> int:
    assert answer.status == 200, answer.body
    found, asked = answer.json["outputs"][0]["data"]
    assert asked == number, "another request's answer"
    return int(found)


HIT, MISS, TIER = "tidegate; hit", "tidegate; fwd=miss; stored", "tidegate; hit; detail=tier"


async def test_daemons_share_their_answers(start: Start, model: Model, servers: TierServers) -> None:
    one, two = start(config(model, servers)), start(config(model, servers))
    await up(one)
    await up(two)
    async with client_of(one) as here, client_of(two) as there:
        for number in range(10):
            assert await ask(here, number) == (1, MISS)
        await stored(one, 10)
        assert [await ask(there, number) for number in range(10)] == [(1, TIER)] * 10
        assert [await ask(there, number) for number in range(10)] == [(1, HIT)] * 10, two.admin("/api/v1/cache")
        answer = await there.ask(question(3))
        assert 0 <= int(answer.headers["age"]) < 3600
        # A client of gRPC has the same entries, and the other way round.
        assert await call(two, 4) == (1, HIT)
        assert await call(one, 77) == (1, "tidegate; fwd=miss")  # whether it is kept is not known when it begins
        await stored(one, 11)
        assert await ask(there, 77) == (1, TIER)
        assert await call(two, 77) == (1, HIT)
        await ask(here, 88)
        await stored(one, 12)
        assert await call(two, 88, grpc.Compression.Gzip) == (1, TIER)
    assert model.asked == 12
    await until(lambda: gets(two).get("hit") == 12, "the worker has told")
    tier = tier_of(two)
    assert (tier["hits"], tier["errors"], tier["timeouts"], tier["dropped"]) == (12, 0, 0, 0)
    told = two.command("cache", "stats").stdout
    assert f"tier       {tier['server']}, up\n" in told
    assert "12 hits, " in told


def gets(daemon: Daemon) -> dict[str, float]:
    """Of all processes."""
    found: dict[str, float] = {}
    for labels, value in daemon.metrics("tidegate_cache_tier_gets_total").items():
        result = dict(labels)["result"]
        found[result] = found.get(result, 0) + value
    return found


async def call(
    daemon: Daemon, number: int, compression: grpc.Compression = grpc.Compression.NoCompression
) -> tuple[int, str | None]:
    sent = wire.ModelInferRequest(model_name="m", id="g")
    sent.inputs.add(name="x", datatype="INT32", shape=[1])
    sent.raw_input_contents.append(number.to_bytes(4, "little"))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{daemon.port()}") as channel:
        infer = channel.unary_unary(
            METHOD, wire.ModelInferRequest.SerializeToString, wire.ModelInferResponse.FromString
        )
        running = infer(sent, timeout=30, compression=compression)
        said = dict(await running.initial_metadata()).get("cache-status")
        answer = await running
    assert answer.id == "g"
    found, asked = answer.outputs[0].contents.int_contents
    assert asked == number
    return found, None if said is None else re.sub("; ttl=[0-9]+", "", str(said))


async def test_a_daemon_that_restarts_finds_its_answers(start: Start, model: Model, servers: TierServers) -> None:
    one = start(config(model, servers))
    await up(one)
    async with client_of(one) as client:
        assert await ask(client) == (1, MISS)
    await stored(one, 1)
    one.stop()
    again = start(config(model, servers))
    await up(again)
    async with client_of(again) as client:
        assert await ask(client) == (1, TIER)
    assert model.asked == 1


async def test_followers_get_what_the_leader_finds(start: Start, model: Model, redis: TierServers) -> None:
    one, two = start(config(model, redis)), start(config(model, redis))
    await up(one)
    await up(two)
    async with client_of(one) as client:
        await ask(client)
    await stored(one, 1)
    redis.pause()
    waiting = [await Client(two.port()).connect() for _ in range(30)]
    asked = [asyncio.create_task(client.ask(question())) for client in waiting]
    await asyncio.sleep(0.1)
    redis.resume()
    assert [weights(await one, 1) for one in asked] == [1] * 30
    for client in waiting:
        client.close()
    assert model.asked == 1
    assert tier_of(two)["hits"] <= 2  # one worker of them asked the tier, or each for itself


async def test_a_client_that_leaves_while_the_tier_is_asked(start: Start, model: Model, redis: TierServers) -> None:
    one = start(config(model, redis, tier={"timeout": "500ms"}))
    await up(one)
    redis.pause()
    for number in range(20):
        client = await Client(one.port()).connect()
        client.writer.write(question(number))
        await client.writer.drain()
        await asyncio.sleep(0.01)
        client.close()
    redis.resume()
    async with client_of(one) as client:
        for number in range(40):
            assert (await ask(client, number))[0] == 1
    assert one.in_flight() == 0


async def test_a_worker_that_is_killed_while_it_asks_the_tier(start: Start, model: Model, redis: TierServers) -> None:
    one = start(config(model, redis))
    await up(one)
    clients: dict[int | None, Client] = {}
    while len(clients) < 2:
        client = await Client(one.port()).connect()
        await client.ask(request("GET", "/v2/health/live"))
        if clients.setdefault(worker_of(one.worker_pids(), client.local_port), client) is not client:
            client.close()
    (leader, its), (_, other) = clients.items()
    assert leader is not None
    redis.pause()
    asked = asyncio.create_task(its.ask(question()))
    await asyncio.sleep(0.2)
    waits = asyncio.create_task(other.ask(question()))
    await asyncio.sleep(0.2)
    os.kill(leader, signal.SIGKILL)
    with pytest.raises(asyncio.IncompleteReadError):
        await asked
    redis.resume()
    assert weights(await waits, 1) == 1
    assert model.asked == 1


async def test_a_daemon_stops_while_its_tier_says_nothing(start: Start, model: Model, servers: TierServers) -> None:
    one = start(config(model, servers))
    await up(one)
    servers.pause()
    async with client_of(one) as client:
        asked = asyncio.create_task(client.ask(question()))
        await asyncio.sleep(0.2)
        stopping = asyncio.create_task(asyncio.to_thread(one.stop))
        assert weights(await asked, 1) == 1
    assert await stopping == 0
    servers.resume()
    assert "ERROR" not in one.log
    assert "Traceback" not in one.log


async def test_what_decides_the_answer_is_in_the_key(start: Start, model: Model, servers: TierServers) -> None:
    by = {"cache": {"vary": ["accept-language"], "tenant": {"header": "x-tenant"}, "honor_cache_control": True}}
    one, two = start(config(model, servers, route=by)), start(config(model, servers, route=by))
    await up(one)
    await up(two)
    who = {"accept_language": "de", "x_tenant": "a"}
    async with client_of(one) as here, client_of(two) as there:
        assert await ask(here, **who) == (1, MISS)
        await stored(one, 1)
        model.weights = 2
        assert await ask(there, **who | {"x_tenant": "b"}) == (2, MISS)
        assert await ask(there, **who | {"accept_language": "en"}) == (2, MISS)
        assert await ask(there, **who) == (1, TIER)
        # An answer that a client has made anew is the next one's at other daemons, too.
        await stored(two, 2)
        assert await ask(there, 5, **who) == (2, MISS)
        await stored(two, 3)
        model.weights = 3
        assert await ask(there, 5, cache_control="no-cache", **who) == (3, "tidegate; fwd=request; stored")
        await stored(two, 4)
        assert await ask(here, 5, **who) == (3, TIER)


async def test_a_purge_takes_the_memory_of_every_daemon(start: Start, model: Model, redis: TierServers) -> None:
    one, two = start(config(model, redis)), start(config(model, redis))
    await up(one)
    await up(two)
    async with client_of(one) as here, client_of(two) as there:
        for arguments in (["--model", "m"], ["--pool", "models"], ["--all"], ["--tag", "model:models/m"]):
            before = model.weights
            await ask(here)
            await until(lambda: tier_of(one)["queued_bytes"] == 0)
            await ask(there)
            assert await ask(there) == (before, HIT)
            model.weights += 1
            assert one.command("cache", "purge", *arguments).returncode == 0
            # Here at once, whatever the tier knows.
            assert (await ask(here))[0] == model.weights

            async def told(before: int = before) -> bool:
                return (await ask(there))[0] != before

            await eventually_async(told)
            assert (await ask(there))[0] == model.weights
    assert tier_of(two)["invalidations"] >= 4


async def eventually_async(probe: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 60
    while not await probe():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_a_purge_wins_over_what_is_being_made(start: Start, model: Model, servers: TierServers) -> None:
    one, two = start(config(model, servers)), start(config(model, servers))
    await up(one)
    await up(two)
    async with client_of(one) as here, client_of(two) as there:
        await ask(here, 99)
        model.open.clear()
        old = asyncio.create_task(here.ask(question()))
        await until(lambda: model.asked == 2)
        model.weights = 2
        assert two.command("cache", "purge", "--model", "m").returncode == 0
        await until(lambda: tier_of(two)["pending_purges"] == 0)
        model.open.set()
        assert weights(await old, 1) == 1  # it was asked for before
        await until(lambda: tier_of(one)["queued_bytes"] == 0)
        assert (await ask(there))[0] == 2


async def test_a_purge_that_the_tier_cannot_be_told_holds_here(
    start: Start, model: Model, servers: TierServers
) -> None:
    one = start(config(model, servers, tier={"timeout": "200ms"}))
    await up(one)
    async with client_of(one) as client:
        for number in range(20):
            await ask(client, number)
        await stored(one, 20)
        servers.pause()
        model.weights = 2
        assert one.command("cache", "purge", "--model", "m").returncode == 0
        assert tier_of(one)["pending_purges"] > 0
        for number in range(10):
            assert (await ask(client, number))[0] == 2
        servers.resume()
        # What the tier has is from before, until it knows of the purge, and counts no more afterwards.
        for number in range(10, 20):
            assert (await ask(client, number))[0] == 2
        await until(lambda: tier_of(one)["pending_purges"] == 0)
        await up(one)
    two = start(config(model, servers))
    await up(two)
    async with client_of(two) as client:
        assert [(await ask(client, number))[0] for number in range(20)] == [2] * 20


async def test_who_has_another_secret_and_what_is_rubbish(start: Start, model: Model, servers: TierServers) -> None:
    one, other = start(config(model, servers)), start(config(model, servers, secret=SECRET + b" of others"))
    await up(one)
    await up(other)
    async with client_of(one) as here, client_of(other) as there:
        await ask(here)
        await stored(one, 1)
        model.weights = 2
        assert (await ask(there))[0] == 2
    third = start(config(model, servers))
    await up(third)
    if servers.kind != "memcached":
        for name in servers.names():
            if name.startswith(b"tidegate:e:"):
                servers.write(name, os.urandom(300))
        async with client_of(third) as client:
            assert (await ask(client))[0] == 2
        await until(lambda: tier_of(third)["hits"] == 0 and tier_of(third)["invalid"] + tier_of(third)["misses"] > 0)


async def load(port: int, model: Model, over: asyncio.Event) -> int:
    """Asks many different things; how many."""
    client = await Client(port).connect()
    count = 0
    while not over.is_set():
        number = (count * 7919 + id(client)) % 20_000
        count += 1
        assert weights(await client.ask(question(number)), number) == model.weights
    client.close()
    return count


@asynccontextmanager
async def under_load(daemon: Daemon, model: Model) -> AsyncIterator[None]:
    over = asyncio.Event()
    clients = [asyncio.create_task(load(daemon.port(), model, over)) for _ in range(4)]
    yield
    over.set()
    assert sum(await asyncio.gather(*clients)) > 100


async def test_servers_that_fail_under_load_cost_no_request(start: Start, model: Model, servers: TierServers) -> None:
    async with CuttingRelay(servers.ports[0]) as relay:
        limits = {"timeout": "250ms", "connect_timeout": "250ms"}
        made = config(model, servers, port=relay.port, size="1MiB", tier=limits)  # not all of it is in memory
        daemon = start(made)
        await up(daemon)
        async with under_load(daemon, model):
            await asyncio.sleep(0.5)
            for down, back in (
                (servers.kill, servers.start),
                (servers.pause, servers.resume),
                (lambda: setattr(relay, "left", 700), lambda: setattr(relay, "left", None)),
            ):
                before = tier_of(daemon)["opened"]
                down()
                await until(lambda before=before: tier_of(daemon)["opened"] > before, "a breaker opens")
                timeouts = tier_of(daemon)["timeouts"]
                await asyncio.sleep(1)
                # While it is left alone nobody waits for it: five failures in a row and those under way, by worker.
                assert tier_of(daemon)["timeouts"] - timeouts <= 2 * 5 + 4
                back()
                await up(daemon)
            hits = tier_of(daemon)["hits"] + tier_of(daemon)["misses"]
            await until(lambda: tier_of(daemon)["hits"] + tier_of(daemon)["misses"] > hits, "it is asked again")
        results = {dict(labels)["result"] for labels in daemon.metrics("tidegate_cache_tier_gets_total")}
        assert results == {"hit", "miss", "invalid", "timeout", "error", "skipped"}


async def test_a_tier_that_is_down_is_one_line(start: Start, model: Model, redis: TierServers) -> None:
    redis.kill()
    daemon = start(config(model, redis))
    async with client_of(daemon) as client:
        for number in range(100):
            assert (await ask(client, number))[0] == 1
        await until(lambda: "is not used for now" in daemon.log)
        redis.start()
        await up(daemon)
        await until(lambda: "is used again" in daemon.log)
        for number in range(100, 200):
            assert await ask(client, number) == (1, MISS)
    lines = [line for line in daemon.log.splitlines() if "cache tier" in line]
    assert len(lines) == 2, lines
    assert "ERROR" not in daemon.log


async def test_reloads_that_add_change_and_remove_the_tier(start: Start, model: Model, redis: TierServers) -> None:
    with_tier = config(model, redis)
    with_tier["listeners"]["web"]["bind"] = f"127.0.0.1:{free_port()}"
    without: dict[str, Any] = json.loads(json.dumps(with_tier))
    del without["cache"]["tier"]
    other: dict[str, Any] = json.loads(json.dumps(with_tier))
    other["cache"]["tier"]["prefix"] = "others:"
    daemon = start(without)
    assert tier_of(daemon) is None
    assert daemon.metrics("tidegate_cache_tier_gets_total") == {}
    async with under_load(daemon, model):
        for step in (with_tier, other, without, with_tier, without, other):
            assert (await asyncio.to_thread(daemon.reload, step))["ok"]
            await asyncio.sleep(0.3)
        await up(daemon)
        await until(lambda: tier_of(daemon)["stored"] > 0)
    names = redis.names()
    assert any(name.startswith(b"others:e:") for name in names)
    assert any(name.startswith(b"tidegate:e:") for name in names)


async def test_what_one_daemon_makes_anew_the_others_take(start: Start, model: Model, redis: TierServers) -> None:
    """And nobody asks the model for it a second time."""
    made = config(model, redis, ttl="3s", stale_while_revalidate="1h")
    one, two = start(made), start(made)
    await up(one)
    await up(two)
    async with client_of(one) as here, client_of(two) as there:
        await ask(here)
        await stored(one, 1)
        assert await ask(there) == (1, TIER)
        await asyncio.sleep(3.2)
        model.weights = 2
        assert (await ask(here))[1] == "tidegate; hit; detail=stale-while-revalidate"
        await stored(one, 2)
        assert model.asked == 2

        async def anew() -> bool:
            return (await ask(there))[0] == 2

        await eventually_async(anew)
    assert model.asked == 2
