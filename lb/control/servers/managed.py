"""The managed pools of a configuration: which supervisors run, and which endpoints they give.

A changed `serve` section starts as many servers as the load has now, beside the old ones, and takes over once they are
ready; a pool that had `endpoints` keeps them until then. So a reload never leaves a pool empty that was not, or with
less than its load needs. Servers with `gpus` or `cores` are replaced one at a time instead: there is seldom room for
two sets of them.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any, Protocol

from msgspec import Struct, field

from lb.config.plan.plan import EndpointSpec, Plan
from lb.config.schema.file import Config, PoolConfig, ServeConfig
from lb.config.schema.pools.engine import EngineConfig
from lb.control.background import Background
from lb.control.servers.model_server import same_process
from lb.control.upgrade.handover import ServerHandover
from lb.errors import StartError

log = logging.getLogger("tidegate.master")


class Server(Protocol):
    """The model servers of one `serve` section, with the scaling of their number."""

    @property
    def wanted(self) -> int:
        """How many there are to be."""

    async def start(self) -> None: ...
    def hold(self, number: int) -> None:
        """There are to be `number`, within its limits, and no load counts until `release`."""

    async def release(self) -> None: ...
    async def stop(self) -> None:
        """Drains and ends all of them."""

    def endpoints(self) -> Sequence[EndpointSpec]:
        """Those that are ready."""

    @property
    def rolling(self) -> bool:
        """Whether there are some with other settings than those of now."""

    async def reconfigure(self, pool: PoolConfig) -> None:
        """Follows other numbers and another `scaling` section. Where `serve` says something else of a process, the
        processes are replaced one at a time."""

    def hand_over(self) -> list[ServerHandover]:
        """Those that go on under another program in this process. Raises StartError."""

    def wake(self) -> None:
        """Requests wait for one of them: where there are none on demand, one is started."""

    async def woken(self) -> str:
        """Wakes them and waits until one is ready: "", or why none could be started."""

    def trouble(self) -> str:
        """Why none of them starts, for clients; "": nothing is known to be wrong."""

    def kill(self) -> None:
        """Ends all of them at once; a `stop` under way is over then."""

    def status(self) -> dict[str, Any]: ...
    def explain(self) -> dict[str, Any] | None:
        """Why there are as many as there are; None where their number is fixed."""


class _Settings(Struct, frozen=True):
    """What model servers are, and what runs them; others with other settings replace them."""

    serve: ServeConfig
    engine: EngineConfig | None

    @property
    def on_demand(self) -> bool:
        return self.serve.on_demand


class _Pool(Struct):
    name: str
    serve: _Settings
    server: Server
    fallback: tuple[EndpointSpec, ...] = ()  # the static endpoints it had before, until a model server is ready
    successor: tuple[_Settings, Server] | None = None
    leaving: list[Server] = field(default_factory=list)  # replaced, but workers may not know of the new ones yet
    served: bool = False  # a model server was ready once, or is started when a request comes
    rolling: bool = False  # the servers are replaced one at a time
    restarts_before: int = 0  # of servers that are gone
    epoch: int = 0  # of those that serve: another number for every `serve` section that took over

    def endpoints(self) -> Sequence[EndpointSpec]:
        return self.server.endpoints() or (() if self.served else self.fallback)


ServerFactory = Callable[[str, PoolConfig, Callable[[], None]], Server]


class ManagedPools:
    """`apply` follows the configuration; only `stop` waits.

    `factory(pool name, its configuration, on_change)` makes a Server; `changed(pool)` is called whenever what
    `endpoints` gives for a pool may be different.
    """

    def __init__(
        self,
        factory: ServerFactory,
        changed: Callable[[str], None],
        handed: Mapping[str, Sequence[EndpointSpec]] | None = None,
    ) -> None:
        """`handed` are the servers of the program before, by pool, with which `factory` goes on."""
        self._handed = handed or {}
        self._factory = factory
        self._changed = changed
        self._pools: dict[str, _Pool] = {}
        self._epochs: Counter[str] = Counter()  # of pools, also of those that are gone
        self._background = Background(log, "a managed pool failed")
        self._stopping: list[tuple[str, Server]] = []  # with the pool

    def endpoints(self, config: Config, running: Plan | None) -> dict[str, Sequence[EndpointSpec]]:
        """The endpoints of every managed pool of `config`, which may not be applied yet."""
        return {
            name: self._pools[name].endpoints()
            if name in self._pools
            else _endpoints(running, name) or self._handed.get(name, ())
            for name in _managed(config)
        }

    def apply(self, config: Config, before: Plan | None, plan: Plan) -> None:
        """Starts, changes and stops servers, now that all workers have `plan` of `config` instead of `before`."""
        for name, serve in _managed(config).items():
            self._apply(name, config.pools[name], serve, before)
        self._handed = {}
        for name in self._pools.keys() - _managed(config).keys():
            self._retire(self._pools.pop(name))
        for name, pool in self._pools.items():
            published = {spec.address for spec in _endpoints(plan, name)}
            for server in [s for s in pool.leaving if not _names(s.endpoints(), published)]:
                pool.leaving.remove(server)
                self._stop(name, server)

    def alive(self, pool: str, address: str) -> bool:
        """Whether the process behind an endpoint of a managed pool takes requests; True for other pools."""
        known = self._pools.get(pool)
        if known is None:
            return True
        # The static ones it had before have no process of ours: the plan that replaces them is their end.
        given = (known.fallback, known.server.endpoints(), *(server.endpoints() for server in known.leaving))
        return any(_names(specs, {address}) for specs in given)

    def epochs(self) -> dict[str, int]:
        """For every pool a number that is another one once servers of another `serve` section have taken over: what
        the result cache has from those before them is not what they would answer."""
        return {name: pool.epoch for name, pool in self._pools.items()}

    def _next_epoch(self, pool: str) -> int:
        self._epochs[pool] += 1
        return self._epochs[pool]

    def waiting(self) -> list[str]:
        """The pools that have never had an endpoint, but for those that get one when a request comes."""
        return [name for name, pool in self._pools.items() if not pool.served and not pool.endpoints()]

    def wake(self, pool: str) -> None:
        """Requests wait in a worker for an endpoint of a pool that has none."""
        if pool in self._pools:
            self._pools[pool].server.wake()
            self._keep_up(self._pools[pool])

    def status(self) -> dict[str, dict[str, Any]]:
        """Of those that serve, with the replicas that are to follow them (`next`) and those they have replaced; the
        restarts are all that the pool has seen."""
        return {name: self._status(name, pool) for name, pool in self._pools.items()}

    def explain(self, pool: str) -> dict[str, Any] | None:
        """Why a pool has as many replicas as it has (Server.explain); None of one that is not scaled."""
        known = self._pools.get(pool)
        return known.server.explain() if known is not None else None

    def _status(self, name: str, pool: _Pool) -> dict[str, Any]:
        serving = pool.server.status()
        coming = [pool.successor[1].status()] if pool.successor else []
        going = [s.status() for s in (*pool.leaving, *(s for owner, s in self._stopping if owner == name))]
        return {
            **serving,
            "next": [replica for status in coming for replica in status["replicas"]],
            "leaving": [replica for status in going for replica in status["replicas"]],
            "restarts": pool.restarts_before + sum(status["restarts"] for status in (serving, *coming, *going)),
        }

    def hand_over(self) -> tuple[list[ServerHandover], dict[str, int]]:
        """The servers that go on under another program in this process, and how many each pool wants. Raises
        StartError where some can neither go on nor end now."""
        found, wanted = [], {}
        for name, pool in self._pools.items():
            if pool.successor is not None or pool.leaving or any(owner == name for owner, _ in self._stopping):
                raise StartError(f"pool {name}: its model servers are being replaced")
            found += pool.server.hand_over()
            wanted[name] = pool.server.wanted
        return found, wanted

    async def stop(self) -> None:
        """Drains and stops every model server."""
        for name in list(self._pools):
            self._retire(self._pools.pop(name))
        await self._background.wait()

    def kill(self) -> None:
        """Ends every model server at once; a `stop` under way is over soon then."""
        running = [server for pool in self._pools.values() for server in self._servers(pool)]
        for server in [*(server for _, server in self._stopping), *running]:
            server.kill()

    async def woken(self, pool: str) -> str | None:
        """Waits until a managed pool has an endpoint: "", or why none could be started. Of another pool None, at
        once."""
        known = self._pools.get(pool)
        return await known.server.woken() if known is not None else None

    def _apply(self, name: str, pool: PoolConfig, serve: _Settings, before: Plan | None) -> None:
        known = self._pools.get(name)
        if known is None:
            fallback = tuple(_endpoints(before, name))
            self._pools[name] = _Pool(name, serve, self._start(name, pool), fallback)
            self._pools[name].served = bool(self._pools[name].server.endpoints())  # of the program before
            if serve.on_demand:
                self._serve_on_demand(self._pools[name])
            return
        if known.successor is not None and not _same_servers(known.successor[0], serve):
            self._stop(name, known.successor[1])
            known.successor = None
        if _same_servers(known.serve, serve):
            known.serve = serve
            self._background.spawn(known.server.reconfigure(pool))
        elif known.successor is None and known.server.wanted == 0:
            log.info("pool %s: it is at zero; its model servers will have the new settings", name)
            self._stop(name, known.server)
            known.serve, known.server, known.epoch = serve, self._start(name, pool), self._next_epoch(name)
            self._changed(name)  # what the cache has is of those before
        elif known.successor is None and _is_placed(known.serve.serve) and _is_placed(serve.serve):
            log.info("pool %s: its servers are replaced by ones with the new settings, one at a time", name)
            known.serve, known.epoch = serve, self._next_epoch(name)
            self._background.spawn(self._roll(known, pool))
        elif known.successor is None:
            log.info("pool %s: its model servers are replaced by ones with the new settings", name)
            known.successor = (serve, self._start(name, pool, known.server.wanted))
        else:
            known.successor = (serve, known.successor[1])
            self._background.spawn(known.successor[1].reconfigure(pool))

    async def _roll(self, known: _Pool, pool: PoolConfig) -> None:
        await known.server.reconfigure(pool)
        known.rolling = True

    def _serve_on_demand(self, pool: _Pool) -> None:
        """The next request starts a model server: there is no need of the endpoints from before."""
        pool.served = True
        if pool.fallback:
            pool.epoch = self._next_epoch(pool.name)
            self._changed(pool.name)

    def _start(self, name: str, pool: PoolConfig, held: int | None = None) -> Server:
        server = self._factory(name, pool, lambda: self._on_change(name))
        if held is not None:
            server.hold(held)
        self._background.spawn(server.start())
        return server

    def _on_change(self, name: str) -> None:
        pool = self._pools.get(name)
        if pool is None:
            return
        self._keep_up(pool)
        if pool.successor is not None:
            serve, server = pool.successor
            if len(server.endpoints()) >= max(1, min(server.wanted, len(pool.endpoints()))):
                pool.leaving.append(pool.server)
                pool.serve, pool.server, pool.successor = serve, server, None
                pool.epoch = self._next_epoch(pool.name)
                self._background.spawn(server.release())
                log.info("pool %s: the model servers with the new settings are ready and take over", name)
        if pool.rolling and not pool.server.rolling:
            # The result cache has answers of those before, which served until now.
            pool.rolling, pool.epoch = False, self._next_epoch(name)
            log.info("pool %s: all servers have the new settings", name)
        if not pool.served and pool.server.endpoints():
            pool.served, pool.epoch = True, self._next_epoch(name)
        self._changed(name)

    def _keep_up(self, pool: _Pool) -> None:
        """The load may have asked for others while those that follow load their models, which takes minutes where it is
        TensorRT."""
        if pool.successor is not None:
            pool.successor[1].hold(pool.server.wanted)

    def _retire(self, pool: _Pool) -> None:
        for server in self._servers(pool):
            self._stop(pool.name, server)

    def _servers(self, pool: _Pool) -> list[Server]:
        return [pool.server, *pool.leaving, *([pool.successor[1]] if pool.successor else [])]

    def _stop(self, pool: str, server: Server) -> None:
        async def stop() -> None:
            await server.stop()
            self._stopping.remove((pool, server))
            if pool in self._pools:
                self._pools[pool].restarts_before += server.status()["restarts"]

        self._stopping.append((pool, server))
        self._background.spawn(stop())


def _managed(config: Config) -> dict[str, _Settings]:
    return {name: _Settings(p.serve, p.engine) for name, p in config.pools.items() if p.serve is not None}


def _is_placed(serve: ServeConfig) -> bool:
    return serve.gpus is not None or serve.cores is not None


def _same_servers(a: _Settings, b: _Settings) -> bool:
    """Whether both say the same of each process, and of what runs it: all but how many there are."""
    return same_process(a.serve, b.serve) and a.engine == b.engine


def _names(specs: Sequence[EndpointSpec], addresses: Set[str]) -> bool:
    return any(spec.address in addresses for spec in specs)


def _endpoints(plan: Plan | None, pool: str) -> Sequence[EndpointSpec]:
    for known in plan.pools if plan is not None else ():
        if known.name == pool:
            return tuple(EndpointSpec(e.address, e.weight) for e in known.endpoints)
    return ()
