"""Which route answers a request: the last of many, and none."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.micro._routes import find
from bench.micro.fleet import pool_plan, worker_segment
from lb.config.plan.plan import RoutePlan

HOST = "models.example.org"
_GET = 1  # of llhttp
_Pool = import_module("lb.upstream.pool").Pool
_route = import_module("lb.proxy.routing.route")


@pytest.fixture(params=[10, 1000])
def table(request: pytest.FixtureRequest) -> Iterator[tuple[Any, int]]:
    """A table of prefix routes on one host, and how many."""
    size: int = request.param
    with worker_segment(1) as segment:
        pool = _Pool(pool_plan(1), segment, [None])
        plans = [
            RoutePlan(
                name=f"r{i}", series=0, pool=0, host=HOST, path_kind="prefix", path=f"/v2/models/m{i:04}/",
                methods=("GET", "POST"), cache=False, timeout_ns=0, max_body=0,
            )
            for i in range(size)
        ]  # fmt: skip
        yield _route.RouteTable([_route.Route(plan, pool, segment) for plan in plans]), size


@pytest.mark.parametrize("what", ["last", "none"])
def test_find(benchmark: BenchmarkFixture, table: tuple[Any, int], what: str) -> None:
    routes, size = table
    number = size - 1 if what == "last" else size
    route, other_method = benchmark(find, routes, HOST.encode(), b"/v2/models/m%04d/infer" % number, _GET)
    assert (route.name if route else None) == (f"r{number}" if what == "last" else None)
    assert not other_method
