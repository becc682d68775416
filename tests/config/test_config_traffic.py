"""Rate limits, forwarding, tracing and process limits: what a file says, and what it compiles to."""

from pathlib import Path
from typing import Any

import msgpack
import pytest
from authority import Authority
from test_config_compile import Numbers

from lb.config.address import port_of
from lb.config.load import load
from lb.config.plan.compile import compile_plan
from lb.config.plan.plan import HopPlan, LimitsPlan, Plan, TracingPlan
from lb.config.plan.routes import RatePlan
from lb.config.schema.file import Config
from lb.config.schema.routes.rate import RateLimitConfig, interval, rate_plan
from lb.config.schema.tracing import TracingConfig, check_tracing
from lb.config.units import DAY, GIB, HOUR, MILLISECOND, MINUTE, SECOND
from lb.errors import ConfigError

FILE = """\
listeners:
  web:
    bind: 127.0.0.1:8080
    protocol: http
    trusted_proxies: [10.0.0.0/8, 2001:db8::1]
    forwarded_header: true
    request_id: true
    via: gate.example.org:80
    min_body_rate: 1KiB
    routes:
      - pool: app
        rate_limit: {rate: 100/s, burst: 250, key: {header: X-Tenant}, fields: legacy}
pools:
  app: {protocol: http, endpoints: ["127.0.0.1:8000"]}
tracing: {endpoint: "http://127.0.0.1:4318/v1/traces", protocol: http, ratio: 0.25, parent: trusted, timeout: 3s}
limits: {max_in_flight: 1000, max_memory: 2GiB}
"""


def plan_of(text: str, folder: Path) -> Plan:
    path = folder / "t.yaml"
    path.write_text(text)
    config = load(path, files=False)
    return compile_plan(config, generation=1, workers=1, allocator=Numbers(), managed={})


def test_everything_reaches_the_plan_and_the_wire(tmp_path: Path) -> None:
    plan = plan_of(FILE, tmp_path)
    (web,) = plan.listeners
    assert web.hop == HopPlan(
        ("10.0.0.0/8", "2001:db8::1/128"), 8080, True, "gate.example.org:80", True, True, 0.25, "trusted"
    )
    assert web.min_body_rate == 1024
    assert web.routes[0].rate_limit == RatePlan(10 * MILLISECOND, 250, "header", "x-tenant", "legacy")
    assert plan.tracing == TracingPlan("http://127.0.0.1:4318/v1/traces", "http", "tidegate", 3 * SECOND)
    assert plan.limits == LimitsPlan(1000, 2 * GIB)
    assert Plan.from_wire(msgpack.unpackb(msgpack.packb(plan.to_wire()))) == plan


def test_defaults_ask_for_little(tmp_path: Path) -> None:
    text = FILE.partition("    trusted_proxies")[0] + "    routes: [{pool: app}]\npools:" + FILE.partition("pools:")[2]
    plan = plan_of(text.partition("tracing")[0], tmp_path)
    (web,) = plan.listeners
    assert web.hop == HopPlan(port=8080, via="tidegate")
    assert web.min_body_rate == 100
    assert web.routes[0].rate_limit is None
    assert (plan.tracing, plan.limits) == (None, LimitsPlan())
    assert Plan.from_wire(msgpack.unpackb(msgpack.packb(plan.to_wire()))) == plan


