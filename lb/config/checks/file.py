"""What concerns more than one field or section: the checks that the loader runs after the models'.

Every function yields problems as (path, message). `broken` holds paths of sections that have been reported already
and stand in `config` by their defaults or not at all (`admin`, `cache`, `pools.NAME`, `listeners.NAME`): nothing is
said about what depends on them.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Set
from importlib.util import find_spec
from pathlib import Path

from lb.config.address import Bind, HostPort, collide, parse_bind
from lb.config.checks.access import check_access, check_quotas
from lb.config.checks.affinity import check_affinity
from lb.config.checks.bind import check_bind
from lb.config.checks.effects import check_effects
from lb.config.checks.endpoints import check_endpoints
from lb.config.checks.health import check_health
from lb.config.checks.jobs import check_jobs
from lb.config.checks.routes import Found as Found
from lb.config.checks.routes import check_table
from lb.config.checks.scaling import check_scaling
from lb.config.checks.streams import check_reference, check_sources, check_stream
from lb.config.checks.tables import check_tables
from lb.config.checks.tls import check_tls
from lb.config.checks.udp import check_source_key, check_udp_send_proxy
from lb.config.checks.values import check_error_pages, check_maps, check_values
from lb.config.forms import by_form, members_of
from lb.config.regular_file import read_regular, without_bom
from lb.config.schema.base import only_for
from lb.config.schema.file import Config, ListenerConfig, PoolConfig, RouteConfig, ServeConfig
from lb.config.schema.jobs import JobStoreConfig
from lb.config.schema.listeners.bind import MOST
from lb.config.schema.listeners.keepalive import check_pool_keepalive
from lb.config.schema.listeners.sampling import check_explain
from lb.config.schema.pools.agent import check_agent
from lb.config.schema.pools.cache import check_pool_cache
from lb.config.schema.pools.cost import check_cost
from lb.config.schema.pools.engine import EngineConfig
from lb.config.schema.pools.failover import check_failover
from lb.config.schema.pools.source import check_source
from lb.config.schema.tables import LEAST_SECRET, PeersConfig
from lb.config.schema.tracing import check_tracing

Check = Callable[[Config], list[Found]]
"""A check that a part above this one adds to the loader's own, such as that of the balancing policies."""

_NONE_AT_ZERO = "not with min: 0 of {}: without requests the pool has no endpoint"
_NO_CACHE = "there is no cache; add a section cache: {}"
_PLAIN_HTTP = {"http", "http2"}
_INFERENCE_FIELDS = ("cache-status", "content-type", "date", "inference-header-content-length")
_RESULT_FIELDS = ("cache-control", "content-location", "etag")


def check_config(config: Config, broken: Set[str] = frozenset()) -> list[Found]:
    """Every problem between the sections of `config`."""
    return [
        *_presence(config, broken),
        *_binds(config, broken),
        *(p for name, listener in config.listeners.items() for p in _listener(config, broken, name, listener)),
        *_route_names(config),
        *(p for name, pool in config.pools.items() for p in _pool(name, pool)),
        *_caches_of_pools(config, broken),
        *check_failover(config.pools, config.zone is not None or "zone" in broken),
        *_cache(config, broken),
        *check_jobs(config, broken),
        *check_access(config, broken),
        *check_quotas(config, broken),
        *check_maps(config),
        *check_tables(config, broken),
        *check_tls(config.listeners, config.pools),
        *check_effects(config, broken),
        *check_explain({name: listener.explain for name, listener in config.listeners.items()}, config.log.access),
    ]


def check_files(config: Config) -> list[Found]:
    """Problems with the files and folders that `config` names, as this process sees them."""
    return list(_files(config))


def _presence(config: Config, broken: Set[str]) -> Iterator[Found]:
    if not config.listeners and not any(path.split(".")[0] == "listeners" for path in broken):
        yield "listeners", "is required: at least one is needed"


def _binds(config: Config, broken: Set[str]) -> Iterator[Found]:
    taken: dict[tuple[bool, int], list[tuple[str, Bind]]] = {}  # by kind and port: there may be thousands
    if "admin" not in broken:
        admin = Bind(parse_bind(config.admin.bind))
        taken[False, _port(admin)] = [("admin", admin)]
    for name, listener in config.listeners.items():
        for i, item in enumerate(listener.bind):
            path = f"listeners.{name}.bind" + (f"[{i}]" if len(listener.bind) > 1 else "")
            yield from check_bind(path, item, listener.protocol)
            for bind in item.sockets():
                others = taken.setdefault((listener.protocol == "udp", _port(bind)), [])
                other = next((other for other, theirs in others if collide(bind, theirs)), None)
                if other is not None:
                    yield path, f"{bind} is taken by {other}"
                others.append((f"listeners.{name}", bind))
        if len(listener.binds) > MOST:
            yield f"listeners.{name}.bind", f"is {len(listener.binds)} sockets, and {MOST} are the most"


