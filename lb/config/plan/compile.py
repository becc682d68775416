"""A Config to the immutable plan that workers run by (design.md section 5)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from msgspec.structs import replace

from lb.config.address import HostPort, parse_address, port_of
from lb.config.forms import Member, by_form, members_of
from lb.config.memory import Memory
from lb.config.plan.access import ProviderPlan
from lb.config.plan.caching import ModelCachePlan, PoolCachePlan
from lb.config.plan.compile_route import compile_normalize, compile_route, compile_split, key_of
from lb.config.plan.plan import (
    AccessLogPlan,
    CachePlan,
    EndpointPlan,
    EndpointSpec,
    HopPlan,
    Http2Plan,
    ListenerPlan,
    Plan,
    PolicyPlan,
    PoolPlan,
    ProxyProtocolPlan,
    RoutePlan,
    SniRoutePlan,
)
from lb.config.plan.quotas import QuotaPlan
from lb.config.plan.routes import MapPlan
from lb.config.plan.tables import TablePlace, TablePlan
from lb.config.plan.wire import Packed, form, joined
from lb.config.schema.access import AccessConfig, access_of, access_plan, kept_claims, provider_plan
from lb.config.schema.disk import disk_plan
from lb.config.schema.file import (
    MAX_WORKERS,
    CacheConfig,
    Config,
    ListenerConfig,
    PolicyConfig,
    PoolConfig,
    RouteConfig,
)
from lb.config.schema.limits import limits_plan
from lb.config.schema.listeners.http2 import Http2Config
from lb.config.schema.listeners.keepalive import keepalive_plan, pool_keepalive_plan
from lb.config.schema.listeners.sampling import explain_plan
from lb.config.schema.listeners.sources import sources_plan
from lb.config.schema.listeners.tcp import UNIX, ProxyProtocolConfig
from lb.config.schema.listeners.tls import NOTHING, Material, answer_files, pool_tls_plan, tls_plan
from lb.config.schema.listeners.udp import udp_plan
from lb.config.schema.maps import maps_plan
from lb.config.schema.pools.affinity import cookie_plan, learn_plan, quic_plan, sequence_plan
from lb.config.schema.pools.cost import cost_plan
from lb.config.schema.pools.failover import groups_of
from lb.config.schema.pools.outlier import outlier_plan
from lb.config.schema.pools.queue import queue_plan
from lb.config.schema.pools.source import source_plan
from lb.config.schema.quotas import quota_plan
from lb.config.schema.routes.cache import freshness_plan
from lb.config.schema.routes.error_pages import error_page_plans
from lb.config.schema.tables import places_in_order, rule_plan, table_plan
from lb.config.schema.tier import tier_plan
from lb.config.schema.tracing import tracing_plan
from lb.config.units import MINUTE
from lb.errors import ConfigError

JOBS = "jobs"  # the listener by which requests of jobs come (lb.control.jobs.routes)
# For which requests may wait for the first replica of an engine: a machine may have to boot.
START_ELSEWHERE = 5 * MINUTE


class Allocator(Protocol):
    """Gives endpoints their record and counters their place in the shared segment; the same ones for the same names."""

    def endpoint(self, pool: str, address: str) -> int:
        """Slot of an endpoint's record."""
        ...

    def series(self, kind: str, name: str) -> int:
        """Index of a series of counters; `kind` is listener, route, pool (its queue and budgets), sessions (of a
        pool) or endpoint (whose name is `pool|address`), or for datagrams udp-listener or udp-endpoint."""
        ...


