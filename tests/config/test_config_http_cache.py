"""`http_cache` of a route: what it compiles to, and where it cannot stand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError
from test_config_foreign import errors

from lb.config.plan.caching import DiskPlan
from lb.config.plan.routes import HttpCachePlan
from lb.config.schema.disk import DiskConfig, disk_plan
from lb.config.schema.routes.http_cache import HttpCache, HttpCacheConfig, http_cache_plan


def config(route: dict[str, Any], protocol: str = "http", **more: Any) -> dict[str, Any]:
    pools = {"files": {"protocol": protocol, "endpoints": ["10.0.0.1:9001"]}}
    web = {"bind": "127.0.0.1:0", "protocol": "http", "routes": [{"pool": "files", **route}]}
    return {"listeners": {"web": web}, "pools": pools, "cache": {}, **more}


def test_defaults_and_times() -> None:
    assert http_cache_plan(None) is None
    assert http_cache_plan(HttpCacheConfig()) == HttpCachePlan()
    given = HttpCacheConfig.model_validate(
        {
            "ttl": "1500ms",
            "stale_if_error": "1m",
            "max_object": "2KiB",
            "key": {"query": False, "headers": ["X-Tenant"]},
        }
    )
    plan = HttpCachePlan(ttl_s=2, stale_if_error_s=60, max_object=2048, query=False, headers=("x-tenant",))
    assert http_cache_plan(given) == plan


@pytest.mark.parametrize("protocol", ["http", "http2"])
def test_pools_of_plain_http(tmp_path: Path, protocol: str) -> None:
    assert errors(tmp_path, config({"http_cache": {}}, protocol)) == []


@pytest.mark.parametrize("protocol", ["oip", "grpc"])
def test_other_pools(tmp_path: Path, protocol: str) -> None:
    (said,) = errors(tmp_path, config({"http_cache": {}}, protocol))
    assert f"only for pools of protocol http or http2, not {protocol}" in said


def test_a_switch(tmp_path: Path) -> None:
    def given(value: Any) -> HttpCacheConfig | None:
        return TypeAdapter(HttpCache).validate_python(value)

    assert given(True) == given({}) == HttpCacheConfig()
    assert given(False) is given(None) is None
    for value in (True, False):
        assert errors(tmp_path, config({"http_cache": value})) == []
    (said,) = errors(tmp_path, config({"http_cache": 10}))
    assert "must be true or false, or a mapping" in said
    data = config({"http_cache": False}, "oip")
    del data["cache"]
    assert errors(tmp_path, data) == []  # off, it needs nothing


def test_it_needs_a_cache(tmp_path: Path) -> None:
    data = config({"http_cache": {}})
    del data["cache"]
    (said,) = errors(tmp_path, data)
    assert "there is no cache; add a section cache: {}" in said


def test_routes_that_answer_themselves(tmp_path: Path) -> None:
    data = config({})
    data["listeners"]["web"]["routes"].append({"match": {"path": {"exact": "/a"}}, "respond": {}, "http_cache": {}})
    (said,) = errors(tmp_path, data)
    assert "http_cache is only for routes with a pool" in said


def test_no_object_is_larger_than_the_caches(tmp_path: Path) -> None:
    (said,) = errors(tmp_path, config({"http_cache": {"max_object": "2MiB"}}))
    assert "is more than max_object of the section cache, or of its disk" in said
    disk = {"disk": {"path": str(tmp_path), "max_object": "2MiB"}}
    assert errors(tmp_path, config({"http_cache": {"max_object": "2MiB"}}, cache=disk)) == []


def test_a_disk() -> None:
    assert disk_plan(None) is None
    assert disk_plan(DiskConfig.model_validate({"path": "/d"})) == DiskPlan("/d", 10 << 30, 16 << 20)
    small = DiskConfig.model_validate({"path": "/d", "max_size": "32MiB"})
    assert disk_plan(small) == DiskPlan("/d", 32 << 20, 2 << 20)
    with pytest.raises(ValidationError, match="max_size"):
        DiskConfig.model_validate({"path": "/d", "max_size": "15MiB"})