@pytest.mark.parametrize(
    ("rate", "ns"),
    [
        ("1/s", SECOND),
        ("100/s", 10 * MILLISECOND),
        ("30/m", 2 * SECOND),
        ("1/h", HOUR),
        ("2/d", DAY // 2),
        ("999999/s", 1000),
    ],
)
def test_rates(rate: str, ns: int) -> None:
    assert interval(rate) == ns


@pytest.mark.parametrize("rate", ["0/s", "1", "1/w", "1.5/s", "-1/s", "1000000/s", "1 /s", "/s", "1/S", "\u0661/s"])
def test_what_is_no_rate(rate: str) -> None:
    with pytest.raises(ValueError, match="is not a rate"):
        RateLimitConfig.model_validate({"rate": rate})


@pytest.mark.parametrize(
    ("rate", "burst"), [("100/s", 100), ("30/m", 1), ("1/d", 1), ("90/m", 1), ("999999/s", 1_000_000)]
)
def test_the_burst_is_what_comes_back_in_a_second(rate: str, burst: int) -> None:
    plan = rate_plan(RateLimitConfig(rate=rate))
    assert plan is not None
    assert (plan.burst, plan.key, plan.key_name, plan.fields) == (burst, "source", "", "standard")


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ({"header": "X-A"}, ("header", "x-a")),
        ({"cookie": "Id"}, ("cookie", "Id")),
        ({"query": "User"}, ("query", "User")),
        ({"source": True}, ("source", "")),
        ({"route": True}, ("", "")),
        ({"path": True}, ("path", "")),
        ({"uri": True}, ("uri", "")),
        ({"text": "a"}, ("text", "a")),
    ],
)
def test_keys(key: dict[str, Any], expected: tuple[str, str]) -> None:
    plan = rate_plan(RateLimitConfig.model_validate({"rate": "1/s", "key": key}))
    assert plan is not None
    assert (plan.key, plan.key_name) == expected


def test_the_longest_bucket_can_be_counted() -> None:
    plan = rate_plan(RateLimitConfig(rate="1/d", burst=365))
    assert plan is not None
    assert plan.interval_ns * plan.burst < 1 << 62
    with pytest.raises(ValueError, match="more than a year"):
        RateLimitConfig(rate="1/d", burst=366)


@pytest.mark.parametrize(
    ("bind", "port"), [("127.0.0.1:80", 80), ("[::1]:443", 443), ("unix:/run/a.sock", 0), ("127.0.0.1:0", 0)]
)
def test_the_port_that_is_told(bind: str, port: int) -> None:
    assert port_of(bind) == port


def test_tracing_without_opentelemetry_is_a_mistake_of_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import lb.config.schema.tracing

    monkeypatch.setattr(lb.config.schema.tracing, "_installed", lambda module: False)
    tracing = TracingConfig(endpoint="http://127.0.0.1:4317")
    assert list(check_tracing(None)) == []
    assert [path for path, _ in check_tracing(tracing)] == ["tracing"]
    path = tmp_path / "t.yaml"
    path.write_text(FILE)
    with pytest.raises(ConfigError, match=r"t\.yaml:15: tracing: needs OpenTelemetry"):
        load(path)
    assert load(path, files=False).tracing is not None


def test_windows_of_minutes() -> None:
    assert Config.model_validate({"limits": {"max_memory": GIB}}).limits.max_memory == GIB
    assert interval("2/m") * 2 == MINUTE


def test_limits_of_sources_have_an_effect_at_a_unix_socket_that_is_handed_connections(tmp_path: Path) -> None:
    pair = Authority().issue("web.example")
    (tmp_path / "web.pem").write_bytes(pair.chain + pair.key)
    path = tmp_path / "tidegate.yaml"
    text = """
listeners:
  secure: {bind: "127.0.0.1:9000", protocol: tls, sni_routes: [{sni: web.example, listener: web}]}
  web:
    bind: unix:/run/web.sock
    protocol: https
    tls: {certificates: [{cert: web.pem, key: web.pem}]}
    deny: [10.66.0.0/16]
    connection_rate_per_source: 10/s
    routes: [{respond: {status: 204}}]
"""
    path.write_text(text)
    assert load(path).listeners["web"].deny == ["10.66.0.0/16"]
    path.write_text(text.replace("sni: web.example, listener: web", "sni: web.example, pool: app") + APP)
    with pytest.raises(ConfigError, match=r"listeners\.web\.deny: has no effect: clients of a Unix socket"):
        load(path)


APP = "pools: {app: {protocol: tcp, endpoints: ['127.0.0.1:9001']}}\n"
