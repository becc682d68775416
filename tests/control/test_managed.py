"""Which model servers run for a configuration, and which endpoints they give, with stand-ins for the servers."""

from __future__ import annotations

import asyncio
from typing import Any

from lb.config.plan.compile import compile_plan
from lb.config.plan.plan import EndpointSpec, Plan
from lb.config.schema.file import Config, PoolConfig
from lb.control.servers.managed import ManagedPools


class Server:
    """Ready when the test says so."""

    def __init__(self, name: str, pool: PoolConfig, changed: Any) -> None:
        self.name, self.pool, self.changed = name, pool, changed
        self.started = self.stopped = self.killed = False
        self.drain = asyncio.Event()
        self.drain.set()
        self.ready: tuple[EndpointSpec, ...] = ()
        self.restarts = 0
        self.stuck = ""
        self.wanted = pool.serve.min if pool.serve else 0
        self.held = self.rolling = False

    def hold(self, number: int) -> None:
        self.wanted, self.held = number, True

    async def release(self) -> None:
        self.held = False

    def be_ready(self, *addresses: str) -> None:
        self.ready = tuple(map(EndpointSpec, addresses))
        self.changed()

    async def start(self) -> None:
        self.started = True

    async def stop(self) -> None:
        await self.drain.wait()
        self.stopped = True

    def endpoints(self) -> tuple[EndpointSpec, ...]:
        return self.ready

    async def reconfigure(self, pool: PoolConfig) -> None:
        self.pool = pool

    def wake(self) -> None:
        self.wanted = max(self.wanted, 1)

    async def woken(self) -> str:
        self.wake()
        return self.stuck

    def trouble(self) -> str:
        return self.stuck

    def kill(self) -> None:
        self.killed = True
        self.drain.set()

    def status(self) -> dict[str, Any]:
        return {"replicas": [{"address": spec.address} for spec in self.ready], "restarts": self.restarts}

    def explain(self) -> dict[str, Any] | None:
        return {"wanted": self.wanted}


class Managed:
    def __init__(self) -> None:
        self.servers: list[Server] = []
        self.changes: list[str] = []
        self.pools = ManagedPools(self.make, self.changes.append)
        self.plan: Plan | None = None

    def make(self, name: str, pool: PoolConfig, changed: Any) -> Server:
        self.servers.append(Server(name, pool, changed))
        return self.servers[-1]

    def addresses(self, config: Config) -> list[str]:
        return [spec.address for spec in self.pools.endpoints(config, self.plan)["p"]]

    async def apply(self, config: Config) -> None:
        self.plan, before = self.compile(config), self.plan
        self.pools.apply(config, before, self.plan)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    def compile(self, config: Config) -> Plan:
        class Numbers:
            def endpoint(self, pool: str, address: str) -> int:
                return 0

            def series(self, kind: str, name: str) -> int:
                return 0

        managed = self.pools.endpoints(config, self.plan)
        return compile_plan(config, generation=1, workers=1, allocator=Numbers(), managed=managed)


def config(**pool: Any) -> Config:
    pools = {"p": {"protocol": "oip", **pool}, "other": {"protocol": "tcp", "endpoints": ["127.0.0.1:1"]}}
    return Config.model_validate({"pools": pools})


def serving(models: str = "/models", **serve: Any) -> Config:
    return config(serve={"models": models, **serve})


async def test_a_managed_pool_has_no_endpoint_before_one_is_ready() -> None:
    managed = Managed()
    await managed.apply(serving())
    (server,) = managed.servers
    assert server.started
    assert managed.addresses(serving()) == []
    assert managed.pools.waiting() == ["p"]
    server.be_ready("unix:/1")
    assert managed.addresses(serving()) == ["unix:/1"]
    assert managed.changes == ["p"]
    assert managed.pools.waiting() == []
    assert managed.pools.alive("p", "unix:/1")
    assert not managed.pools.alive("p", "unix:/2")
    assert managed.pools.alive("other", "127.0.0.1:1")
    server.be_ready()
    assert managed.addresses(serving()) == []
    assert managed.pools.waiting() == []  # it has served: now it is down, not starting


async def test_other_numbers_keep_the_processes() -> None:
    managed = Managed()
    await managed.apply(serving())
    changed = serving(min=2, max=5)
    await managed.apply(changed)
    (server,) = managed.servers
    assert server.pool == changed.pools["p"]


async def test_other_models_take_over_when_enough_are_ready() -> None:
    managed = Managed()
    await managed.apply(serving(min=2))
    old = managed.servers[0]
    old.be_ready("unix:/1", "unix:/2")
    await managed.apply(serving("/other", min=2))
    new = managed.servers[1]
    assert new.started
    new.be_ready("unix:/3")
    assert managed.addresses(serving()) == ["unix:/1", "unix:/2"]
    assert not old.stopped
    new.be_ready("unix:/3", "unix:/4")
    assert managed.addresses(serving()) == ["unix:/3", "unix:/4"]
    assert managed.pools.alive("p", "unix:/1")  # workers have not heard of the new ones yet
    assert not old.stopped
    await managed.apply(serving("/other", min=2))
    assert old.stopped
    old.be_ready()
    assert not managed.pools.alive("p", "unix:/1")
    assert not new.stopped


