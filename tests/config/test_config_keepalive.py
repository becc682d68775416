"""`tcp_keepalive` of listeners and pools: what a file says, and what it compiles to."""

from __future__ import annotations

from pathlib import Path

import msgpack
import pytest
from test_config_compile import Numbers

from lb.config.load import load
from lb.config.plan.compile import compile_plan
from lb.config.plan.plan import KeepalivePlan, Plan
from lb.errors import ConfigError

FILE = """\
listeners:
  web: {{bind: 127.0.0.1:8080, protocol: http, routes: [{{pool: app}}]{listener}}}
pools:
  app: {{protocol: {protocol}, endpoints: ["127.0.0.1:8000"]{pool}}}
"""


def plans(folder: Path, listener: str = "", protocol: str = "http", pool: str = "") -> tuple[KeepalivePlan | None, ...]:
    """Of the listener and of the pool."""
    path = folder / "t.yaml"
    path.write_text(FILE.format(listener=listener, protocol=protocol, pool=pool))
    plan = compile_plan(load(path, files=False), generation=1, workers=1, allocator=Numbers(), managed={})
    assert Plan.from_wire(msgpack.unpackb(msgpack.packb(plan.to_wire()))) == plan
    return plan.listeners[0].keepalive, plan.pools[0].keepalive


@pytest.mark.parametrize(
    ("protocol", "user_timeout"), [("http", 0), ("http2", 20_000), ("grpc", 20_000), ("oip", 20_000)]
)
def test_defaults(tmp_path: Path, protocol: str, user_timeout: int) -> None:
    assert plans(tmp_path, protocol=protocol) == (KeepalivePlan(60, 15, 4), KeepalivePlan(15, 5, 3, user_timeout))


def test_everything_reaches_the_plan(tmp_path: Path) -> None:
    given = ", tcp_keepalive: {idle: 90500ms, interval: 10s, probes: 7, user_timeout: 2500us}"
    assert plans(tmp_path, listener=given) == (KeepalivePlan(91, 10, 7, 3), KeepalivePlan(15, 5, 3))
    given = ", tcp_keepalive: {idle: 30s, interval: 10s, probes: 2, user_timeout: 45s}"
    assert plans(tmp_path, pool=given)[1] == KeepalivePlan(30, 10, 2, 45_000)
    assert plans(tmp_path, protocol="grpc", pool=", tcp_keepalive: {user_timeout: 0s}")[1] == KeepalivePlan(15, 5, 3)


def test_off(tmp_path: Path) -> None:
    off = ", tcp_keepalive: off"
    assert plans(tmp_path, listener=off, protocol="grpc", pool=off) == (None, None)


def test_the_time_to_connect_counts_too(tmp_path: Path) -> None:
    """The kernel ends an attempt to connect after the user timeout as well."""
    slow = ", connect_timeout: 30s"
    assert plans(tmp_path, protocol="http2", pool=slow)[1] == KeepalivePlan(15, 5, 3, 30_000)
    with pytest.raises(ConfigError, match=r"tcp_keepalive.user_timeout: is shorter than connect_timeout \(30s\)"):
        plans(tmp_path, pool=f"{slow}, tcp_keepalive: {{user_timeout: 20s}}")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("on", "tcp_keepalive: must be off, or a mapping"),
        ("{idle: 500ms}", "tcp_keepalive.idle: must be at least 1s"),
        ("{idle: 10h}", "tcp_keepalive.idle: must be at most 32767s"),
        ("{probes: 128}", "tcp_keepalive.probes: must be at most 127"),
        ("{idel: 5s}", "tcp_keepalive.idel: unknown key; did you mean idle?"),
    ],
)
def test_mistakes(tmp_path: Path, given: str, message: str) -> None:
    with pytest.raises(ConfigError) as failure:
        plans(tmp_path, pool=f", tcp_keepalive: {given}")
    assert message in str(failure.value)


def test_datagrams_have_no_connections(tmp_path: Path) -> None:
    path = tmp_path / "t.yaml"
    path.write_text(
        "listeners: {dns: {bind: 127.0.0.1:5353, protocol: udp, pool: app, tcp_keepalive: off}}\n"
        "pools: {app: {protocol: udp, endpoints: ['127.0.0.1:53'], tcp_keepalive: {idle: 5s}}}\n"
    )
    with pytest.raises(ConfigError) as failure:
        load(path, files=False)
    assert "listeners.dns.tcp_keepalive: only for protocols http, tcp and tls" in str(failure.value)
    assert "pools.app.tcp_keepalive: not for protocol udp, which has no connections" in str(failure.value)