def _port(bind: Bind) -> int:
    return bind.address.port if isinstance(bind.address, HostPort) else 0


def _listener(config: Config, broken: Set[str], name: str, listener: ListenerConfig) -> Iterator[Found]:
    path = f"listeners.{name}"
    yield from check_sources(config, name, listener)
    if listener.protocol in ("tcp", "tls", "udp"):
        yield from check_stream(config, broken, name, listener)
        return
    yield from only_for(listener, path, ("sni_routes",), "only for protocol tls")
    yield from only_for(listener, path, ("udp",), "only for protocol udp")
    yield from only_for(listener, path, ("pools", "sticky"), "only for protocols tcp, tls and udp; a route has its own")
    yield from only_for(listener, path, ("half_close_timeout",), "only for protocols tcp and tls")
    if listener.pool is not None:
        yield f"{path}.pool", "only for protocols tcp and udp; an http listener has routes"
    if not listener.routes:
        yield f"{path}.routes", "is required for protocol http: at least one route"
    ordinary = {name for name, pool in config.pools.items() if pool.protocol in ("http", "http2", "grpc")}
    members = members_of(listener.routes)
    for where, problem in check_error_pages(listener, listener.error_pages):
        yield f"{path}.{where}", problem
    for first, places in by_form(members):
        for where, problem in check_values(config, broken, listener, first):
            for i in places:
                yield f"{path}.routes[{i}].{where}", problem
        plain = (
            first.mirror is None and first.canary is None and first.model_fields_set.isdisjoint(("cache", "http_cache"))
        )
        for i in places:
            if plain and members[i].pool in ordinary:
                continue  # as most of thousands are: nothing below is about it
            route = members[i].route
            for where, pool in _pools_of(f"{path}.routes[{i}]", route):
                yield from check_reference(config, broken, where, pool, "http")
            yield from _route(config, broken, f"{path}.routes[{i}]", route)
    yield from check_table(path, listener)
    if listener.forwarded_header and listener.forwarded == "off":
        yield f"{path}.forwarded_header", "has no effect with forwarded: off"


def _pools_of(path: str, route: RouteConfig) -> Iterator[tuple[str, str]]:
    """The pools that a route names, each with its place."""
    if route.pool is not None:
        yield f"{path}.pool", route.pool
    for i, share in enumerate(route.pools):
        yield f"{path}.pools[{i}].pool", share.pool
    if route.mirror is not None:
        yield f"{path}.mirror.pool", route.mirror.pool
    if route.canary is not None:
        yield f"{path}.canary.pool", route.canary.pool


