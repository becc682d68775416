"""Checks of values of requests that concern several sections: maps that there are, ids that a listener makes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from typing import TYPE_CHECKING, NamedTuple

from lb.config.forms import by_form, members_of
from lb.config.schema.access import access_of
from lb.config.schema.base import did_you_mean
from lb.config.schema.routes.match import maps_of, texts_of
from lb.config.values import EARLY, Value, has_values, parse, values_in

if TYPE_CHECKING:
    from lb.config.schema.file import Config, ListenerConfig, RouteConfig
    from lb.config.schema.routes.error_pages import ErrorPageConfig

Found = tuple[str, str]


def check_values(config: Config, broken: Set[str], listener: ListenerConfig, route: RouteConfig) -> Iterator[Found]:
    """Problems of a route's texts and conditions, with their path from the route."""
    yield from check_error_pages(listener, route.error_pages)
    early = {path.rpartition("maps.")[2] for path, _ in texts_of(route.match)}
    for name in dict.fromkeys(maps_of(route.match)):
        yield from _map(config, broken, "match", name, early=name in early)
    for name in dict.fromkeys(filter(None, (route.pool, *(share.pool for share in route.pools)))):
        pool = config.pools.get(name)
        key = pool.policy.key if pool is not None else None
        if key is not None and key.text is not None:
            for value in values_in(parse(key.text, "text")):
                if said := _needed(value, listener, route):
                    yield "pool", f"pools.{name}.policy.key.text: {said}"
    one, named = _pool_name("pool_by", route)
    default = "".join(map(str, one.otherwise)) if one is not None and not any(values_in(one.otherwise)) else ""
    if named.refused(default):
        yield "pool_by", f"its default {default!r} names none of the pools" + did_you_mean(default, named.pools)
    for where, text, _ in route.texts():
        for value in values_in(parse(text)) if has_values(text) else ():
            if value.name == "map":
                yield from _map(config, broken, where, value.argument, early=where == "pool_by")
            elif value.name == "table":
                yield from of_table(config, broken, where, value.argument, early=where == "pool_by")
            elif said := _needed(value, listener, route):
                yield where, said


def _needed(value: Value, listener: ListenerConfig, route: RouteConfig) -> str:
    """What `value` needs and the route does not have; "" where nothing is missing."""
    if value.name == "auth.identity" and access_of(listener.auth, route.auth) is None:
        return f"{value.spelling} needs auth of the route or of its listener"
    if value.name == "request.id" and not listener.request_id:
        return f"{value.spelling} needs request_id: true of the listener"
    if value.name.startswith("tls.client.") and (listener.tls is None or listener.tls.client_auth == "none"):
        return f"{value.spelling} needs tls of the listener with client_auth: optional or required"
    return ""


def check_error_pages(listener: ListenerConfig, pages: Sequence[ErrorPageConfig]) -> Iterator[Found]:
    """Problems of the texts of error pages, with their path from the listener or the route that has them."""
    for i, page in enumerate(pages):
        for where, text in page.texts():
            for value in values_in(parse(text)) if has_values(text) else ():
                if value.name == "request.id" and not listener.request_id:
                    yield f"error_pages[{i}].{where}", f"{value.spelling} needs request_id: true of the listener"


def of_table(config: Config, broken: Set[str], where: str, argument: str, early: bool) -> Iterator[Found]:
    """Problems of `NAME.FIELD` of a table. `early`: it is read before a route is chosen."""
    name, _, field = argument.rpartition(".")
    table = config.tables.get(name)
    if table is None:
        if "tables" not in broken and f"tables.{name}" not in broken:
            yield where, f"there is no table {name!r}" + did_you_mean(name, config.tables)
        return
    if field not in table.names:
        yield where, f"tables.{name} does not store {field}"
    for value in values_in(parse(table.key, "text")) if early else ():
        if value.name not in EARLY:
            yield where, f"tables.{name}.key: {value.spelling} is known once the route is chosen"


def check_maps(config: Config) -> Iterator[Found]:
    """Problems of the section `maps`."""
    for name, one in config.maps.items():
        if not has_values(one.key):
            yield f"maps.{name}.key", f"{one.key!r} is the same for every request; a value is ${{request.host}}"


class PoolNames(NamedTuple):
    """What the values of a map have to be: with `before` in front and `behind` behind it, one of `pools`, which the
    route at `path` has."""

    path: str
    before: str
    behind: str
    pools: frozenset[str]

    def refused(self, value: str) -> bool:
        """Whether the route has no such pool. An empty value leaves the choice to its default, or to weights."""
        return value != "" and f"{self.before}{value}{self.behind}" not in self.pools


def pool_names(config: Config) -> dict[str, list[PoolNames]]:
    """By map, what its values are names of: those of texts of `pool_by` that depend on nothing else."""
    found: dict[str, list[PoolNames]] = {}
    for name, listener in config.listeners.items():
        for first, places in by_form(members_of(listener.routes)):
            one, named = _pool_name(f"listeners.{name}.routes[{places[0]}].pool_by", first)
            if one is not None and one.name == "map":
                found.setdefault(one.argument, []).append(named)
    return found


def _pool_name(path: str, route: RouteConfig) -> tuple[Value | None, PoolNames]:
    """The one value of a route's `pool_by`, or None, and what stands around it."""
    parts = parse(route.pool_by or "", "text")
    at = [i for i, part in enumerate(parts) if isinstance(part, Value)]
    place = at[0] if len(at) == 1 else len(parts)
    before, behind = ("".join(map(str, some)) for some in (parts[:place], parts[place + 1 :]))
    one = parts[place] if place < len(parts) else None
    pools = frozenset(share.pool for share in route.pools)
    return one if isinstance(one, Value) else None, PoolNames(path, before, behind, pools)


def _map(config: Config, broken: Set[str], where: str, name: str, early: bool) -> Iterator[Found]:
    one = config.maps.get(name)
    if one is None:
        if "maps" not in broken:
            yield where, f"there is no map {name!r}" + did_you_mean(name, config.maps)
        return
    for value in values_in(parse(one.key, "text")) if early else ():
        if value.name not in EARLY:
            yield where, f"maps.{name}.key: {value.spelling} is known once the route is chosen"
