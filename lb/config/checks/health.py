"""What concerns health checks together with the rest of their pool."""

from __future__ import annotations

from collections.abc import Iterator

from lb.config.address import UnixPath, parse_address
from lb.config.advice.literal import quoted
from lb.config.schema.base import did_you_mean
from lb.config.schema.pools.health import HealthConfig
from lb.config.schema.pools.pool import PoolConfig
from lb.config.schema.pools.steps import CAPTURED
from lb.config.values import parse, values_in

MOST_MODELS = 64  # bits of a word in lb/shared/segment.h

# The settings that belong to some types.
_ONLY = {
    ("http",): ("path", "method", "headers", "status", "host", "body", "protocol"),
    ("tcp",): ("steps",),
    ("grpc",): ("service", "unimplemented"),
    ("oip",): ("models",),
    ("postgres", "mysql"): ("user",),
    ("udp",): ("send", "expect", "answered"),
}


def check_health(path: str, pool: PoolConfig) -> Iterator[tuple[str, str]]:
    """Problems as (path, message) of a pool that has checks."""
    health = pool.health
    assert health is not None
    for kinds, names in _ONLY.items():
        if health.type not in kinds:
            yield from _refuse(health, path, names, f"only for type {' and '.join(kinds)}")
    if health.type == "mysql" and health.user is None:
        yield f"{path}.user", "is needed for type mysql: an account without a password and without rights"
    yield from _captures(path, health)
    if health.expect is not None and not health.answered:
        yield f"{path}.expect", "has no effect with answered: false"
    if health.body is not None and health.method == "HEAD":
        yield f"{path}.body", "an answer to HEAD has none"
    if health.port is not None and any(isinstance(parse_address(e.address), UnixPath) for e in pool.endpoints):
        yield f"{path}.port", "not with endpoints on Unix sockets"
    yield from _send_proxy(path, pool)
    if health.models is not None:
        yield from _models(f"{path}.models", pool, health)


def _send_proxy(path: str, pool: PoolConfig) -> Iterator[tuple[str, str]]:
    checks, health = pool.checks, pool.health
    assert checks is not None
    assert health is not None
    if checks.send_proxy == "off":
        return
    if checks.type in ("http", "grpc", "oip"):
        where = "type" if health.send_proxy is None else "send_proxy"
        yield f"{path}.{where}", f"checks of type {checks.type} send no PROXY header; write send_proxy: off or a port"
    elif checks.type == "udp" and checks.send_proxy == "v1":
        yield f"{path}.send_proxy", "v1 is for connections only; write v2"


def _models(path: str, pool: PoolConfig, health: HealthConfig) -> Iterator[tuple[str, str]]:
    if pool.protocol != "oip":
        yield path, "only for pools of protocol oip: no other has models"
    if isinstance(health.models, list):
        if not 1 <= len(health.models) <= MOST_MODELS:
            yield path, f"1 to {MOST_MODELS} models can be asked about"
        for name in {n for n in health.models if health.models.count(n) > 1}:
            yield path, f"{name} is there twice"


def _refuse(health: HealthConfig, path: str, names: tuple[str, ...], message: str) -> Iterator[tuple[str, str]]:
    for name in names:
        field = type(health).model_fields[name]
        default = field.get_default(call_default_factory=True, validated_data={})
        if name in health.model_fields_set and getattr(health, name) != default:
            yield f"{path}.{name}", message + _meant(health, name)


def _meant(health: HealthConfig, name: str) -> str:
    """What `send` and `expect` are called for the type they were given to."""
    if name == "expect" and health.expect and health.type == "http":
        return f"; write body: {{contains: {quoted(health.expect)}}}"
    if name in ("send", "expect") and health.type == "tcp":
        return f"; write steps: [{{{name}: {quoted(getattr(health, name) or '')}}}]"
    return ""


def _captures(path: str, health: HealthConfig) -> Iterator[tuple[str, str]]:
    """References in `send` to what no earlier step captures."""
    known: set[str] = set()
    for i, step in enumerate(health.steps):
        if step.expect is not None:
            known.update(CAPTURED.findall(step.expect))
        where = f"{path}.steps[{i}].send"
        try:
            values = list(values_in(parse(step.send or "")))
        except ValueError as error:
            yield where, str(error)
            continue
        for value in values:
            name = value.argument
            if value.name != "capture":
                yield where, f"{value.spelling} is a value of requests; a check has captures, such as ${{capture.host}}"
            elif name not in known:
                yield where, f"no earlier step captures (?P<{name}>...)" + did_you_mean(name, known)