def _route(config: Config, broken: Set[str], path: str, route: RouteConfig) -> Iterator[Found]:
    explicit = route.model_fields_set
    protocols = {config.pools[name].protocol for name in route.pool_names if name in config.pools}
    if "cache" in explicit and route.cache is not None:
        if config.cache is None and "cache" not in broken:
            yield f"{path}.cache", _NO_CACHE
        elif protocols and "oip" not in protocols:
            names = " and ".join(repr(name) for name in route.pool_names)
            yield f"{path}.cache", f"only for pools of protocol oip, and {names} is not one"
    if route.http_cache is not None:
        if config.cache is None and "cache" not in broken:
            yield f"{path}.http_cache", _NO_CACHE
        elif other := sorted(protocols - _PLAIN_HTTP):
            yield f"{path}.http_cache", f"only for pools of protocol http or http2, not {' and '.join(other)}"
        most = route.http_cache.max_object
        if most is not None and config.cache is not None and most > config.cache.largest_object:
            yield f"{path}.http_cache.max_object", "is more than max_object of the section cache, or of its disk"
    for name in ("compression", "decompression"):
        if getattr(route, name) is not None and (other := sorted(protocols - _PLAIN_HTTP)):
            yield f"{path}.{name}", f"only for pools of protocol http or http2, not {' and '.join(other)}"
    if "oip" in protocols:
        tags_header = config.cache.tags_header if config.cache is not None else None
        yield from _inference(path, route, tags_header)
        if protocols == {"oip"}:
            yield from only_for(route, path, ("response_rewrite",), "only for pools of protocol http, http2 and grpc")
    elif protocols:
        yield from only_for(route, path, ("server_calls", "stream_messages"), "only for pools of protocol oip")
    if route.mirror is not None and route.mirror.pool in config.pools and protocols:
        if protocols != {config.pools[route.mirror.pool].protocol}:
            yield (
                f"{path}.mirror.pool",
                f"must speak what the route's pools speak: {' and '.join(sorted(protocols))}",
            )
        if route.mirror.pool in route.pool_names and (route.canary is None or route.mirror.pool != route.canary.pool):
            yield f"{path}.mirror.pool", "answers the route already: it would get each request twice"
        if route.mirror.compare is not None and protocols != {"oip"}:
            yield f"{path}.mirror.compare", "only for pools of protocol oip"
    if route.canary is not None and route.canary.pool in config.pools and route.pool in config.pools:
        if config.pools[route.canary.pool].protocol != config.pools[route.pool].protocol:
            yield f"{path}.canary.pool", f"must speak what the baseline speaks: {config.pools[route.pool].protocol}"
        compared = route.mirror is not None and route.mirror.compare is not None
        if route.canary.max_difference is not None and (
            route.mirror is None or not compared or route.mirror.pool != route.canary.pool
        ):
            yield f"{path}.canary.max_difference", "needs a mirror of the route to the canary's pool with compare"
        if route.canary.pool == route.pool:
            yield f"{path}.canary.pool", "is the baseline itself"


def _inference(path: str, route: RouteConfig, tags_header: str | None) -> Iterator[Found]:
    """What has no effect on an inference: a message of its own goes to the model server, its answer is made here."""
    if route.request_headers is not None:
        yield f"{path}.request_headers", "only for pools of protocol http"
    if route.rewrite is not None and route.rewrite.host is not None:
        yield f"{path}.rewrite.host", "only for pools of protocol http"
    changes = route.response_headers
    if changes is None:
        return
    if changes.remove:
        yield f"{path}.response_headers.remove", "only for pools of protocol http"
    results = route.cache is not None and route.cache.results_by_get
    own = (*_INFERENCE_FIELDS, *(_RESULT_FIELDS if results else ()), *([tags_header.lower()] if tags_header else ()))
    for section, names in (("set", changes.set), ("add", changes.add)):
        for name in names:
            if name.lower() in own:
                yield (
                    f"{path}.response_headers.{section}.{name}",
                    "is set by Tidegate for pools of protocol oip",
                )


def _route_names(config: Config) -> Iterator[Found]:
    seen: dict[str, str] = {}
    for name, listener in config.listeners.items():
        for i, member in enumerate(members_of(listener.routes)):
            if member.name is None:
                continue
            path = f"listeners.{name}.routes[{i}]"
            if seen.setdefault(member.name, path) != path:
                yield f"{path}.name", f"{member.name!r} is the name of {seen[member.name]} already"