async def test_the_successors_are_as_many_as_the_load_has_asked_for() -> None:
    managed = Managed()
    await managed.apply(serving(max=4))
    old = managed.servers[0]
    old.wanted = 3
    old.be_ready("unix:/1", "unix:/2", "unix:/3")
    await managed.apply(serving("/other", max=4))
    new = managed.servers[1]
    assert (new.wanted, new.held) == (3, True)
    new.be_ready("unix:/4", "unix:/5")
    assert len(managed.addresses(serving())) == 3  # one server less would not carry what three do
    old.wanted = 4
    old.be_ready("unix:/1", "unix:/2", "unix:/3", "unix:/6")
    assert new.wanted == 4  # the load grew meanwhile
    new.be_ready("unix:/4", "unix:/5", "unix:/7", "unix:/8")
    assert managed.addresses(serving()) == ["unix:/4", "unix:/5", "unix:/7", "unix:/8"]
    await asyncio.sleep(0)
    assert not new.held  # now they have the load, and follow it


async def test_a_pool_on_demand_is_never_waited_for() -> None:
    managed = Managed()
    await managed.apply(serving(min=0))
    assert managed.pools.waiting() == []
    managed.pools.wake("p")
    assert managed.servers[0].wanted == 1
    assert managed.pools.waiting() == []
    managed.pools.wake("gone")  # a reload has removed it meanwhile
    assert await managed.pools.woken("p") == ""
    assert await managed.pools.woken("other") is None


async def test_a_pool_with_a_fixed_number_is_waited_for_or_says_why_it_has_none() -> None:
    managed = Managed()
    await managed.apply(serving(min=2))
    assert await managed.pools.woken("p") == ""
    managed.servers[0].stuck = "its model server waits for free GPUs"
    assert await managed.pools.woken("p") == "its model server waits for free GPUs"
    assert managed.servers[0].wanted == 2


async def test_a_pool_on_demand_needs_no_endpoints_of_before() -> None:
    managed = Managed()
    static = config(endpoints=["127.0.0.1:1", "127.0.0.1:2"])
    await managed.apply(static)
    epochs = managed.pools.epochs()
    await managed.apply(serving(min=0))
    assert managed.changes == ["p"]  # the plan in force still has them
    assert managed.addresses(serving(min=0)) == []
    assert managed.pools.epochs() != epochs  # nor what the cache has of them


async def test_at_zero_others_take_over_at_once() -> None:
    managed = Managed()
    await managed.apply(serving(min=0))
    old, epoch = managed.servers[0], managed.pools.epochs()["p"]
    await managed.apply(serving("/other", min=0))
    new = managed.servers[1]
    await asyncio.sleep(0)
    assert (new.started, new.held, old.stopped) == (True, False, True)
    assert managed.pools.epochs()["p"] != epoch
    assert managed.changes == ["p"]  # so that the cache gives no answer of the old ones


async def test_a_start_under_way_is_not_given_up_for_others() -> None:
    managed = Managed()
    await managed.apply(serving(min=0))
    old = managed.servers[0]
    managed.pools.wake("p")
    await managed.apply(serving("/other", min=0))
    new = managed.servers[1]
    assert (new.wanted, new.held, old.stopped) == (1, True, False)
    old.be_ready("unix:/1")
    assert managed.addresses(serving()) == ["unix:/1"]
    new.be_ready("unix:/2")
    assert managed.addresses(serving()) == ["unix:/2"]


async def test_those_that_follow_are_woken_with_those_that_serve() -> None:
    managed = Managed()
    await managed.apply(serving(min=1))
    await managed.apply(serving("/other", min=0))
    old, new = managed.servers
    old.wanted = 3
    managed.pools.wake("p")
    assert new.wanted == 3


async def test_status_has_those_to_come_and_those_before() -> None:
    managed = Managed()

    def known() -> dict[str, list[str]]:
        status = managed.pools.status()["p"]
        return {kind: [r["address"] for r in status[kind]] for kind in ("replicas", "next", "leaving")}

    await managed.apply(serving(min=2))
    old = managed.servers[0]
    old.drain.clear()
    old.be_ready("unix:/1", "unix:/2")
    await managed.apply(serving("/other", min=2))
    new = managed.servers[1]
    new.be_ready("unix:/3")
    assert known() == {"replicas": ["unix:/1", "unix:/2"], "next": ["unix:/3"], "leaving": []}
    new.be_ready("unix:/3", "unix:/4")
    taken_over = {"replicas": ["unix:/3", "unix:/4"], "next": [], "leaving": ["unix:/1", "unix:/2"]}
    assert known() == taken_over
    await managed.apply(serving("/other", min=2))
    assert known() == taken_over  # they drain
    old.drain.set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert known()["leaving"] == []


