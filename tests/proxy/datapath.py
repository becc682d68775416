"""A data path in the test's own process: real sockets, scripted endpoints."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace
from waiting import until

from lb.config.plan.caching import FreshnessPlan, PoolCachePlan
from lb.config.plan.plan import (
    AccessLogPlan,
    CachePlan,
    EndpointPlan,
    Http2Plan,
    ListenerPlan,
    Plan,
    PolicyPlan,
    PoolPlan,
    RoutePlan,
)
from lb.control.counters import series_of as plan_series
from lb.control.endpoints.asking import Asked
from lb.control.endpoints.inference_counts import InferenceCounts
from lb.control.endpoints.pool_calls import PoolCalls
from lb.control.endpoints.server_calls import Rules, ServerCalls
from lb.proxy.proxy import Proxy
from lb.shared.segment import Segment
from lb.telemetry.series import Series

SECOND = 1_000_000_000
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def listening_socket(dual_stack: bool = False) -> tuple[int, int]:
    """A listening descriptor on a free loopback port, and the port. `dual_stack`: one of IPv6 that takes IPv4, too."""
    made = socket.socket(socket.AF_INET6 if dual_stack else socket.AF_INET)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if dual_stack:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    made.bind(("::" if dual_stack else "127.0.0.1", 0))
    made.listen(1024)
    port = made.getsockname()[1]
    return made.detach(), port


def series_of(plan: Plan, segment: Segment, number: int) -> Series:
    """What a series of the plan says."""
    kind = next(kind for kind, _, found in plan_series(plan) if found == number)
    return Series(kind, segment.series_total(number))


HTTP2 = Http2Plan(
    enabled=True, max_streams=128, stream_window=256 * 1024, connection_window=4 << 20, max_age_ns=0,
    control_rate=200, reset_rate=200,
)  # fmt: skip
HTTP = ListenerPlan(
    name="web", bind="", protocol="http", series=1, pool=-1, routes=(), header_timeout_ns=10 * SECOND,
    body_timeout_ns=10 * SECOND, idle_timeout_ns=60 * SECOND, send_timeout_ns=10 * SECOND, max_header_bytes=16384,
    max_headers=100, max_connections=1000,
    forwarded="append", retry_buffer=65536, http2=HTTP2, upgrades=("websocket",),
    upgrade_idle_timeout_ns=60 * SECOND,
)  # fmt: skip
ROUTE = RoutePlan(
    name="all", series=2, pool=0, host="", path_kind="", path="", methods=(), cache=True,
    timeout_ns=0, max_body=64 << 20,
)  # fmt: skip
POOL = PoolPlan(
    name="pool", protocol="http", policy=PolicyPlan("round_robin"), endpoints=(), connect_timeout_ns=SECOND,
    response_timeout_ns=10 * SECOND, idle_timeout_ns=60 * SECOND, retries=1, max_idle=16,
    cache=PoolCachePlan(FreshnessPlan(SECOND, 0, 0, 0, 0)),
    avoid_failing=False,  # whose turn it is does not depend on what the endpoints answered before
)  # fmt: skip


class Consulted:
    """The master's part in calls of whole pools, for a data path in the same process."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.down: set[str] = set()  # addresses that the master takes for down
        self.rules = Rules(timeout=5.0)
        self.woken: list[str] = []  # pools, once for each time that a model server is asked for
        self.models_changed: list[str] = []  # pools, once for each load and unload
        self.withheld: dict[str, dict[str, frozenset[str]]] = {}
        self.loaded: list[
            tuple[str, str, bool]
        ] = []  # addresses of endpoints, with models that they loaded or unloaded
        self.server_calls = ServerCalls(
            self._endpoints,
            lambda pool, address: Asked(address),
            lambda pool: self.rules,
            self._model_changed,
            self._withhold,
            self._loaded,
        )
        self.count: Callable[[str], None] = lambda pool: None  # has the data path count inferences
        self.counted: Callable[[str], list[tuple[str, list[int]]]] = lambda pool: []
        self.counts = InferenceCounts(self._counts, self._begin)
        self.calls = PoolCalls(self._endpoints, self.server_calls, self.counts, timeout=5.0)
        self._answering: set[asyncio.Task[None]] = set()

    async def _counts(self, pool: str) -> dict[str, list[tuple[str, list[int]]]]:
        return {"worker": self.counted(pool)}

    async def _begin(self, pool: str) -> None:
        self.count(pool)

    async def _model_changed(self, pool: str, model: str) -> None:
        self.models_changed.append(pool)

    def _withhold(self, pool: str, withheld: Mapping[str, frozenset[str]]) -> None:
        self.withheld[pool] = dict(withheld)

    def _loaded(self, pool: str, addresses: Collection[str], model: str, ready: bool) -> None:
        self.loaded += [(address, model, ready) for address in addresses]

    def _endpoints(self, name: str) -> list[Asked]:
        addresses = [e.address for pool in self.plan.pools if pool.name == name for e in pool.endpoints]
        return [Asked(address) for address in addresses if address not in self.down]

    def ask(self, pool: str, method: str, request: bytes, told: Callable[[int, str, bytes], None]) -> None:
        async def answer() -> None:
            told(*await self.calls.answer(pool, method, request))

        task = asyncio.get_running_loop().create_task(answer())
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)


