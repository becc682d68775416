"""Which route takes a request, as docs/howto/routing.md says it and in as few words: every route is looked at."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes

from lb.config.plan.plan import RoutePlan
from lb.config.plan.routes import ConditionPlan
from lb.config.schema.routes.template import Template


@dataclass
class Request:
    method: str = "GET"
    host: str = "example.org"
    path: str = "/"
    query: str = ""
    fields: list[tuple[str, str]] = field(default_factory=list)
    ip: str = "127.0.0.1"

    def text(self) -> bytes:
        target = self.path + (f"?{self.query}" if self.query else "")
        lines = [f"{self.method} {target} HTTP/1.1", f"Host: {self.host}", *(f"{n}: {v}" for n, v in self.fields)]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def find(plans: list[RoutePlan], request: Request) -> tuple[str | None, bool]:
    """Name of the route, and whether only the method was wrong."""
    candidates = []
    host_order = _order(p.host for p in plans if p.host_regex)
    for number, plan in enumerate(plans):
        host = _host(plan, request.host.removesuffix("."), host_order)
        order = _order(p.path for p in plans if p.path_kind == "regex" and _same_host(p, plan))
        path = _path(plan, request.path, order)
        if host is not None and path is not None and all(_holds(c, request) for c in plan.conditions):
            candidates.append((host, path, number, plan))
    candidates.sort(key=lambda c: c[:3])
    for *_, plan in candidates:
        if not plan.methods or request.method in plan.methods:
            return plan.name, False
    return None, bool(candidates)


def _order(texts: object) -> dict[str, int]:
    return {text: i for i, text in enumerate(dict.fromkeys(texts))}  # type: ignore[call-overload]


def _same_host(a: RoutePlan, b: RoutePlan) -> bool:
    return (a.host, a.host_regex) == (b.host, b.host_regex)


def _host(plan: RoutePlan, host: str, order: dict[str, int]) -> tuple[int, int] | None:
    host = host.lower()
    if plan.host_regex:
        return (2, order[plan.host]) if re.search(plan.host, host, re.IGNORECASE) else None
    if plan.host.startswith("*."):
        suffix = plan.host[1:]
        return (1, -len(suffix)) if host.endswith(suffix) and len(host) > len(suffix) else None
    if plan.host:
        return (0, 0) if host == plan.host else None
    return 3, 0


def _path(plan: RoutePlan, path: str, order: dict[str, int]) -> tuple[int, int] | None:
    if plan.path_kind == "exact":
        return (0, 0) if path == plan.path else None
    if plan.path_kind == "model":
        if path == plan.path:
            return 0, 0
        return (1, -2 * (len(plan.path) + 1)) if path.startswith(plan.path + "/") else None
    if plan.path_kind == "prefix":
        return (1, -2 * len(plan.path)) if path.startswith(plan.path) else None
    if plan.path_kind == "template":
        pattern = "".join(f"/{_segment(part)}" for part in plan.path.removeprefix("/").split("/"))
        literal = Template.parse(plan.path).literal
        return (1, -2 * literal - 1) if re.fullmatch(pattern, path, re.DOTALL) else None
    if plan.path_kind == "regex":
        return (2, order[plan.path]) if re.search(plan.path, path) else None
    return 3, 0


def _segment(part: str) -> str:
    if part.endswith("...}"):
        return ".*"
    return "[^/]+" if part.startswith("{") else re.escape(part)


def _holds(condition: ConditionPlan, request: Request) -> bool:
    return _found(condition, request) != condition.invert


def _found(condition: ConditionPlan, request: Request) -> bool:
    if condition.what == "source":
        if not request.ip:
            return False
        address = ipaddress.ip_address(request.ip)
        networks = [ipaddress.ip_network(n) for n in condition.networks]
        return any(n.version == address.version and address in n for n in networks)
    if condition.what == "header":
        values = [v.encode("latin-1") for n, v in request.fields if n.lower() == condition.name]
    elif condition.what == "cookie":
        cookies = [c.strip(" \t") for n, v in request.fields if n.lower() == "cookie" for c in v.split(";")]
        values = [_pair(c)[1].encode("latin-1") for c in cookies if c and _pair(c)[0] == condition.name]
    else:
        pairs = [_pair(p) for p in request.query.split("&") if p]
        values = [_plain(v) for n, v in pairs if _plain(n) == condition.name.encode()]
    return any(_accepts(condition, value) for value in values)


def _pair(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name, value


def _plain(text: str) -> bytes:
    return unquote_to_bytes(text.replace("+", " "))


def _accepts(condition: ConditionPlan, value: bytes) -> bool:
    wanted = condition.value.encode()
    return {
        "present": lambda: True,
        "exact": lambda: value == wanted,
        "prefix": lambda: value.startswith(wanted),
        "suffix": lambda: value.endswith(wanted),
        "contains": lambda: wanted in value,
        "regex": lambda: re.search(wanted, value) is not None,
    }[condition.how]()
