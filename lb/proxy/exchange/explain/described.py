"""What a worker would do with a request that is only described: route, pool, endpoint, and why (`tidegate explain`).

It asks the tables and policies of the plan in force, changes nothing, and is off the data path: in plain Python.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace

from lb.config.plan.plan import PRIORITIES, ListenerPlan, Plan, PolicyPlan, PoolPlan, RoutePlan
from lb.config.plan.routes import SAFE_HEDGES, ConditionPlan, SplitPlan, safe_retries
from lb.config.plan.tables import FIELDS
from lb.config.values import KNOWN
from lb.errors import ClientError
from lb.proxy.client.request_target import read_target
from lb.proxy.exchange.explain.pool import Question, explain_pool
from lb.proxy.routing.headers.forwarded import source_of
from lb.proxy.routing.keys import key_of_target
from lb.proxy.routing.normalize import normal_target
from lb.proxy.routing.readings import request_reads_alike
from lb.proxy.routing.text_key import TextKey
from lb.shared.hashing import hash64_bytes

# The values of requests (lb.config.values) that nothing else of a question says.
GIVEN = frozenset(name for name in KNOWN if name.startswith("tls.")) | {
    "auth.identity", "client.port", "listener.name", "request.id", "request.protocol", "request.scheme",
}  # fmt: skip

_GRPC = "/inference.GRPCInferenceService/"


class Described(Struct, frozen=True):
    """A request to a listener, or to a pool alone (`listener` empty)."""

    listener: str = ""
    pool: str = ""
    method: str = "GET"
    target: str = "/"
    host: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    source: str = "127.0.0.1"
    model: str = ""  # what a gRPC message would name
    sequence: str = ""  # the id of an open sequence that it belongs to
    key: str | None = None  # instead of what the pool's `key` finds
    values: tuple[tuple[str, str], ...] = ()  # what the request does not show: of TLS, and who it is from

    def text(self, target: bytes) -> bytes:
        """The request's head as HTTP/1.1."""
        lines = [f"{self.method} ".encode() + target + b" HTTP/1.1"]
        named = self.host or next((v for n, v in self.headers if n.lower() == "host"), "localhost")
        fields = [("Host", named), *((n, v) for n, v in self.headers if n.lower() != "host")]
        lines += [f"{name}: {value}".encode() for name, value in fields]
        return b"\r\n".join(lines) + b"\r\n\r\n"


class Tables(Struct):
    """Of the plan in force: what listeners decide by (RouteTable, Pool or SniTable), and the pools in the plan's
    order."""

    plan: Plan
    listeners: Mapping[str, Any]
    pools: Sequence[Any] = field(default_factory=list)


def explain(tables: Tables, asked: Described, now: int) -> dict[str, Any]:
    """The explanation as plain types: see docs/howto/explain-a-choice.md. Raises ClientError for what cannot be
    asked."""
    try:
        source = ip_address(asked.source)
        source = getattr(source, "ipv4_mapped", None) or source  # as those of clients
    except ValueError:
        raise ClientError(f"{asked.source!r} is not an IP address") from None
    for name, _ in asked.values:
        if name not in GIVEN:
            raise ClientError(f"{name!r} is no value that can be given; there are {', '.join(sorted(GIVEN))}")
    answer: dict[str, Any] = {"route": None, "pool": None}
    route: RoutePlan | None = None
    index = _pool_index(tables.plan, asked.pool)
    if asked.listener:
        listener = next((li for li in tables.plan.listeners if li.name == asked.listener), None)
        if listener is None:
            known = ", ".join(li.name for li in tables.plan.listeners)
            raise ClientError(f"there is no listener {asked.listener!r}; there are {known}")
        if listener.protocol in ("http", "https"):
            source = ip_address(_source(listener, asked, str(source)))
            index, route = _route(tables, listener, asked, str(source), answer)
        elif listener.protocol == "tls":
            raise ClientError(f"listener {listener.name} chooses by the ClientHello: ask for a pool of its sni_routes")
        elif listener.split is not None:
            index = _share(tables.plan, listener.split, asked, "listener", answer)
        else:
            index = listener.pool
    if index >= 0:
        plan = tables.plan.pools[index]
        if answer["route"] is not None:
            asked = replace(asked, target=answer["route"]["target"])  # in its normal form, as keys are made of it
        key, hashed = _key(plan, asked, str(source))
        model, version = _model(asked)
        question = Question(
            key, hashed, model, version, asked.sequence, route, lambda kind, name: _value(kind, name, asked)
        )
        answer["pool"] = explain_pool(plan, tables.pools[index], question, now)
    return answer


def _source(listener: ListenerPlan, asked: Described, peer: str) -> str:
    """The client that conditions, keys and limits go by: the peer, or whom trusted proxies name."""
    try:
        return source_of(listener, asked.text(b"/"), peer)
    except ValueError:
        return peer  # no request; the route says why