class PlanMemory:
    """The packed routes of the last plan by name, each with what it was compiled from, and their forms, for the next
    one. What else a route's plan depends on is compared as a whole: the pools with their places and protocols, the
    cache's defaults, the providers of identities, what listeners ask for, the quotas, the maps, the tables, and what
    files of bodies hold."""

    def __init__(self) -> None:
        self._around: tuple[Any, ...] = ()
        self.maps: Mapping[str, MapPlan] = {}  # of the plan that is made
        self.tables: Mapping[str, TablePlan] = {}  # the same
        self.files: Mapping[Path, bytes] = {}  # of this round
        self._clear()

    def _clear(self) -> None:
        self.routes: Memory[str, tuple[Member, int, bytes]] = Memory()
        # By the id of the first route of a form, which keeps it from others, whether the route is cached, and whether
        # its requests are our own; the listener where that asks for something itself; and the name of a route with a
        # canary, and the canary's share.
        self.forms: Memory[tuple[int, bool, bool, str, str, float], tuple[RouteConfig, bytes]] = Memory()

    def begin(
        self,
        config: Config,
        providers: Mapping[str, ProviderPlan],
        quotas: Mapping[str, QuotaPlan],
        maps: Mapping[str, MapPlan],
        tables: Mapping[str, TablePlan],
        material: Material,
    ) -> None:
        """Ends the round before, whatever came of its plan, and begins that of `config` with its `providers`, `quotas`,
        `maps` and `tables`, and what its files hold."""
        self.files = material.files
        # Not those of certificates, which change without a change of any route.
        bodies = {file.path: material.files.get(file.path) for file in answer_files(config)}
        around = (
            tuple((name, pool.protocol) for name, pool in config.pools.items()),
            config.cache is not None,
            providers,
            quotas,
            tuple(each.digest for each in maps.values()),
            tuple(each.digest for each in tables.values()),
            bodies,
            tuple((name, it.auth, it.track, it.table_rules) for name, it in config.listeners.items()),
        )
        if around == self._around:
            self.routes.keep()
            self.forms.keep()
        else:
            self._clear()
        self._around = around
        self.maps = maps
        self.tables = tables


def worker_count(config: Config) -> int:
    """The number of workers that `config` asks for; `auto` is one for each CPU this process may run on."""
    if config.workers != "auto":
        return config.workers
    return min(len(os.sched_getaffinity(0)), MAX_WORKERS)


def compile_plan(
    config: Config,
    *,
    generation: int,
    workers: int,
    allocator: Allocator,
    managed: Mapping[str, Sequence[EndpointSpec]],
    material: Material = NOTHING,
    tickets: tuple[bytes, ...] = (),
    models: Mapping[str, tuple[str, ...]] | None = None,
    memory: PlanMemory | None = None,
    canaries: Callable[[str, RouteConfig], float] = lambda name, route: 0.0,
    places: Mapping[str, TablePlace] | None = None,
) -> Plan:
    """The plan of `config`.

    `managed` has the endpoints, by pool, that are not in the file as they are: the ready servers of a managed pool,
    and what the host names of a pool resolve to (lb.discovery.static). A pool that is not in it has the endpoints of
    the file, none if it is managed. `material` is what the files of TLS sections hold, `tickets` the keys of session
    tickets, `models` those of each pool whose readiness is known.
    `canaries` says which share of its requests the canary of a route gets, in percent, by the route's name.
    `places` are those of tables in the segment; by default one is behind the other.
    `memory` has the routes of the plan before; those that did not change are taken from it. Raises ConfigError when the
    file's endpoints hold a host name.
    """
    memory = memory or PlanMemory()
    kept = kept_claims(config.auth, _asked_of(config))
    providers = {
        name: replace(provider_plan(name, provider, material), kept_claims=kept.get(name, ()))
        for name, provider in config.auth.items()
    }
    quotas = {name: quota_plan(name, quota) for name, quota in config.quotas.items()}
    maps = maps_plan(config.maps, material)
    at = places_in_order(config.tables) if places is None else places
    tables = {name: table_plan(name, table, at[name]) for name, table in config.tables.items()}
    memory.begin(config, providers, quotas, maps, tables, material)
    indices = {name: i for i, name in enumerate(config.pools)}
    return Plan(
        generation=generation,
        workers=workers,
        listeners=tuple(
            _listener(config, n, li, indices, allocator, material, memory, providers, quotas, canaries)
            for n, li in config.listeners.items()
        ),
        pools=tuple(
            replace(
                _pool(name, pool, managed.get(name), allocator, material, config.zone or ""),
                models=(models or {}).get(name, ()),
                cache=_pool_cache(config.cache, pool),
            )
            for name, pool in config.pools.items()
        ),
        cache=_cache(config.cache, material) if config.cache is not None else None,
        access_log=AccessLogPlan(config.log.access),
        drain_timeout_ns=config.shutdown.drain_timeout,
        tracing=tracing_plan(config.tracing),
        limits=limits_plan(config.limits),
        tickets=tickets if any(listener.tls is not None for listener in config.listeners.values()) else (),
        providers=tuple(providers.values()),
        quotas=tuple(quotas.values()),
        tables=tuple(tables.values()),
        maps=tuple(maps.values()),
    )


