"""Keys that go by another name here, with a value that says what is meant: what to write carries it over."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel

import lb
from lb.config.advice.foreign import POLICIES
from lb.config.advice.lists import shown, takes
from lb.config.advice.literal import instead_of_pattern, one_of_hosts, quoted, redirect_of_url
from lb.config.advice.spelling import duration, size, truth
from lb.config.document import MalformedError, parse
from lb.config.schema.base import plain
from lb.config.schema.file import (
    EndpointConfig,
    HealthConfig,
    ListenerConfig,
    MatchConfig,
    PathMatch,
    PoolConfig,
    PoolTlsConfig,
    RetryConfig,
    RouteConfig,
    ServeConfig,
)
from lb.config.schema.pools.outlier import OutlierConfig
from lb.config.schema.pools.queue import QueueConfig

_KEYED = ("maglev", "ring_hash", "rendezvous")
_OLDEST = (("1.2", "tls1.2"), ("1.3", "tls1.3"))

# The keys whose value is the same thing under another name: of a snippet that has one of them, by its place.
_SAME: dict[str, tuple[type[BaseModel], tuple[str, ...]]] = {
    "match": (MatchConfig, ("host", "method")),
    "path": (PathMatch, ("prefix", "exact", "regex")),
    "listener": (ListenerConfig, ("max_connections", "protocol", "idle_timeout", "max_header_bytes")),
    "pool": (PoolConfig, ("max_idle", "max_in_flight", "retries", "slow_start", "connect_timeout", "protocol")),
    "pool tls": (PoolTlsConfig, ("ca_file", "server_name")),
    "endpoint": (EndpointConfig, ("weight", "priority", "zone")),
    "health": (HealthConfig, ("rise", "fall", "interval")),
    "outlier": (OutlierConfig, ("consecutive_5xx", "consecutive_gateway_failure", "base_ejection_time")),
    "queue": (QueueConfig, ("max", "timeout")),
    "retry": (RetryConfig, ("attempts", "per_attempt_timeout")),
    "route": (RouteConfig, ("pool", "timeout", "max_body", "max_in_flight")),
    "serve": (ServeConfig, ("min", "models")),
}


def carried(here: str, key: str, given: Any) -> str:
    """What to write for `key` in the place `here`, by its value; "" where the value says nothing of it."""
    make = _BY_VALUE.get((here, plain(key)))
    return make(given) if make is not None else ""


def with_value(at: str, snippet: str, given: Any) -> str:
    """`snippet`, for the place `at`, with the value `given` where its key takes that; else as it is."""
    if isinstance(given, bool) or not isinstance(given, str | int | float):
        return snippet
    try:
        ((key, example),) = parse(f"{{{snippet}}}".encode()).data.items()
    except (MalformedError, ValueError):
        return snippet
    model, keys = _SAME.get(at, (RouteConfig, ()))
    if key in keys and isinstance(example, str | int):
        taken = [value for value in _spellings(key, given, example) if takes(model, key, value)]
        return f"{key}: {shown(taken[0])}" if taken else snippet
    if at == "route" and key == "match" and isinstance(example, dict) and len(example) == 1:
        ((below, inner),) = example.items()
        if below == "host" and isinstance(given, str) and takes(MatchConfig, below, given):
            return f"match: {{host: {shown(given)}}}"
        if below == "path" and set(inner) == {"prefix"}:
            form = (
                f"{{prefix: {shown(given)}}}" if takes(PathMatch, "prefix", given) else instead_of_pattern(str(given))
            )
            return f"match: {{path: {form}}}" if form else snippet
    return snippet


def _spellings(key: str, given: str | float, example: str | int) -> list[str | float]:
    """`given`, where it is of the kind of `example`, and how it may be spelled here."""
    if key == "pool":
        found = re.fullmatch(r"(?:[a-z]+://)?([A-Za-z0-9][A-Za-z0-9_-]*)/?", str(given), re.ASCII)
        return [found[1]] if found is not None else []
    values: list[str | float] = [given] if type(given) is type(example) else []
    if re.fullmatch(r"[0-9]+[KMG]iB", str(example)):
        values += filter(None, [size(given)])
    elif re.fullmatch(r"[0-9]+(?:ms|s|m|h)", str(example)) and isinstance(given, str) and " " not in duration(given):
        values += filter(None, [duration(given)])
    return values


@cache
def own_policies() -> list[str]:
    """The names of Tidegate's own policies: each has a file of its name. Their registry is above this part."""
    files = Path(lb.__file__).parent.joinpath("balancing", "policies").iterdir()
    return sorted({file.name.partition(".")[0] for file in files} - {"__init__", "__pycache__"})


def policy_named(word: str) -> str:
    """The snippet for the policy that is called `word` here or elsewhere; "" for others."""
    own = next((name for name in own_policies() if plain(name) == plain(word)), None)
    if own is not None:
        key = "key: {header: x-session}"
        return f"policy: {{type: {own}, {key}}}" if own in _KEYED else f"policy: {own}"
    row = next((row for row in POLICIES if plain(word) in map(plain, row.names.split())), None)
    return row.snippet if row is not None else ""