async def test_the_restarts_of_a_pool_never_fall() -> None:
    managed = Managed()

    def restarts() -> int:
        return int(managed.pools.status()["p"]["restarts"])

    await managed.apply(serving())
    managed.servers[0].be_ready("unix:/1")
    managed.servers[0].restarts = 2
    await managed.apply(serving("/broken"))
    managed.servers[1].restarts = 3
    assert restarts() == 5
    await managed.apply(serving())
    assert managed.servers[1].stopped
    assert restarts() == 5
    await managed.apply(serving("/other"))
    managed.servers[2].be_ready("unix:/2")
    assert restarts() == 5
    await managed.apply(serving("/other"))
    assert managed.servers[0].stopped
    assert restarts() == 5


async def test_whoever_takes_over_has_a_cache_epoch_of_its_own() -> None:
    managed = Managed()
    seen = []

    async def step(config: Config) -> None:
        await managed.apply(config)
        seen.append(managed.pools.epochs().get("p"))

    await step(config(endpoints=["127.0.0.1:5"]))
    await step(serving())  # the static one still answers
    managed.servers[0].be_ready("unix:/1")
    await step(serving(max=2))
    managed.servers[0].be_ready()
    managed.servers[0].be_ready("unix:/2")  # a restart is no change
    await step(serving(max=2))
    await step(serving("/other"))  # not ready yet
    managed.servers[1].be_ready("unix:/3")
    await step(serving("/other"))
    await step(config(endpoints=["127.0.0.1:5"]))
    await managed.apply(serving())
    managed.servers[2].be_ready("unix:/4")
    await step(serving())
    assert seen == [None, 0, 1, 1, 1, 2, None, 3]


async def test_a_change_that_is_taken_back_stops_its_servers() -> None:
    managed = Managed()
    await managed.apply(serving())
    managed.servers[0].be_ready("unix:/1")
    await managed.apply(serving("/other"))
    await managed.apply(serving())
    assert managed.servers[1].stopped
    assert managed.addresses(serving()) == ["unix:/1"]
    assert not managed.servers[0].stopped


async def test_a_second_change_replaces_the_first() -> None:
    managed = Managed()
    await managed.apply(serving())
    managed.servers[0].be_ready("unix:/1")
    await managed.apply(serving("/second"))
    await managed.apply(serving("/third"))
    assert managed.servers[1].stopped
    managed.servers[2].be_ready("unix:/3")
    assert managed.addresses(serving()) == ["unix:/3"]


async def test_a_static_pool_keeps_its_endpoints_until_model_servers_are_ready() -> None:
    managed = Managed()
    await managed.apply(config(endpoints=["127.0.0.1:5", {"address": "127.0.0.1:6", "weight": 3}]))
    assert managed.addresses(serving()) == ["127.0.0.1:5", "127.0.0.1:6"]
    await managed.apply(serving())
    assert managed.addresses(serving()) == ["127.0.0.1:5", "127.0.0.1:6"]
    assert managed.pools.waiting() == []
    managed.servers[0].be_ready("unix:/1")
    assert managed.addresses(serving()) == ["unix:/1"]
    assert managed.pools.alive("p", "127.0.0.1:5")  # until a plan without it is everywhere
    managed.servers[0].be_ready()
    assert managed.addresses(serving()) == []


async def test_a_pool_that_goes_stops_its_servers() -> None:
    managed = Managed()
    await managed.apply(serving())
    await managed.apply(config(endpoints=["127.0.0.1:5"]))
    assert managed.servers[0].stopped
    managed.servers[0].be_ready("unix:/1")
    assert managed.changes == []


async def test_stop_waits_for_the_drain_and_kill_ends_it() -> None:
    managed = Managed()
    await managed.apply(serving())
    managed.servers[0].drain.clear()
    stopping = asyncio.create_task(managed.pools.stop())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not stopping.done()
    managed.pools.kill()
    await stopping
    assert managed.servers[0].killed
    assert managed.servers[0].stopped


async def test_servers_with_places_are_replaced_one_at_a_time() -> None:
    managed = Managed()
    await managed.apply(serving(cores=1))
    (server,) = managed.servers
    server.be_ready("unix:/a")
    before = managed.pools.epochs()["p"]
    await managed.apply(serving("/new", cores=1))
    assert managed.servers == [server]
    assert server.pool.serve is not None
    assert str(server.pool.serve.models) == "/new"
    # The cache has nothing of the old ones for the new ones, from the first of these to the last of those.
    rolling = managed.pools.epochs()["p"]
    assert rolling > before
    server.rolling = True
    server.be_ready("unix:/a", "unix:/b")
    assert managed.pools.epochs()["p"] == rolling
    server.rolling = False
    server.be_ready("unix:/b")
    assert managed.pools.epochs()["p"] > rolling
    await managed.pools.stop()
