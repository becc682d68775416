"""A configuration to a plan."""

import os
from pathlib import Path
from typing import Any

import msgpack
import pytest

from lb.config.checks.file import check_config
from lb.config.load import load
from lb.config.plan.caching import FreshnessPlan, ModelCachePlan, PoolCachePlan
from lb.config.plan.compile import compile_plan, worker_count
from lb.config.plan.plan import CachePlan, EndpointSpec, Plan, PolicyPlan
from lb.config.schema.file import Config
from lb.config.units import HOUR, MIB, MINUTE, SECOND
from lb.discovery.static import StaticEndpoints
from lb.errors import ConfigError

CONFIGS = Path(__file__).parents[2] / "configs"


class Numbers:
    """An Allocator that counts and remembers, as the master's does."""

    def __init__(self) -> None:
        self.slots: dict[tuple[str, str], int] = {}
        self.series_of: dict[tuple[str, str], int] = {}

    def endpoint(self, pool: str, address: str) -> int:
        return self.slots.setdefault((pool, address), len(self.slots))

    def series(self, kind: str, name: str) -> int:
        return self.series_of.setdefault((kind, name), len(self.series_of))


def compiled(name: str, managed: dict[str, list[EndpointSpec]] | None = None, numbers: Numbers | None = None) -> Plan:
    config = load(CONFIGS / name, files=False)
    return compile_plan(config, generation=7, workers=3, allocator=numbers or Numbers(), managed=managed or {})


def config_of(**pools: object) -> Config:
    return Config.model_validate({"pools": pools})


def test_production_example() -> None:
    servers = [EndpointSpec("unix:/run/a.sock", 1), EndpointSpec("unix:/run/b.sock", 1)]
    numbers = Numbers()
    plan = compiled("production.yaml", {"vision": servers}, numbers)
    assert (plan.generation, plan.workers, plan.cache) == (7, 3, CachePlan(4096 * MIB, 8 * MIB))
    assert plan.drain_timeout_ns == 2 * MINUTE
    assert plan.access_log.path == "/var/log/tidegate/access.log"
    vision, remote = plan.pools
    assert [(e.address, e.slot, e.weight) for e in vision.endpoints] == [
        ("unix:/run/a.sock", 0, 1),
        ("unix:/run/b.sock", 1, 1),
    ]
    assert [(e.address, e.weight) for e in remote.endpoints] == [("10.0.1.11:8001", 2), ("10.0.1.12:8001", 1)]
    assert remote.policy == PolicyPlan("maglev", "model", "", None)
    assert remote.response_timeout_ns == 2 * MINUTE
    (web,) = plan.listeners
    first, sampling, _ = web.routes
    assert (first.name, first.pool, first.path_kind, first.path) == ("vision", 0, "prefix", "/v2/models/vision/")
    assert (first.cache, first.freshness, first.timeout_ns, first.max_body) == (
        True,
        FreshnessPlan(HOUR),
        10 * SECOND,
        32 * MIB,
    )
    assert (sampling.cache, sampling.freshness) == (False, None)
    assert web.routes[2].freshness is None
    assert vision.cache == PoolCachePlan(FreshnessPlan(10 * MINUTE, 0, 0, 0, 1))
    assert set(numbers.series_of) == {
        ("listener", "web"),
        ("route", "vision"),
        ("route", "sampling"),
        ("route", "rest"),
        ("endpoint", "vision|unix:/run/a.sock"),
        ("endpoint", "vision|unix:/run/b.sock"),
        ("endpoint", "remote|10.0.1.11:8001"),
        ("endpoint", "remote|10.0.1.12:8001"),
        ("pool", "vision"),
        ("pool", "remote"),
    }


def test_a_small_cache_keeps_what_fits_into_it() -> None:
    config = Config.model_validate({"cache": {"size": MIB}})
    assert not [found for found in check_config(config) if found[0].startswith("cache")]
    assert config.cache is not None
    assert config.cache.max_object == MIB // 4
    large = Config.model_validate({"cache": {}}).cache
    assert large is not None
    assert large.max_object == MIB


def test_a_queue_in_which_nobody_waits_is_one() -> None:
    """It counts those that it refuses, and says when to come again."""
    settings = {"protocol": "http", "endpoints": ["127.0.0.1:9"], "queue": {"max": 0}}
    config = config_of(capped={**settings, "max_in_flight": 1})
    (pool,) = compile_plan(config, generation=1, workers=1, allocator=Numbers(), managed={}).pools
    assert pool.queue is not None
    assert pool.queue.max == 0


def test_same_names_keep_their_numbers_over_a_reload() -> None:
    numbers = Numbers()
    assert compiled("http.yaml", numbers=numbers) == compiled("http.yaml", numbers=numbers)


@pytest.mark.parametrize(
    "name", ["demo.yaml", "http.yaml", "tcp.yaml", "udp.yaml", "affinity.yaml", "production.yaml", "routing.yaml"]
)
def test_plans_survive_the_wire(name: str) -> None:
    plan = compiled(name)
    assert Plan.from_wire(msgpack.unpackb(msgpack.packb(plan.to_wire()))) == plan