def _pool_index(plan: Plan, name: str) -> int:
    if not name:
        return -1
    for index, pool in enumerate(plan.pools):
        if pool.name == name:
            return index
    raise ClientError(f"there is no pool {name!r}; there are {', '.join(pool.name for pool in plan.pools)}")


def _route(
    tables: Tables, listener: ListenerPlan, asked: Described, source: str, answer: dict[str, Any]
) -> tuple[int, RoutePlan | None]:
    """Says which route it is; the pool that it leads to, -1 if to none, and the route."""
    if any(ord(c) < 33 for c in asked.method + asked.target + asked.host) or any(
        c in "\r\n\0" for pair in asked.headers for part in pair for c in part
    ):
        raise ClientError("a method, path, host or header holds what no request can")
    if not asked.target.startswith(("/", "*", "http://", "https://")):
        raise ClientError(f"the path {asked.target!r} does not begin with /")
    if not all(name for name, _ in asked.headers):
        raise ClientError("a header has no name")
    text = asked.text(asked.target.encode())
    try:
        read = read_target(text)
    except ValueError as error:
        raise ClientError(f"no request: {error}") from None
    if read is None:
        answer["reason"] = "the host, or the target, is not valid: 400"
        return -1, None
    host, target = read
    if listener.normalize is not None:
        normal = normal_target(target, listener.normalize)
        if normal is None:
            answer["reason"] = "the path has no normal form: 400"
            return -1, None
        target = normal
    try:
        text = Described(method=asked.method, host=host.decode(), headers=asked.headers, source=source).text(target)
        model = asked.model.encode() or None
        found, other_method = tables.listeners[listener.name].lookup(text, source.encode(), model)
    except ValueError as error:
        raise ClientError(f"no request: {error}") from None
    if found is None:
        answer["reason"] = "a route matches but for its method: 405" if other_method else "no route matches: 404"
        return -1, None
    if (
        listener.normalize is not None
        and listener.normalize.escaped_slash == "same_route"
        and not request_reads_alike(tables.listeners[listener.name], text, source.encode())
    ):
        answer["reason"] = "the path can be read in two ways, which lead to different routes: 400"
        return -1, None
    plan = next(route for route in listener.routes if route.name == found.name)
    answer["route"] = {"name": plan.name, "matched": _conditions(plan), "target": target.decode("utf-8", "replace")}
    answer["route"] |= _retries(plan, tables.plan)
    if plan.answer is not None:
        answer["reason"] = f"the route answers itself: {plan.answer.status}"
        return -1, plan
    if plan.split is None:
        return plan.pool, plan
    return _share(tables.plan, plan.split, asked, "route", answer), plan


def _share(plan: Plan, split: SplitPlan, asked: Described, what: str, answer: dict[str, Any]) -> int:
    """The pool of a split that was asked for, -1 where none was; says so in the answer."""
    total = sum(share.weight for share in split.shares) or 1
    shares = ", ".join(f"{plan.pools[share.pool].name} {100 * share.weight / total:.4g} %" for share in split.shares)
    wanted = _pool_index(plan, asked.pool)
    if wanted in [share.pool for share in split.shares]:
        answer["reason"] = f"the {what} splits ({shares}); this is the share that was asked for"
        return wanted
    answer["reason"] = f"the {what} splits: {shares}; name one of these pools to see its choice"
    return -1


def _retries(route: RoutePlan, plan: Plan) -> dict[str, Any]:
    """What the route says of its requests' order, time and retries."""
    made: dict[str, Any] = {
        "priority": PRIORITIES[route.priority],
        "timeout_ms": route.timeout_ns / 1e6 or None,
        "retry": None,
        "hedge": None,
    }
    pool = plan.pools[route.pool] if route.pool >= 0 else None
    retry, hedge = route.retry, route.hedge
    if pool is not None:
        bound = pool.policy.key or pool.cookie is not None or pool.learn is not None or len(pool.endpoints) < 2
        if retry is None and route.safe_retries:
            retry = safe_retries(pool.retries)
            if bound:
                retry = replace(retry, on=tuple(name for name in retry.on if name != "5xx"))
        if hedge is None and route.safe_hedges and not bound:
            hedge = SAFE_HEDGES
    if retry is not None:
        made["retry"] = {
            "attempts": retry.attempts,
            "on": list(retry.on),
            "per_attempt_timeout_ms": retry.per_attempt_timeout_ns / 1e6 or None,
            "budget_percent": retry.budget_percent,
        }
    elif pool is not None:
        made["retry"] = {"attempts": pool.retries, "on": ["connect", "reset"]}
    if hedge is not None:
        made["hedge"] = {
            "quantile": hedge.per_mille / 1000 or None,
            "delay_ms": hedge.delay_ns / 1e6,
            "budget_percent": hedge.budget_percent,
        }
    return made


