"""Groups of endpoints by their priorities and zones."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_config_compile import Numbers

from lb.config.load import load
from lb.config.plan.compile import compile_plan
from lb.config.plan.plan import EndpointSpec
from lb.config.schema.pools.failover import MOST_LEVELS, ZonesConfig, groups_of

TEXT = """
zone: a
listeners: {web: {bind: "127.0.0.1:8080", protocol: http, routes: [{pool: app}]}}
pools:
  app:
    protocol: http
    endpoints:
      - {address: "10.0.0.1:80", zone: a}
      - {address: "10.0.0.2:80", zone: b, priority: 7}
      - {address: "10.0.0.3:80", zone: a, priority: 7}
      - "10.0.0.4:80"
    zones: {}
"""


def at(*places: tuple[int, str]) -> list[EndpointSpec]:
    return [EndpointSpec(f"10.0.0.{i}:80", priority=priority, zone=zone) for i, (priority, zone) in enumerate(places)]


@pytest.mark.parametrize(
    ("endpoints", "zone", "zones", "groups"),
    [
        ([], "a", ZonesConfig(), ()),
        (at((0, ""), (0, "")), "", None, ()),
        (at((5, "a"), (5, "b")), "a", None, ()),
        (at((5, ""), (70, ""), (5, "")), "", None, (0, 2, 0)),
        (at((0, "a"), (0, "b"), (0, "")), "a", ZonesConfig(), (0, 1, 1)),
        (at((0, "b"), (0, "c")), "a", ZonesConfig(), ()),
        (at((0, "a"), (0, "a")), "a", ZonesConfig(), ()),
        (at((0, "a"), (0, "b")), "", ZonesConfig(), ()),
        (at((0, "a"), (0, "b")), "a", ZonesConfig(min_endpoints=2), ()),
        (at((0, "a"), (0, "b"), (0, "a"), (1, "a"), (1, "b")), "a", ZonesConfig(min_endpoints=2), (0, 1, 0, 2, 2)),
    ],
)
def test_groups(endpoints: list[EndpointSpec], zone: str, zones: ZonesConfig | None, groups: tuple[int, ...]) -> None:
    assert groups_of(endpoints, zone, zones) == groups


@given(st.lists(st.tuples(st.integers(0, 300), st.sampled_from(["", "a", "b"])), max_size=400), st.booleans())
def test_levels_are_without_gaps_and_in_order(places: list[tuple[int, str]], zones: bool) -> None:
    endpoints = at(*places)
    groups = groups_of(endpoints, "a", ZonesConfig() if zones else None)
    if not groups:
        return
    levels = [group // 2 for group in groups]
    assert set(levels) == set(range(max(levels) + 1))
    assert max(levels) < MOST_LEVELS
    for one, level in zip(endpoints, levels, strict=True):
        for other, its in zip(endpoints, levels, strict=True):
            assert level == its or (one.priority < other.priority) == (level < its)


def test_a_plan_has_groups_where_there_are_some(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(TEXT)
    (pool,) = compile_plan(load(path), generation=1, workers=1, allocator=Numbers(), managed={}).pools
    assert (pool.groups, pool.shaped) == ((0, 3, 2, 1), True)
    assert [(e.priority, e.zone) for e in pool.endpoints] == [(0, "a"), (7, "b"), (7, "a"), (0, "")]
    path.write_text(TEXT.replace("zones: {}", "outlier: off").replace(", priority: 7", ""))
    (pool,) = compile_plan(load(path), generation=1, workers=1, allocator=Numbers(), managed={}).pools
    assert (pool.groups, pool.shaped) == ((), False)