def _pool(name: str, pool: PoolConfig) -> Iterator[Found]:
    path = f"pools.{name}"
    if pool.protocol not in ("tcp", "udp"):
        yield from only_for(pool, path, ("send_proxy",), "only for protocols tcp and udp")
    if pool.protocol == "udp":
        marks = ("on_marked_down", "on_marked_up")
        yield from only_for(pool, path, marks, "not for protocol udp, whose sessions move with the next datagram")
    elif pool.on_marked_up != "keep" and pool.endpoints and len({each.priority for each in pool.endpoints}) == 1:
        yield f"{path}.on_marked_up", "has no effect: all endpoints have the same priority"
    if pool.protocol != "http":
        yield from only_for(pool, path, ("max_idle", "idle_timeout"), "only for protocol http")
    if pool.protocol != "oip":
        yield from only_for(pool, path, ("server_calls",), "only for protocol oip")
    yield from check_affinity(f"{path}.affinity", pool)
    if pool.protocol in ("tcp", "udp"):
        yield from only_for(pool, path, ("response_timeout",), f"not for protocol {pool.protocol}")
    if pool.protocol == "udp":
        yield from only_for(pool, path, ("connect_timeout",), "not for protocol udp, which connects to nobody")
        yield from only_for(pool, path, ("queue",), "not for protocol udp: datagrams do not wait")
        yield from only_for(pool, path, ("tcp_keepalive",), "not for protocol udp, which has no connections")
        yield from check_udp_send_proxy(f"{path}.send_proxy", pool.send_proxy)
        yield from only_for(pool, path, ("outlier",), "not for protocol udp, whose endpoints give no verdict")
    elif _never_waits(pool):
        yield from only_for(pool, path, ("queue",), "has no effect: nobody waits for endpoints without limits")
    yield from check_pool_keepalive(f"{path}.tcp_keepalive", pool.tcp_keepalive, pool.connect_timeout)
    if pool.scaling is not None and pool.serve is None and pool.engine is None:
        yield f"{path}.scaling", "only with serve or engine: nothing is known that runs the endpoints"
    if pool.scaling is not None:
        yield from check_scaling(f"{path}.scaling", pool.scaling, pool.serve, pool.engine)
    if pool.engine is not None:
        yield from _engine(f"{path}.engine", pool, pool.engine)
    if pool.serve is not None:
        yield from _serve(path, pool)
    if pool.policy.key is not None and pool.policy.key.model and pool.protocol != "oip":
        yield f"{path}.policy.key.model", "only for pools of protocol oip"
    if pool.policy.key is not None and pool.protocol in ("tcp", "udp") and not pool.policy.key.source:
        yield f"{path}.policy.key", f"a pool of protocol {pool.protocol} knows only source: true"
    if pool.policy.key is not None and pool.protocol != "udp":
        yield from check_source_key(f"{path}.policy.key", pool.policy.key)
    if pool.outlier is not None and pool.outlier.base_ejection_time > pool.outlier.max_ejection_time:
        yield f"{path}.outlier.base_ejection_time", "is longer than max_ejection_time"
    yield from check_cost(f"{path}.cost", pool.cost, pool.protocol)
    if pool.slow_start is not None and pool.policy.key is not None:
        yield f"{path}.slow_start", f"not with {pool.policy.type}, which chooses by a key"
    if pool.health is not None:
        yield from check_health(f"{path}.health", pool)
    if pool.agent is not None:
        yield from check_agent(f"{path}.agent", pool)
    if pool.source is not None:
        yield from check_source(f"{path}.source", pool.source, pool.protocol, [e.address for e in pool.endpoints])
    yield from check_endpoints(f"{path}.endpoints", name, pool, pool.endpoints)


def _never_waits(pool: PoolConfig) -> bool:
    """Whether no endpoint has a limit, now or later, and requests need not wait for the start of one."""
    limited = pool.max_in_flight is not None or any(endpoint.max_in_flight for endpoint in pool.endpoints)
    return pool.discover is None and pool.agent is None and not (pool.learns_limits or limited or pool.awaits_start)


def _engine(path: str, pool: PoolConfig, engine: EngineConfig) -> Iterator[Found]:
    if engine.ray is not None:
        if pool.serve is None:
            yield f"{path}.ray", "needs serve, which says what the actors run"
        yield from only_for(engine, path, ("min", "max", "idle_timeout"), "not with ray: serve says it")
        yield from only_for(engine, path, ("lease",), "not with ray: its actors are this daemon's alone")
        if pool.serve is not None and pool.serve.command is not None:
            yield f"{path}.ray", "runs the model server of serve.models only: a command listens on this machine"
        for name in ("gpus", "cores", "vertical"):
            if pool.serve is not None and getattr(pool.serve, name) is not None:
                yield f"{path}.ray", f"not with serve.{name}, which is of this machine; ray has cpus and gpus"
    elif pool.serve is not None:
        yield f"{path}.{engine.kind}", "not with serve, whose model servers are run by local or ray"
    elif pool.discover is None:
        yield f"{path}.{engine.kind}", "needs discover: new replicas have to be found"
    if not engine.on_demand:
        if engine.ray is None:
            yield from only_for(engine, path, ("idle_timeout",), "has no effect without min: 0")
    elif pool.protocol == "udp":
        yield f"{path}.min", "0 is not for protocol udp: nobody waits there for the start of a replica"
    elif pool.ready_endpoints:
        yield f"{path.removesuffix('.engine')}.ready_endpoints", _NONE_AT_ZERO.format("engine")
    for signal in pool.scaling.signals if pool.scaling is not None else ():
        if signal.type in ("cpu", "memory", "gpu", "gpu_memory"):
            text = f"{signal.type} is not known of other machines; use in_flight, requests_per_second or prometheus"
            yield f"{path.removesuffix('.engine')}.scaling", text
    if engine.external is not None and pool.scaling is None:
        yield f"{path}.external", "needs scaling, which says how many replicas there should be"


