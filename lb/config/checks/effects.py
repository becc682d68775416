"""Settings that can have no effect: each is right by itself, and something beside it takes all that it is for.

A setting that does nothing is a mistake of whoever relies on it, so each is a problem of the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from itertools import combinations

from lb.config.address import UnixPath, parse_address
from lb.config.checks.routes import Found
from lb.config.forms import by_form, members_of
from lb.config.schema.file import Config, ListenerConfig, PoolConfig, RouteConfig
from lb.config.schema.listeners.tcp import UNIX
from lb.config.schema.routes.error_pages import ErrorPageConfig, statuses_of
from lb.config.schema.tables import TableRuleConfig

# What may be repeated anyway (RFC 9110 section 9.2.2).
_IDEMPOTENT = frozenset(("GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"))
# What operators set by `tidegate table set`, whether or not a request ever counts.
_BY_HAND = frozenset(("gpt0", "gpc0"))


def check_effects(config: Config, broken: Set[str] = frozenset()) -> Iterator[Found]:
    """Problems as (path, message)."""
    uncounted = _uncounted(config, broken)
    for name, listener in config.listeners.items():
        path = f"listeners.{name}"
        yield from _proxy_protocol(f"{path}.proxy_protocol", listener)
        yield from _pages(f"{path}.error_pages", listener.error_pages)
        yield from _rules(f"{path}.table_rules", listener.table_rules, uncounted)
        for first, places in by_form(members_of(listener.routes)):
            for where, said in _route(config, first, uncounted):
                for i in places:
                    yield f"{path}.routes[{i}].{where}", said
    for name, pool in config.pools.items():
        yield from _pool(f"pools.{name}", pool)
    for name, one in config.maps.items():
        if one.match == "domain" and "ignore_case" in one.model_fields_set and not one.ignore_case:
            yield f"maps.{name}.ignore_case", "false has no effect with match: domain, since names have no case"
    known = not any(path.startswith("tables") for path in broken)
    if config.peers is not None and known and not any(table.shared for table in config.tables.values()):
        yield "peers", "has no effect: no table has shared: true"


def _uncounted(config: Config, broken: Set[str]) -> Set[str]:
    """Tables that no request counts in, here or at a peer."""
    if any(path.startswith("listeners") for path in broken):
        return frozenset()  # what is left out may have them
    tracked: set[str] = set()
    for listener in config.listeners.values():
        tracked.update(listener.track)
        for first, _ in by_form(members_of(listener.routes)):
            tracked.update(first.track)
    return {name for name, table in config.tables.items() if name not in tracked and not table.shared}


def _proxy_protocol(path: str, listener: ListenerConfig) -> Iterator[Found]:
    """Peers that cannot come to the sockets that there are."""
    if listener.proxy_protocol is None:
        return
    unix = [isinstance(bind.sockets()[0].address, UnixPath) for bind in listener.bind]
    for i, peer in enumerate(listener.proxy_protocol.from_):
        if peer == UNIX and not any(unix):
            yield f"{path}.from[{i}]", "has no effect: no address of the listener is a Unix socket"
        elif peer != UNIX and all(unix):
            yield f"{path}.from[{i}]", "has no effect: clients of a Unix socket have no address; write unix"


def _pages(path: str, pages: Sequence[ErrorPageConfig]) -> Iterator[Found]:
    """Pages whose statuses earlier ones take. One that is not for errors of endpoints leaves these to later ones."""
    own: dict[int, int] = {}
    of_endpoints: dict[int, int] = {}
    for i, page in enumerate(pages):
        for j, status in enumerate(page.on):
            numbers = list(statuses_of([status]))
            if all(n in own and (n in of_endpoints or not page.intercept) for n in numbers):
                firsts = sorted({own[n] for n in numbers} | {of_endpoints[n] for n in numbers if page.intercept})
                if firsts != [i]:
                    said = " and ".join(f"error_pages[{first}]" for first in firsts)
                    verb = "takes it" if len(firsts) == 1 else "take it"
                    yield f"{path}[{i}].on[{j}]", f"{status} is never reached: {said} {verb}"
        for n in statuses_of(page.on):
            own.setdefault(n, i)
            if page.intercept:
                of_endpoints.setdefault(n, i)


def _rules(path: str, rules: Sequence[TableRuleConfig], uncounted: Set[str]) -> Iterator[Found]:
    for (i, first), (j, later) in combinations(enumerate(rules), 2):
        if first.when == later.when and (first.deny or first.tarpit):
            yield f"{path}[{j}]", f"is never reached: table_rules[{i}] refuses the same requests"
    for i, rule in enumerate(rules):
        yield from _reads(f"{path}[{i}].when", rule.when, uncounted)


def _reads(path: str, tables: Mapping[str, Iterable[str]], uncounted: Set[str]) -> Iterator[Found]:
    """Numbers of tables that stay 0."""
    for name, fields in tables.items():
        if name in uncounted and not _BY_HAND.issuperset(fields):
            yield f"{path}.{name}", f"has no effect: no request counts in {name!r}; put it into track"


def _route(config: Config, route: RouteConfig, uncounted: Set[str]) -> Iterator[Found]:
    """Problems of a route, with their path from there."""
    yield from _pages("error_pages", route.error_pages)
    for i, page in enumerate(route.error_pages):
        if page.intercept and not route.pool_names:
            yield f"error_pages[{i}].intercept", "only for routes with a pool, whose endpoints have errors"
    yield from _rules("table_rules", route.table_rules, uncounted)
    yield from _reads("match.tables", route.match.tables, uncounted)
    for section in ("any", "none"):
        for i, group in enumerate(getattr(route.match, section)):
            yield from _reads(f"match.{section}[{i}].tables", group.tables, uncounted)
            for deeper in ("any", "none"):
                for j, inner in enumerate(getattr(group, deeper)):
                    yield from _reads(f"match.{section}[{i}].{deeper}[{j}].tables", inner.tables, uncounted)
    if route.log_fields and not config.log.access:
        yield "log_fields", "are for the access log, which is off; set log.access"
    yield from _compression(route)
    yield from _repeats(route)
    if route.response_rewrite is not None:
        for key in ("locations", "cookie_path"):
            yield from _beginnings(f"response_rewrite.{key}", list(getattr(route.response_rewrite, key)))
    mirror, canary = route.mirror, route.canary
    if mirror is not None and mirror.compare is not None and mirror.compare.max_answer > mirror.max_bytes:
        yield "mirror.compare.max_answer", "is more than max_bytes of the mirror, which all answers that wait have"
    if canary is not None and canary.max_latency_ratio is None and "latency_quantile" in canary.model_fields_set:
        yield "canary.latency_quantile", "has no effect with max_latency_ratio: null"


def _compression(route: RouteConfig) -> Iterator[Found]:
    config = route.compression
    if config is None:
        return
    for coding, key in (("gzip", "gzip_level"), ("br", "br_level"), ("zstd", "zstd_level")):
        if key in config.model_fields_set and coding not in config.codings:
            yield f"compression.{key}", f"has no effect: codings are {', '.join(config.codings)}"
    if "types" in config.model_fields_set:
        kinds = [kind.lower() for kind in config.types]
        for i, kind in enumerate(kinds):
            wider = next((w for w in ("*", f"{kind.partition('/')[0]}/*") if w != kind and w in kinds), None)
            if wider is not None or kind in kinds[:i]:
                yield f"compression.types[{i}]", f"has no effect: {wider or kind!r} is in the list and takes it"


def _repeats(route: RouteConfig) -> Iterator[Found]:
    """`idempotency_key`."""
    if not route.idempotency_key:
        return
    if not route.pool_names:
        yield "idempotency_key", "only for routes with a pool, not for redirect or respond"
    elif route.idempotent:
        yield "idempotency_key", "has no effect with idempotent: true, which lets every request be repeated"
    elif route.match.method and _IDEMPOTENT.issuperset(route.match.method):
        yield "idempotency_key", f"has no effect: {' and '.join(route.match.method)} may be repeated anyway"


def _beginnings(path: str, old: Sequence[str]) -> Iterator[Found]:
    """Beginnings of which the first that fits is replaced."""
    for i, text in enumerate(old):
        first = next((other for other in old[:i] if text.startswith(other)), None)
        if first is not None:
            yield f"{path}.{text}", f"is never reached: {first} stands in front of it and takes it"


def _pool(path: str, pool: PoolConfig) -> Iterator[Found]:
    static = pool.endpoints if pool.discover is None and pool.serve is None else []
    unix = bool(static) and all(isinstance(parse_address(each.address), UnixPath) for each in static)
    if pool.source is not None and unix:
        yield f"{path}.source", "has no effect: all endpoints are Unix sockets"
    quic = pool.affinity.quic
    if quic is not None and quic.server_id_length and static and not any(each.server_id for each in static):
        yield f"{path}.affinity.quic.server_id_length", "has no effect: no endpoint has a server_id"