def _conditions(route: RoutePlan) -> list[str]:
    """What a request had to have, in words."""
    words = []
    if route.host:
        words.append(f"host {'~ ' if route.host_regex else ''}{route.host}")
    if route.path_kind:
        words.append(f"path {route.path_kind} {route.path}")
    if route.methods:
        words.append(f"method {' or '.join(route.methods)}")
    words += map(_condition, route.conditions)
    return words


_HOW = {"one_of": "one of", "comparison": "", "map": "in map"}


def _condition(condition: ConditionPlan) -> str:
    """One condition in words; of groups each in parentheses."""
    if condition.groups:
        groups = (" and ".join(map(_condition, group)) for group in condition.groups)
        return ("none of " if condition.invert else "any of ") + " or ".join(f"({group})" for group in groups)
    value = condition.value or ", ".join(condition.networks or condition.texts)
    if condition.how == "exact" and not value:
        value = '""'
    if condition.comparison is not None:
        compared = condition.comparison
        value = f"{FIELDS[compared.field]} {compared.how} {compared.number}"
    how = "in" if condition.networks else _HOW.get(condition.how, condition.how)
    negation = "not " if condition.invert else ""
    return " ".join(filter(None, (negation + condition.what, condition.name, how, value)))


def _key(plan: PoolPlan, asked: Described, source: str) -> tuple[dict[str, str] | None, int]:
    """The key and where it is from, and its hash, as lb.proxy.exchange.exchange finds it."""
    policy = plan.policy
    if not policy.key:
        return None, 0
    value, place = asked.key, "given"
    if value is None:
        place = f"{policy.key} {policy.key_name}".strip()
        value = _made(policy, asked, source) or _value(policy.key, policy.key_name, asked)
    if value is None and policy.key == "model" and not asked.target.startswith(_GRPC):
        return {"from": "no model", "value": ""}, 0
    if value is None:
        place = "source" if policy.key == "source" else f"source, since there is no {place}"
        value = source
        if (policy.ipv4_prefix, policy.ipv6_prefix) != (32, 128):
            network = _network(source, policy.ipv4_prefix, policy.ipv6_prefix)
            return {"from": place, "value": str(network)}, hash64_bytes(network.network_address.packed)
    return {"from": place, "value": value}, hash64_bytes(value.encode())


def _made(policy: PolicyPlan, asked: Described, source: str) -> str | None:
    """The key of a path, a URI or a text; None where the key is another, or there is none in the request."""
    target = asked.target.encode()
    if policy.key in ("path", "uri"):
        key = key_of_target(target, policy.key == "uri", policy.key_depth, policy.key_length)
        return key.decode("utf-8", "replace") or None
    if policy.key != "text":
        return None
    path, _, query = target.partition(b"?")
    host = asked.host or next((v for n, v in asked.headers if n.lower() == "host"), "localhost")
    known = {
        "client.address": source.encode(),
        "request.method": asked.method.encode(),
        "request.host": re.sub(":[0-9]*$", "", host, flags=re.ASCII).encode(),
        "request.path": path,
        "request.query": query,
        "request.uri": target,
        **{name: value.encode() for name, value in asked.values},
    }
    try:
        return TextKey(policy.key_name).text_of(asked.text(target), known).decode("utf-8", "replace") or None
    except ValueError:
        return None  # what no request can be, or too long for a key


def _network(source: str, v4: int, v6: int) -> IPv4Network | IPv6Network:
    """The network of a source that counts, as lb.net.source_key finds it."""
    address = ip_address(source)
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return ip_network((address, v4 if address.version == 4 else v6), strict=False)


def _value(kind: str, name: str, asked: Described) -> str | None:
    """What the request has of the kind header, cookie, query or model; None for source, and if it has none."""
    if kind == "header":
        return next((v.strip() for n, v in asked.headers if n.lower() == name.lower()), None)
    if kind == "cookie":
        return _pair("; ".join(v for n, v in asked.headers if n.lower() == "cookie"), ";", name)
    if kind == "query":
        return _pair(asked.target.partition("?")[2], "&", name)
    if kind == "model":
        return _model(asked)[0] or None
    return None


def _model(asked: Described) -> tuple[str, str]:
    """The model that the request names, and its version; "" for none."""
    parts = asked.target.partition("?")[0].split("/")
    if parts[1:3] != ["v2", "models"] or len(parts) < 4:
        return asked.model, ""
    version = parts[5] if len(parts) > 5 and parts[4] == "versions" else ""
    return asked.model or parts[3], version


def _pair(text: str, separator: str, name: str) -> str | None:
    for pair in text.split(separator):
        found, equals, value = pair.strip(" ").partition("=")
        if equals and found == name:
            return value
    return None