def _serve(path: str, pool: PoolConfig) -> Iterator[Found]:
    assert pool.serve is not None
    serve = pool.serve
    if serve.command is not None:
        yield from _other_server(f"{path}.serve", pool.protocol, serve)
    else:
        if pool.protocol != "oip":
            yield f"{path}.serve", "only for protocol oip: the model server speaks nothing else; others have a command"
        yield from only_for(serve, f"{path}.serve", ("ready", "port"), "only with command")
    yield from _sizes(f"{path}.serve", serve)
    if serve.min > serve.max:
        yield f"{path}.serve.min", f"{serve.min} is more than max, which is {serve.max}"
    if pool.scaling is not None and "max" not in serve.model_fields_set:
        yield f"{path}.serve.max", "is required with scaling: without it there are min model servers at any load"
    if serve.max > max(serve.min, 1) and pool.scaling is None:
        least = "1" if serve.on_demand else "min"
        yield f"{path}.serve.max", f"more than {least}, which needs a section scaling in the pool"
    if not serve.on_demand:
        yield from only_for(serve, f"{path}.serve", ("idle_timeout",), "has no effect without min: 0")
    elif pool.ready_endpoints:
        yield f"{path}.ready_endpoints", _NONE_AT_ZERO.format("serve")
    if serve.backoff.initial > serve.backoff.max:
        yield f"{path}.serve.backoff.initial", "is longer than max"
    for provider in {p for p in serve.providers if serve.providers.count(p) > 1}:
        yield f"{path}.serve.providers", f"{provider} is there twice"


def _sizes(path: str, serve: ServeConfig) -> Iterator[Found]:
    """Cores, batch and runs at once of each server."""
    vertical = serve.vertical
    if vertical is not None and vertical.max_cores is not None and vertical.min_cores > vertical.max_cores:
        yield f"{path}.vertical.min_cores", f"{vertical.min_cores} is more than max_cores"
    for name, option in (("batch", "--max-batch"), ("instances", "--concurrency")):
        number: int | None = getattr(serve, name)
        most: int | None = getattr(vertical, f"max_{name}") if vertical is not None else None
        if most is not None and number is not None and number > most:
            yield f"{path}.vertical.max_{name}", f"{most} is less than {name}, which is {number}"
        if serve.command is None:
            given = [word for word in serve.args if word == option or word.startswith(f"{option}=")]
            if given and (number is not None or most is not None):
                yield f"{path}.args", f"{option} is what serve.{name} says; one of both"
        elif serve.has_placeholder(name) != (number is not None):
            text = f"has no effect without {{{name}}} in command or env" if number else f"{{{name}}} has no value"
            yield f"{path}.{name}", text
        elif most is not None and number is None:
            yield f"{path}.vertical.max_{name}", f"needs {name} to begin with, and {{{name}}} in command or env"


def _other_server(path: str, protocol: str, serve: ServeConfig) -> Iterator[Found]:
    """Of a server that is started by its `command`."""
    if protocol == "udp":
        yield path, "not for protocol udp: nothing tells when such a server is ready"
    yield from only_for(serve, path, ("providers", "threads", "args"), "only with models")
    if serve.listen == "unix":
        for word in ("port", "host"):
            if serve.has_placeholder(word):
                yield f"{path}.command", f"{{{word}}} has no value with listen: unix; write {{socket}} or {{address}}"
        yield from only_for(serve, path, ("port",), "has no effect with listen: unix")
    elif serve.has_placeholder("socket"):
        yield f"{path}.command", "{socket} has no value with listen: tcp; write {port} or {address}"
    if isinstance(serve.port, int) and serve.max + serve.standby > 1:
        yield f"{path}.port", f"is one port for {serve.max + serve.standby} servers; write a range such as 9000-9099"
    vertical = serve.vertical
    if vertical is not None and serve.cores is None and not (vertical.max_batch or vertical.max_instances):
        yield (
            f"{path}.vertical",
            "needs cores to begin with: the server of a command is not told how many threads it has",
        )
    ready = serve.ready
    if ready is None:
        return
    if ready.port is not None and ready.port not in serve.port_names:
        yield (
            f"{path}.ready.port",
            f"{ready.port} is no port of the server: {{port:{ready.port}}} is nowhere in command and env",
        )
    for kind, names in {"http": ("path", "status"), "grpc": ("service",)}.items():
        if ready.type != kind:
            yield from only_for(ready, f"{path}.ready", names, f"only for type {kind}")