def _asked_of(config: Config) -> Iterator[AccessConfig]:
    """What listeners and routes ask of those who send requests."""
    for listener in config.listeners.values() if config.auth else ():
        for access in (listener.auth, *(first.auth for first, _ in by_form(members_of(listener.routes)))):
            if access is not None:
                yield access


def _listener(
    config: Config,
    name: str,
    listener: ListenerConfig,
    pools: Mapping[str, int],
    allocator: Allocator,
    material: Material,
    memory: PlanMemory,
    providers: Mapping[str, ProviderPlan],
    quotas: Mapping[str, QuotaPlan],
    canaries: Callable[[str, RouteConfig], float],
) -> ListenerPlan:
    return ListenerPlan(
        name=name,
        bind=(binds := listener.binds)[0],
        binds=binds if len(binds) > 1 else (),
        protocol=listener.protocol,
        series=allocator.series("listener", name),
        pool=pools[listener.pool] if listener.pool is not None else -1,
        routes=Packed(
            RoutePlan, _routes(config, name, listener.routes, pools, allocator, memory, providers, quotas, canaries)
        ),
        header_timeout_ns=listener.header_timeout,
        body_timeout_ns=listener.body_timeout,
        idle_timeout_ns=listener.idle_timeout,
        send_timeout_ns=listener.send_timeout,
        max_header_bytes=listener.max_header_bytes,
        max_headers=listener.max_headers,
        max_connections=listener.max_connections,
        forwarded=listener.forwarded,
        retry_buffer=listener.retry_buffer,
        min_body_rate=listener.min_body_rate,
        hop=_hop(config, listener),
        half_close_timeout_ns=listener.half_close_timeout,
        max_connections_per_source=listener.max_connections_per_source,
        proxy_protocol=_proxy_protocol(listener.proxy_protocol),
        sni_routes=tuple(
            SniRoutePlan(
                pool=pools[route.pool] if route.pool is not None else -1,
                sni=tuple(route.sni),
                alpn=tuple(route.alpn),
                sources=tuple(route.source),
                split=compile_split(route.pools, route.sticky, pools) if route.pools else None,
                terminate=route.tls == "terminate",
                listener=route.listener or "",
            )
            for route in listener.sni_routes
        ),
        http2=_http2(listener.http2),
        upgrades=tuple(name.lower() for name in listener.upgrades),
        upgrade_idle_timeout_ns=listener.upgrade_idle_timeout,
        aliased_headers=listener.aliased_headers,
        normalize=compile_normalize(listener.normalize_path) if listener.protocol in ("http", "https") else None,
        tls=(
            tls_plan(listener.protocol, listener.tls, listener.http2.enabled, material)
            if listener.tls is not None
            else None
        ),
        udp=udp_plan(listener.udp, name, allocator) if listener.protocol == "udp" else None,
        explain=explain_plan(listener.explain),
        keepalive=keepalive_plan(listener.tcp_keepalive) if listener.protocol != "udp" else None,
        split=compile_split(listener.pools, listener.sticky, pools) if listener.pools else None,
        error_pages=error_page_plans(listener.error_pages, material.files),
        sources=sources_plan(name, listener, material),
    )


def _hop(config: Config, listener: ListenerConfig) -> HopPlan:
    tracing = config.tracing
    return HopPlan(
        trusted_proxies=tuple(listener.trusted_proxies),
        port=port_of(listener.binds[0]),
        forwarded_header=listener.forwarded_header,
        via=listener.via,
        request_id=listener.request_id,
        tracing=tracing is not None,
        trace_ratio=tracing.ratio if tracing is not None else 0.0,
        trace_parent=tracing.parent if tracing is not None else "any",
    )


def _http2(http2: Http2Config) -> Http2Plan:
    return Http2Plan(
        enabled=http2.enabled,
        max_streams=http2.max_streams,
        stream_window=http2.stream_window,
        connection_window=http2.connection_window,
        max_age_ns=http2.max_connection_age,
        control_rate=http2.control_rate,
        reset_rate=http2.reset_rate,
    )


