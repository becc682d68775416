"""Datagrams in the configuration: what a file says and what the plan has of it."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
from test_config_compile import Numbers, compiled, config_of

from lb.cli.doctor.machine import Machine, _files
from lb.config.checks.descriptors import limit_for, room, shortage
from lb.config.load import load
from lb.config.plan.compile import compile_plan
from lb.config.plan.plan import QuicPlan, UdpPlan
from lb.config.schema.file import Config
from lb.config.units import KIB, MINUTE, SECOND
from lb.control.reload import sets_wanted

CONFIGS = Path(__file__).parents[2] / "configs"


def test_the_example() -> None:
    numbers = Numbers()
    plan = compiled("udp.yaml", numbers=numbers)
    dns, syslog = plan.listeners
    series = numbers.series_of
    assert dns.udp == UdpPlan(series["udp-listener", "dns"], 10_000, 1000, 4 * KIB, 1, 0, lasting=False)
    assert syslog.udp == UdpPlan(series["udp-listener", "syslog"], 20_000, 0, 64 * KIB, 0, 1000, lasting=False)
    assert (dns.idle_timeout_ns, syslog.idle_timeout_ns) == (5 * SECOND, MINUTE)
    assert (dns.pool, syslog.pool, dns.routes) == (0, 1, ())
    assert dns.series == series["listener", "dns"] != series["udp-listener", "dns"]
    assert [e.datagrams for p in plan.pools for e in p.endpoints] == [
        series["udp-endpoint", f"{p.name}|{e.address}"] for p in plan.pools for e in p.endpoints
    ]
    assert len(set(series.values())) == len(series)
    assert plan.pools[0].response_timeout_ns == 0


def test_the_checks_of_the_example_are_bytes() -> None:
    check = load(CONFIGS / "udp.yaml", files=False).pools["dns"].health
    assert check is not None
    # A question (RFC 1035 4.1): identifier, recursion desired, one question; the root, NS, IN.
    assert check.send.encode("latin-1") == b"TG\1\0" + b"\0\1\0\0\0\0\0\0" + b"\0" + b"\0\2\0\1"
    assert check.expect is not None
    assert check.expect.encode("latin-1").startswith(b"^TG[\\x80-")


def test_other_listeners_and_pools_have_nothing_of_it() -> None:
    plan = compiled("tcp.yaml")
    assert [x.udp for x in plan.listeners] == [None, None]
    assert {e.datagrams for p in plan.pools for e in p.endpoints} == {-1}


@pytest.mark.parametrize(("given", "expected"), [(None, -1), (0, 0), (3, 3)])
def test_an_unknown_number_of_answers_is_not_none(given: int | None, expected: int) -> None:
    config = Config.model_validate(
        {
            "listeners": {"d": {"bind": "127.0.0.1:0", "protocol": "udp", "pool": "p", "udp": {"responses": given}}},
            "pools": config_of(p={"protocol": "udp", "endpoints": ["127.0.0.1:1"]}).pools,
        }
    )
    (listener,) = compile_plan(config, generation=1, workers=1, allocator=Numbers(), managed={}).listeners
    assert listener.udp is not None
    assert listener.udp.responses == expected


def test_the_limit_of_open_files_that_is_advised_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with more endpoints than a small limit keeps descriptors for; and `tidegate doctor` advises the same."""
    config = Config.model_validate(
        {
            "listeners": {
                "d": {"bind": "127.0.0.1:0", "protocol": "udp", "pool": "p", "udp": {"max_sessions": 300}},
                "w": {"bind": "127.0.0.1:0", "protocol": "http", "routes": [{"pool": "w"}], "max_connections": 500},
            },
            "pools": {
                "p": {"protocol": "udp", "endpoints": ["127.0.0.1:1"]},
                "w": {"protocol": "http", "endpoints": [f"127.0.0.1:{n}" for n in range(1, 1001)]},
            },
            "workers": 2,
        }
    )
    plan = compile_plan(config, generation=1, workers=2, allocator=Numbers(), managed={})
    advised = limit_for(listeners=2, endpoints=1000, sessions=300, connections=500, workers=2)
    assert f"raise the limit to {advised} " in (shortage(plan, room(plan, 256), 2) or "")
    assert shortage(plan, room(plan, advised), 2) is None
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 256))
    assert any(f"{advised} are wanted" in found.text for found in _files(Machine(Path("/")), config))


def test_datagrams_and_streams_may_have_one_address(tmp_path: Path) -> None:
    path = tmp_path / "t.yaml"
    path.write_text(
        """\
listeners:
  a: {bind: "127.0.0.1:5353", protocol: udp, pool: u}
  b: {bind: "127.0.0.1:5353", protocol: tcp, pool: t}
pools:
  u: {protocol: udp, endpoints: ["127.0.0.1:53"]}
  t: {protocol: tcp, endpoints: ["127.0.0.1:53"]}
"""
    )
    assert load(path).listeners.keys() == {"a", "b"}


def test_a_pool_of_quic() -> None:
    config = Config.model_validate(
        {
            "listeners": {"d": {"bind": "127.0.0.1:0", "protocol": "udp", "pool": "p"}},
            "pools": {
                "p": {
                    "protocol": "udp",
                    "policy": {"type": "maglev", "key": {"source": {"port": True, "destination": True}}},
                    "affinity": {"quic": {"server_id_length": 3}},
                    "endpoints": [{"address": "127.0.0.1:1", "server_id": "0A0b0C"}, "127.0.0.1:2"],
                }
            },
        }
    )
    plan = compile_plan(config, generation=1, workers=1, allocator=Numbers(), managed={})
    (pool,) = plan.pools
    assert pool.quic == QuicPlan(key_length=8, server_id_length=3, idle_ns=2 * MINUTE)
    assert [e.server_id for e in pool.endpoints] == ["0a0b0c", ""]
    assert (pool.policy.key, pool.policy.source_port, pool.policy.source_destination) == ("source", True, True)
    assert plan.listeners[0].udp is not None
    assert plan.listeners[0].udp.lasting
    # Half of the sets' places stay free, with the flows of the listener and the pool's connection ids.
    assert sets_wanted(config) * 4 >= 10_000 + 100_000