@dataclass
class Gate:
    """A running data path; `port` is its only listener's, `master` stands in for the master."""

    proxy: Proxy
    segment: Segment
    plan: Plan
    port: int

    def __post_init__(self) -> None:
        self.master = Consulted(self.plan)
        self.proxy.connect(self.master.ask, self.master.woken.append)
        self.master.counted = self.proxy.model_counts

    def total(self, series: int) -> Series:
        return series_of(self.plan, self.segment, series)

    def in_flight(self) -> int:
        return sum(self.segment.inflight(e.slot) for p in self.plan.pools for e in p.endpoints)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 24)

    async def exchange(self, request: bytes) -> bytes:
        """Sends `request` on a new connection and reads until the gate closes it."""
        reader, writer = await self.connect()
        writer.write(request)
        answer = await asyncio.wait_for(reader.read(-1), 90)
        writer.close()
        return answer


@contextlib.asynccontextmanager
async def sharing(site: Site, count: int, make: Callable[..., Awaitable[Gate]]) -> AsyncIterator[list[Gate]]:
    """So many workers with one segment and one plan, in this process, each with a port of its own. `make` makes the
    first, as `Site.gate` does of `workers` and `wakeups`."""
    wakeups = [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(count)] if count > 1 else []
    gate = await make(workers=count, wakeups=wakeups)
    gates = [gate]
    for worker in range(1, count):
        proxy = Proxy(asyncio.get_running_loop(), Segment.attach(os.dup(gate.segment.fd), worker), -1, wakeups)
        fd, port = listening_socket()
        proxy.apply(gate.plan, {"web": fd})
        site.descriptors[port] = fd
        gates.append(Gate(proxy, gate.segment, gate.plan, port))
    try:
        yield gates
    finally:
        for other in gates[1:]:
            other.proxy.close()
        for fd in wakeups:
            os.close(fd)


async def settle(condition: Callable[[], bool], what: str) -> None:
    """Waits until `condition` holds; fails with `what`."""
    await until(condition, what)


class Site:
    """Starts endpoints and gates, and stops them all at the end of the test."""

    def __init__(self) -> None:
        self.servers: list[asyncio.Server] = []
        self.gates: list[Gate] = []
        self.descriptors: dict[int, int] = {}  # port -> listening descriptor, to apply another plan with
        self.models: list[Any] = []  # oip_site.ModelServer

    async def endpoint(self, handler: Handler, tls: ssl.SSLContext | None = None) -> str:
        async def guarded(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await handler(reader, writer)

        server = await asyncio.start_server(guarded, "127.0.0.1", 0, limit=1 << 24, ssl=tls, backlog=1024)
        self.servers.append(server)
        return f"127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def model(self, server: Any) -> str:
        """Starts an oip_site.ModelServer; its address."""
        self.models.append(server)
        return str(await server.start())

    async def gate(
        self,
        addresses: list[str],
        *,
        listener: dict[str, Any] | None = None,
        pool: dict[str, Any] | None = None,
        route: dict[str, Any] | None = None,
        cache_size: int = 0,
        more_pools: Sequence[list[str]] = (),
        dual_stack: bool = False,
        tickets: tuple[bytes, ...] = (),
        cap: int = 0,
        workers: int = 1,
        wakeups: Sequence[int] = (),
    ) -> Gate:
        """A data path in front of `addresses`; `cache_size` bytes of result cache, 0 for none. `more_pools` are further
        pools like the first, by their addresses; `tickets` seal TLS sessions. `cap` is the most requests in flight at
        each endpoint, 0 for any number. It is the first of `workers`, of which `wakeups` are the eventfds."""
        tcp = (listener or {}).get("protocol") in ("tcp", "tls")
        made_pools = []
        for each in (addresses, *more_pools):
            first = sum(len(p.endpoints) for p in made_pools)
            numbered = tuple(
                EndpointPlan(a, first + i, 10 + first + i, 1, max_in_flight=cap) for i, a in enumerate(each)
            )
            settings = {"protocol": "tcp" if tcp else "http", **(pool or {})}
            made_pools.append(replace(POOL, name=f"pool{first or ''}", endpoints=numbered, **settings))
        pools = tuple(made_pools)
        endpoints = [endpoint for each in pools for endpoint in each.endpoints]
        routes = () if tcp else (replace(ROUTE, **(route or {})),)
        made = replace(HTTP, **{"routes": routes, "pool": 0 if tcp else -1, **(listener or {})})
        cache = CachePlan(cache_size, 1 << 20) if cache_size else None
        plan = Plan(1, 1, (made,), pools, cache, AccessLogPlan(""), 10 * SECOND, tickets=tickets)
        master = Segment.create(workers, cache_size=cache_size)
        for endpoint in endpoints:
            # As the master does: a slot in use has a generation, without which one pin in 4,096 would be none.
            master.set_key(endpoint.slot, endpoint.address)
            master.set_health(endpoint.slot, True, 0)
            master.set_weight(endpoint.slot, 1)
        fd, port = listening_socket(dual_stack)
        self.descriptors[port] = fd
        proxy = Proxy(asyncio.get_running_loop(), Segment.attach(master.fd, 0), -1, wakeups)
        proxy.apply(plan, {"web": fd})
        gate = Gate(proxy, master, plan, port)
        self.gates.append(gate)
        return gate

    def reload(self, gate: Gate, *, generation: int = 2, **changes: Any) -> None:
        """Applies the gate's first plan with `changes`."""
        plan = replace(gate.plan, generation=generation, **changes)
        gate.proxy.apply(plan, {"web": self.descriptors[gate.port]})
        gate.master.plan = plan

    def reload_pool(self, gate: Gate, *, generation: int = 2, **changes: Any) -> None:
        """The same with changes of its only pool."""
        (pool,) = gate.plan.pools
        self.reload(gate, generation=generation, pools=(replace(pool, **changes),))