def _proxy_protocol(config: ProxyProtocolConfig | None) -> ProxyProtocolPlan | None:
    if config is None:
        return None
    networks = tuple(peer for peer in config.from_ if peer != UNIX)
    return ProxyProtocolPlan(networks, UNIX in config.from_, config.required, config.timeout)


def _routes(
    config: Config,
    listener: str,
    routes: Sequence[RouteConfig],
    pools: Mapping[str, int],
    allocator: Allocator,
    memory: PlanMemory,
    providers: Mapping[str, ProviderPlan],
    quotas: Mapping[str, QuotaPlan],
    canaries: Callable[[str, RouteConfig], float],
) -> list[bytes]:
    """The routes of a listener, packed."""
    items = []
    ours = config.jobs is not None and listener == JOBS
    series_of, known_of, keep = allocator.series, memory.routes.get, memory.routes.put
    for i, member in enumerate(members_of(routes)):
        name = member.name or f"{listener}/{i}"
        series = series_of("route", name)
        known = known_of(name)
        canary = member.first.canary is not None  # its share is not the file's, and changes without it
        if known is None or known[0] is not member or known[1] != series or canary:
            share = canaries(name, member.route) if canary else None
            its = _form(config, listener, member, name, series, pools, memory, providers, quotas, ours, share)
            host, _, _, path = member.place
            pool = -1 if member.pool is None or canary else pools[member.pool]
            known = keep(name, (member, series, joined((name, series, pool, host, path), its)))
        items.append(known[2])
    return items


def _form(
    config: Config,
    listener: str,
    member: Member,
    name: str,
    series: int,
    pools: Mapping[str, int],
    memory: PlanMemory,
    providers: Mapping[str, ProviderPlan],
    quotas: Mapping[str, QuotaPlan],
    ours: bool,
    share: float | None,
) -> bytes:
    """What the plans of the routes of a form have in common, packed. `ours`: requests come from ourselves. `share`: of
    its canary, which makes it a form of its own; None where it has none."""
    cached = config.cache is not None and _cached(config, member)
    around = config.listeners[listener]
    bound = around.auth is not None or around.track or around.table_rules
    own = "" if share is None else name
    key = id(member.first), cached, ours, listener if bound else "", own, share or 0.0
    known = memory.forms.get(key)
    if known is None:
        plan = replace(
            compile_route(member.route, name, series, pools, cached, memory.files, share or 0.0),
            access=access_plan(access_of(around.auth, member.first.auth), providers, ours),
            quotas=tuple((each, quotas[each].digest) for each in member.first.quota),
            track=(track := tuple(dict.fromkeys((*around.track, *member.first.track)))),
            table_rules=(rules := tuple(map(rule_plan, (*around.table_rules, *member.first.table_rules)))),
            tables=tuple(
                memory.tables[name].digest
                for name in dict.fromkeys(
                    (*track, *(each.table for rule in rules for each in rule.when), *member.first.table_names)
                )
            ),
            maps=tuple(memory.maps[name].digest for name in member.first.map_names if name in memory.maps),
        )
        known = memory.forms.put(key, (member.first, form(plan)))
    return known[1]


def _cache(cache: CacheConfig, material: Material) -> CachePlan:
    tier, disk = tier_plan(cache.tier, material), disk_plan(cache.disk)
    return CachePlan(cache.size, cache.max_object, tier, cache.tags_header or "", disk)


def _cached(config: Config, member: Member) -> bool:
    names = member.first.pool_names if member.pool is None else (member.pool,)
    return member.first.cache is not None and any(config.pools[name].protocol == "oip" for name in names)


def _pool_cache(cache: CacheConfig | None, pool: PoolConfig) -> PoolCachePlan | None:
    if cache is None or pool.cache is None or pool.protocol != "oip":
        return None
    models = tuple(
        ModelCachePlan(name, freshness_plan(model, pool.cache, cache) if model is not None else None)
        for name, model in pool.cache.models.items()
    )
    return PoolCachePlan(freshness_plan(pool.cache, cache), models)


