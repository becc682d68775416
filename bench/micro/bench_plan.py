"""A reload's work in the master: 1,000 routes checked, and compiled to a plan."""

from __future__ import annotations

from typing import Any

from pytest_benchmark.fixture import BenchmarkFixture

from bench.guard.rig import Numbers
from lb.config.plan.compile import compile_plan
from lb.config.plan.plan import Plan
from lb.config.schema.file import Config

ROUTES = 1000


def document() -> dict[str, Any]:
    routes = [{"pool": "servers", "match": {"path": {"prefix": f"/v2/models/m{i:04}/"}}} for i in range(ROUTES)]
    return {
        "listeners": {"front": {"bind": "127.0.0.1:8080", "protocol": "http", "routes": routes}},
        "pools": {"servers": {"protocol": "http", "endpoints": ["127.0.0.1:9000"]}},
    }


def test_validate(benchmark: BenchmarkFixture) -> None:
    config = benchmark(Config.model_validate, document())
    assert len(config.listeners["front"].routes) == ROUTES


def test_compile(benchmark: BenchmarkFixture) -> None:
    config = Config.model_validate(document())

    def compile_() -> Plan:
        return compile_plan(config, generation=1, workers=1, allocator=Numbers(), managed={})

    check_plan(benchmark(compile_))


def test_wire(benchmark: BenchmarkFixture) -> None:
    """What a worker does with the plan that it is sent."""
    config = Config.model_validate(document())
    wire = compile_plan(config, generation=1, workers=1, allocator=Numbers(), managed={}).to_wire()
    check_plan(benchmark(Plan.from_wire, wire))


def check_plan(plan: Plan) -> None:
    (listener,) = plan.listeners
    assert [route.path for route in listener.routes] == [f"/v2/models/m{i:04}/" for i in range(ROUTES)]