def policy_of_mapping(given: dict[str, Any]) -> str:
    """What follows about a mapping of a policy without `type`: it may be named otherwise."""
    for key, value in given.items():
        if isinstance(value, str) and plain(key) in ("name", "policy", "algorithm", "method", "kind", "strategy"):
            meant = policy_named(value)
            own = len(given) > 1 and meant == f"policy: {meant[8:]}" and not meant.endswith("}")
            return "" if not meant else f"; write type: {meant[8:]} for {key}" if own else f"; write {meant}"
        if value is None or isinstance(value, dict):
            meant = policy_named(key)
            if meant:
                return f"; write {meant}"
    return "; write type: auto"


def _policy(given: Any) -> str:
    named = next(iter(given), None) if isinstance(given, dict) and given else given
    if isinstance(given, dict):
        named = next((given[key] for key in ("type", "name", "method") if key in given), named)
    return policy_named(named) if isinstance(named, str) else ""


def _verified(given: Any) -> str:
    """`verify`: whether certificates are looked at."""
    if isinstance(given, str) and given.lower() == "none":
        return "insecure_skip_verify: true"
    word = truth(given)
    if word:
        return "insecure_skip_verify: " + ("false" if word == "true" else "true")
    return f"ca_file: {shown(given)}" if isinstance(given, str) and re.search(r"[./]", given) else ""


def _unverified(given: Any) -> str:
    """`insecure`: whether they are not."""
    word = truth(given)
    return f"insecure_skip_verify: {word}" if word else ""


def _versions(given: Any) -> str:
    """Of versions of TLS the oldest that is spoken here."""
    found = re.findall(r"[0-9](?:[._][0-9])?", " ".join(map(str, given)) if isinstance(given, list) else str(given))
    numbers = {text.replace("_", ".") for text in found}
    if numbers & {"1.0", "1.1", "1"}:
        return "min_version: tls1.2"
    return next((f"min_version: {name}" for number, name in _OLDEST if number in numbers), "")


def _hosts(given: Any) -> str:
    names = given.split() if isinstance(given, str) else given
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        return ""
    if not all(takes(MatchConfig, "host", name) for name in names):
        return ""
    match = f"host: {quoted(names[0])}" if len(names) == 1 else one_of_hosts(names)
    return f"in a route match: {{{match}}}"


def _cluster(given: Any) -> str:
    """Envoy's `route: {cluster: a}`, and others' mappings that name a pool."""
    if not isinstance(given, dict):
        return ""
    names = ("cluster", "pool", "backend", "service", "upstream", "name")
    named = next((given[name] for name in names if isinstance(given.get(name), str)), None)
    pools = _spellings("pool", named, "") if named is not None else []
    return f"pool: {shown(pools[0])}" if pools else ""


def _http2(given: Any) -> str:
    return "" if given is None or given is False else "protocol: http2"


def _away(given: Any) -> str:
    """`down` of an endpoint."""
    word = truth(given)
    return "weight: 0" if word == "true" else "weight: 1" if word else ""


def _there(given: Any) -> str:
    """`enabled` of an endpoint."""
    word = truth(given)
    return "weight: 1" if word == "true" else "weight: 0" if word else ""


def _refused(given: Any) -> str:
    """Networks that are kept out."""
    networks = [given] if isinstance(given, str) else given
    if isinstance(networks, list) and networks and takes(MatchConfig, "not_source", networks):
        return f"match: {{not_source: [{', '.join(shown(network) for network in networks)}]}}"
    return ""


def _refused_in_route(given: Any) -> str:
    return f"in a route {match}" if (match := _refused(given)) else ""


def _enabled(section: str) -> Callable[[Any], str]:
    def told(given: Any) -> str:
        if truth(given) == "false":
            return f"no {section} section at all: without it there is none"
        return ""

    return told


def _all(place: str, names: str, make: Callable[[Any], str]) -> dict[tuple[str, str], Callable[[Any], str]]:
    return {(place, name): make for name in names.split()}


_BALANCE = (
    "balance lbpolicy loadbalancing algorithm strategy lbmethod method loadbalancingpolicy loadbalancer lb lbalgorithm"
    " balancing scheduler policies"
)
_VERSIONS = "protocols protocol sslprotocols version versions tlsversions mintlsversion minimumversion minver sslminver"

# By the place and the key, as lb.config.schema.base.plain has it: what to write there, "" where the value does not say.
_BY_VALUE: dict[tuple[str, str], Callable[[Any], str]] = {
    **_all("pool", _BALANCE, _policy),
    **_all("pooltls", "verify verifypeer sslverify verifyhostname rejectunauthorized", _verified),
    **_all("pooltls", "skipverify insecure tlsinsecureskipverify insecureskipverification", _unverified),
    **_all("tls", _VERSIONS, _versions),
    **_all("pooltls", _VERSIONS, _versions),
    **_all("listener", "servername servernames hostname hostnames host hosts domain domains", _hosts),
    **_all("route", "route action proxy forward to target backend upstream service cluster", _cluster),
    **_all("endpoint", "down disabled disable maintenance drain", _away),
    **_all("endpoint", "enabled enable active", _there),
    **_all("redirect", "to url uri target", lambda given: redirect_of_url(str(given))),
    **_all("pool", "http2 h2 h2c enablehttp2 grpc", _http2),
    **_all("route", "deny blacklist ipblacklist denylist blocklist", _refused),
    **_all("listener", "deny blacklist ipblacklist denylist blocklist", _refused_in_route),
    **_all("health", "enabled enable active", _enabled("health")),
    **_all("cache", "enabled enable active", _enabled("cache")),
    **_all("tracing", "enabled enable active", _enabled("tracing")),
    **_all("retry", "enabled enable active", _enabled("retry")),
}