def test_a_managed_pool_without_servers_is_empty() -> None:
    assert compiled("demo.yaml").pools[0].endpoints == ()


def test_routes_of_plain_http() -> None:
    plan = compiled("http.yaml")
    static, versioned, rest = plan.listeners[0].routes
    assert (static.host, static.methods, static.path_kind) == ("static.example.org", ("GET", "HEAD"), "")
    assert (versioned.path_kind, versioned.path) == ("regex", "^/api/v[0-9]+/")
    assert (rest.host, rest.path_kind, rest.methods, rest.timeout_ns) == ("", "", (), 0)
    assert not any(route.cache for route in plan.listeners[0].routes)
    assert plan.cache is None


def test_tcp_listeners_name_a_pool_and_have_no_routes() -> None:
    plan = compiled("tcp.yaml")
    assert [(li.pool, li.routes) for li in plan.listeners] == [(0, ()), (1, ())]
    assert [pool.send_proxy for pool in plan.pools] == ["v2", "v2"]


def test_unnamed_routes_are_numbered_and_keys_are_named() -> None:
    plan = compiled("affinity.yaml")
    assert [route.name for route in plan.listeners[0].routes] == ["web/0", "web/1", "web/2", "web/3"]
    assert [(p.policy.key, p.policy.key_name) for p in plan.pools] == [
        ("model", ""),
        ("cookie", "session"),
        ("query", "user"),
        ("header", "x-tenant"),
        ("source", ""),
    ]


def test_policy_options_go_through_and_header_names_are_lower_case() -> None:
    config = config_of(
        a={
            "protocol": "http",
            "endpoints": ["127.0.0.1:1"],
            "policy": {"type": "maglev", "key": {"header": "X-User"}, "table": 7},
        }
    )
    plan = compile_plan(config, generation=1, workers=1, allocator=Numbers(), managed={})
    assert plan.pools[0].policy == PolicyPlan("maglev", "header", "x-user", {"table": 7})


def test_host_names_need_their_addresses() -> None:
    config = config_of(a={"protocol": "http", "endpoints": [{"address": "web.test:80", "weight": 3}, "unix:/a"]})
    with pytest.raises(ConfigError, match=r"pools\.a\.endpoints\[0\]: web\.test:80 has not been resolved"):
        compile_plan(config, generation=1, workers=1, allocator=Numbers(), managed={})
    static = StaticEndpoints(lambda host: ["10.0.0.1", "10.0.0.2"])
    assert static.check(config) == []
    plan = compile_plan(config, generation=1, workers=1, allocator=Numbers(), managed=static.endpoints)
    assert [(e.address, e.weight) for e in plan.pools[0].endpoints] == [
        ("10.0.0.1:80", 3),
        ("10.0.0.2:80", 3),
        ("unix:/a", 1),
    ]


def test_worker_count() -> None:
    assert worker_count(Config(workers=5)) == 5
    assert worker_count(Config()) == min(len(os.sched_getaffinity(0)), 128)


def test_of_cache_rules_the_most_particular_counts() -> None:
    settings = {
        "cache": {"ttl": "1m", "stale_if_error": "1h", "refresh_early": False},
        "pools": {
            "a": {
                "protocol": "oip",
                "endpoints": ["127.0.0.1:1"],
                "cache": {"ttl": "2m", "models": {"m": {"ttl": "3m", "negative_ttl": "1s"}, "random": False}},
            },
            "b": {"protocol": "oip", "endpoints": ["127.0.0.1:2"], "cache": False},
            "c": {"protocol": "oip", "endpoints": ["127.0.0.1:3"]},
            "d": {"protocol": "http", "endpoints": ["127.0.0.1:4"]},
        },
        "listeners": {
            "web": {
                "bind": "127.0.0.1:0",
                "protocol": "http",
                "routes": [
                    {"pool": "a", "cache": {"stale_while_revalidate": "5s", "client_tags": True}},
                    {"pool": "a", "cache": False},
                    {"pool": "a"},
                    {"pool": "d"},
                ],
            }
        },
    }

    def planned(settings: dict[str, Any]) -> Plan:
        config = Config.model_validate(settings)
        return compile_plan(config, generation=1, workers=1, allocator=Numbers(), managed={})

    plan = planned(settings)
    a, b, c, d = (pool.cache for pool in plan.pools)
    assert a == PoolCachePlan(
        FreshnessPlan(2 * MINUTE, 0, HOUR, 0, 0),
        (ModelCachePlan("m", FreshnessPlan(3 * MINUTE, 0, HOUR, SECOND, 0)), ModelCachePlan("random", None)),
    )
    assert (b, c, d) == (None, PoolCachePlan(FreshnessPlan(MINUTE, 0, HOUR, 0, 0)), None)
    routes = plan.listeners[0].routes
    assert [(route.cache, route.freshness, route.client_tags) for route in routes] == [
        (True, FreshnessPlan(stale_ns=5 * SECOND), True),
        (False, None, False),
        (True, None, False),
        (False, None, False),
    ]
    del settings["cache"]
    assert all(pool.cache is None for pool in planned(settings).pools)