def _cache(config: Config, broken: Set[str]) -> Iterator[Found]:
    cache = config.cache
    if cache is not None and cache.max_object > cache.size // 4:
        yield "cache.max_object", "is more than a quarter of size"


def _caches_of_pools(config: Config, broken: Set[str]) -> Iterator[Found]:
    cached = config.cache is not None or "cache" in broken
    for name, pool in config.pools.items():
        if pool.cache is not None and "cache" in pool.model_fields_set:
            yield from check_pool_cache(f"pools.{name}.cache", pool.cache, pool.protocol, cached)


def _secret(where: str, path: Path) -> Iterator[Found]:
    try:
        empty = not without_bom(read_regular(path)).strip()
    except OSError as error:
        yield where, f"{path}: {error.strerror}"
    else:
        if empty:
            yield where, f"{path}: is empty"


def _job_store(config: JobStoreConfig) -> Iterator[Found]:
    nats, where = config.nats, "jobs.store.nats"
    if find_spec("nats") is None:
        yield where, "needs the package nats-py: pip install 'tidegate[nats]'"
    for field, path in (("credentials_file", nats.credentials_file), ("password_file", nats.password_file)):
        if path is not None:
            yield from _secret(f"{where}.{field}", path)


def _files(config: Config) -> Iterator[Found]:
    for name, pool in config.pools.items():
        if pool.serve is not None and pool.serve.models is not None:
            yield from _folder(f"pools.{name}.serve.models", pool.serve.models)
        if pool.discover is not None and pool.discover.file is not None:
            yield from _folder(f"pools.{name}.discover.file.path", pool.discover.file.path.parent)
    if config.admin.token_file is not None:
        yield from _secret("admin.token_file", config.admin.token_file)
    for i, token in enumerate(config.admin.tokens):
        yield from _secret(f"admin.tokens[{i}].file", token.file)
    yield from check_tracing(config.tracing)
    secret = config.alerts.secret_file if config.alerts is not None else None
    if secret is not None and not os.access(secret, os.R_OK):
        yield "alerts.secret_file", f"{secret}: cannot be read"
    if config.peers is not None:
        yield from _peers(config.peers)
    if config.jobs is not None:
        if config.jobs.path is not None:
            yield from _log("jobs.path", config.jobs.path)
        if config.jobs.store is not None:
            yield from _job_store(config.jobs.store)
        if config.jobs.webhooks is not None and not os.access(config.jobs.webhooks.secret_file, os.R_OK):
            yield "jobs.webhooks.secret_file", f"{config.jobs.webhooks.secret_file}: cannot be read"
    if config.limits.quota_file is not None:
        yield from _log("limits.quota_file", config.limits.quota_file)
    if config.log.access not in ("", "-"):
        yield from _log("log.access", Path(config.log.access))


def _peers(config: PeersConfig) -> Iterator[Found]:
    for module in ("redis", "cryptography"):
        if find_spec(module) is None:
            yield "peers", f"needs the package {module}: pip install 'tidegate[redis]'"
    try:
        size = len(without_bom(read_regular(config.secret_file)).strip())
    except OSError as error:
        yield "peers.secret_file", f"{config.secret_file}: {error.strerror}"
        return
    if size < LEAST_SECRET:
        yield "peers.secret_file", f"{config.secret_file}: has {size} bytes; {LEAST_SECRET} are the least"


def _log(path: str, file: Path) -> Iterator[Found]:
    """A file that is written to, and made where there is none."""
    if os.path.isdir(file):
        yield path, f"{file}: is a folder"
    elif os.path.exists(file):
        if not os.access(file, os.W_OK):
            yield path, f"{file}: may not be written"
    else:
        yield from _folder(path, file.parent, os.W_OK, "written")


def _folder(path: str, folder: Path, access: int = os.R_OK, done: str = "read") -> Iterator[Found]:
    try:
        mode = os.stat(folder).st_mode
    except (FileNotFoundError, NotADirectoryError):
        yield path, f"{folder}: there is no such folder"
    except OSError as error:
        yield path, f"{folder}: {error.strerror}"
    else:
        if not stat.S_ISDIR(mode):
            yield path, f"{folder}: there is no such folder"
        elif not os.access(folder, access | os.X_OK):
            yield path, f"{folder}: may not be {done}"