def _pool(
    name: str,
    pool: PoolConfig,
    given: Sequence[EndpointSpec] | None,
    allocator: Allocator,
    material: Material,
    zone: str,
) -> PoolPlan:
    specs = _literal(name, pool) if given is None else given
    groups = groups_of(specs, zone, pool.zones)
    # An agent may limit its endpoint at any time.
    configured = pool.max_in_flight is not None or pool.agent is not None or any(spec.max_in_flight for spec in specs)
    learned = pool.learns_limits and not configured
    queues = pool.protocol != "udp" and (configured or pool.learns_limits or pool.awaits_start)
    counts = pool.protocol != "udp" and (queues or pool.protocol != "tcp")
    start = (START_ELSEWHERE if pool.serve is None else pool.serve.start_timeout) if pool.on_demand else 0
    return PoolPlan(
        name=name,
        protocol=pool.protocol,
        policy=_policy(pool.policy),
        endpoints=tuple(
            EndpointPlan(
                address=spec.address,
                slot=allocator.endpoint(name, spec.address),
                series=allocator.series("endpoint", f"{name}|{spec.address}"),
                weight=spec.weight,
                host=spec.host,
                datagrams=_datagrams(name, pool, spec, allocator),
                max_in_flight=spec.max_in_flight or pool.max_in_flight or 0,
                priority=spec.priority,
                zone=spec.zone,
                server_id=spec.server_id,
            )
            for spec in specs
        ),
        connect_timeout_ns=pool.connect_timeout,
        response_timeout_ns=pool.response_timeout,
        idle_timeout_ns=pool.idle_timeout,
        retries=pool.retries,
        avoid_failing=pool.avoid_failing,
        max_idle=pool.max_idle,
        send_proxy="" if pool.send_proxy.version == "off" else pool.send_proxy.version,
        on_marked_down=pool.on_marked_down,
        on_marked_up=pool.on_marked_up,
        send_unique_id=pool.send_proxy.unique_id,
        send_checksum=pool.send_proxy.checksum,
        tls=pool_tls_plan(pool.protocol, pool.tls, material) if pool.tls is not None else None,
        series=(series := allocator.series("pool", name) if counts else -1),
        learns_limits=pool.learns_limits,
        queue=queue_plan(pool.queue, series, learned=learned, start=start) if queues else None,
        on_demand=pool.on_demand,
        awaits_start=pool.awaits_start,
        managed=pool.serve is not None,
        shaped=pool.shaped or bool(groups),
        slow_start=pool.slow_start is not None,
        groups=groups,
        outlier=outlier_plan(pool.outlier, len(specs)) if pool.outlier is not None else None,
        sequence=sequence_plan(pool.protocol, pool.affinity),
        cookie=cookie_plan(pool.affinity, material),
        learn=learn_plan(pool.affinity, lambda: allocator.series("sessions", name)),
        source=source_plan(pool.source) if pool.source is not None else None,
        quic=quic_plan(pool.affinity),
        cost=cost_plan(pool.cost, pool.protocol),
        cache_rows=tuple(pool.cache.rows) if pool.cache is not None else (),
        keepalive=pool_keepalive_plan(pool.tcp_keepalive, pool.protocol, pool.connect_timeout),
    )


def _datagrams(name: str, pool: PoolConfig, spec: EndpointSpec, allocator: Allocator) -> int:
    return allocator.series("udp-endpoint", f"{name}|{spec.address}") if pool.protocol == "udp" else -1


def _literal(name: str, pool: PoolConfig) -> list[EndpointSpec]:
    for i, endpoint in enumerate(pool.endpoints):
        address = parse_address(endpoint.address)
        if isinstance(address, HostPort) and not address.literal:
            raise ConfigError([f"pools.{name}.endpoints[{i}]: {endpoint.address} has not been resolved"])
    return [e.spec(e.address) for e in pool.endpoints]


def _policy(policy: PolicyConfig) -> PolicyPlan:
    kind, name, ipv4, ipv6, depth, length = key_of(policy.key)
    source = policy.key.source if policy.key is not None else None
    return PolicyPlan(
        policy.type,
        kind,
        name,
        policy.options or None,
        ipv4,
        ipv6,
        depth,
        length,
        source_port=source is not None and source.port,
        source_destination=source is not None and source.destination,
    )
