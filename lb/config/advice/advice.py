"""What to write in place of a key or a word that does not stand here: by lb.config.advice.foreign, by the places of the
key elsewhere in the file, or as the nearest spelling."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

from pydantic import BaseModel

from lb.config.advice.annotations import item_of, model_of
from lb.config.advice.carried import carried, with_value
from lb.config.advice.foreign import KEYS, PLACES, VALUES, Advice
from lb.config.schema.base import did_you_mean, plain
from lb.config.schema.file import (
    AdminConfig,
    CacheConfig,
    CertificateConfig,
    Config,
    EndpointConfig,
    HealthConfig,
    KeyConfig,
    ListenerConfig,
    LogConfig,
    MatchConfig,
    PathMatch,
    PoolConfig,
    PoolTlsConfig,
    RateLimitConfig,
    RedirectConfig,
    RetryConfig,
    RouteConfig,
    ServeConfig,
    TlsConfig,
    TracingConfig,
)
from lb.config.schema.maps import MapConfig
from lb.config.schema.pools.outlier import OutlierConfig
from lb.config.schema.pools.queue import QueueConfig
from lb.config.schema.routes.compression import CompressionConfig
from lb.config.schema.routes.match import Conditions, TextMatch
from lb.config.schema.routes.route import RespondConfig
from lb.config.schema.tables import TableConfig

_PLACES: dict[type[BaseModel], str] = {
    AdminConfig: "admin",
    CacheConfig: "cache",
    CertificateConfig: "certificate",
    CompressionConfig: "compression",
    Conditions: "innermostgroup",
    Config: "config",
    EndpointConfig: "endpoint",
    HealthConfig: "health",
    KeyConfig: "key",
    ListenerConfig: "listener",
    LogConfig: "log",
    MapConfig: "map",
    MatchConfig: "match",
    OutlierConfig: "outlier",
    PathMatch: "path",
    PoolConfig: "pool",
    PoolTlsConfig: "pooltls",
    QueueConfig: "queue",
    RateLimitConfig: "ratelimit",
    RedirectConfig: "redirect",
    RespondConfig: "respond",
    RetryConfig: "retry",
    RouteConfig: "route",
    ServeConfig: "serve",
    TableConfig: "table",
    TextMatch: "text",
    TlsConfig: "tls",
    TracingConfig: "tracing",
}
_MOST_PLACES = 3  # that a message lists
# Whose keys are looked for where they do not stand; those of other sections only if they have a name of their own, as
# no `size` and no `version` has.
_USUAL = (
    "the top of the file",
    "listeners.NAME",
    "listeners.NAME.routes[]",
    "listeners.NAME.routes[].match",
    "pools.NAME",
)
_SWITCHES = ("enabled", "enable", "active", "disabled", "disable")
_ENDING = re.compile(r"^(?:tcp|udp|oip)(?=.)")


def instead_of_key(model: type[BaseModel] | None, key: str, given: Any = None) -> str:
    """What follows `unknown key` about `key` with the value `given` where the file has a `model`."""
    if model is None:
        return ""
    known = keys_of(model)
    same = next((name for name in known if plain(name) == plain(key)), None)
    if same is not None:
        return f"; write {same}"
    here = _PLACES.get(model, "")
    if meant := carried(here, key, given):
        return f"; write {meant}"
    row = _row(KEYS, key, here)
    if row is not None and (row.within or _squeezed(row.at) == here):
        return told(row, here, given)
    everywhere = _elsewhere().get(plain(key), ())
    # A key of another place is no slip of one here that it only looks like: cost and host, but name and names.
    alike = [name for name in known if name.rstrip("s") == key.rstrip("s")] if everywhere else known
    if row is None and (near := did_you_mean(key, alike)):
        return near
    elsewhere = [place for place in everywhere if place in _USUAL or "_" in key]
    if elsewhere and len(everywhere) <= _MOST_PLACES:
        return f" here; it is one of {' and '.join(elsewhere)}"
    if row is not None:
        return told(row, here, given)
    if plain(key) in _SWITCHES and "enabled" not in known:
        return "; a section that stands in the file is on: leave it out, or this key"
    return f"; the keys here are {', '.join(known)}" if known else ""


def instead_of_word(model: type[BaseModel] | None, field: str, word: str, known: Iterable[str]) -> str:
    """What follows about `word`, where `field` of `model` takes one of `known`."""
    words = list(known)
    same = next((name for name in words if plain(name) == plain(word)), None)
    if same is not None:
        return f"; write {same}"
    here = _PLACES.get(model, "") if model is not None else ""
    row = _row(VALUES.get((here, field), ()), word, here)
    return told(row, here) if row is not None else did_you_mean(word, words)


def policy_advice(rows: Iterable[Advice], name: str) -> str:
    """What follows about a policy that is called `name` elsewhere; "" for others."""
    row = _row(rows, name, "pool")
    return told(row, "pool") if row is not None else ""


def told(row: Advice, here: str, given: Any = None) -> str:
    """The advice of `row` to somebody who is in the place `here`, and gave the value `given` there."""
    if not row.snippet:
        return f"; {row.note}"
    where = "" if _squeezed(row.at) == here else f" {PLACES[row.at]}"
    return f"; write{where} {with_value(row.at, row.snippet, given)}" + (f" ({row.note})" if row.note else "")


def keys_of(model: type[BaseModel]) -> list[str]:
    """The keys that the section of `model` may have."""
    return [field.alias or name for name, field in model.model_fields.items()]


def _row(rows: Iterable[Advice], name: str, here: str) -> Advice | None:
    """The row for `name`: one for this place before one for any."""
    found = _by_name(tuple(rows)).get(plain(name), [])
    within = [row for row in found if here and here in row.within.split()]
    return next(iter([*within, *(row for row in found if not row.within)]), None)


@cache
def _by_name(rows: tuple[Advice, ...]) -> dict[str, list[Advice]]:
    found: dict[str, list[Advice]] = {}
    for row in rows:
        for name in row.names.split():
            found.setdefault(plain(name), []).append(row)
    return found


@cache
def _squeezed(place: str) -> str:
    """`pool` of `tcp pool`, `ratelimit` of `rate limit`."""
    return _ENDING.sub("", place.replace(" ", ""))


@cache
def _elsewhere() -> dict[str, tuple[str, ...]]:
    """The places of every key, as paths."""
    found: dict[str, list[str]] = {}
    for path, model in _sections(Config, ""):
        for key in keys_of(model):
            found.setdefault(plain(key), []).append(path or "the top of the file")
    return {key: tuple(dict.fromkeys(paths)) for key, paths in found.items()}


def _sections(model: type[BaseModel], path: str) -> Iterator[tuple[str, type[BaseModel]]]:
    yield path, model
    for name, field in model.model_fields.items():
        key = field.alias or name
        below, step = model_of(field.annotation), f"{path}.{key}" if path else key
        if below is None and (below := model_of(item_of(field.annotation))) is not None:
            step += ".NAME" if key in ("listeners", "pools") else "[]"
        if below is not None:
            yield from _sections(below, step)
