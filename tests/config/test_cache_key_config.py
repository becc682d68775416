"""`cache` of a route: a boolean, or what decides which answer a request gets."""

from __future__ import annotations

from typing import Any

import pytest
from test_config_compile import Numbers

from lb.config.checks.file import check_config
from lb.config.plan.cache_key import CacheKeyPlan
from lb.config.plan.compile import compile_plan
from lb.config.plan.plan import Plan
from lb.config.schema.file import Config


def file_with(cache: Any, protocol: str = "oip", section: bool = True, **options: Any) -> Config:
    """`options` are of the route, but `tags_header`."""
    tags_header = options.pop("tags_header", None)
    route = {"pool": "p", "cache": cache, **options}
    listener = {"bind": "127.0.0.1:1", "protocol": "http", "routes": [route]}
    data: dict[str, Any] = {
        "listeners": {"web": listener},
        "pools": {"p": {"protocol": protocol, "endpoints": ["127.0.0.1:2"]}},
    }
    if section:
        data["cache"] = {} if tags_header is None else {"tags_header": tags_header}
    return Config.model_validate(data)


def plan_of(cache: Any) -> Plan:
    config = file_with(cache)
    assert check_config(config) == []
    plan = compile_plan(config, generation=1, workers=1, allocator=Numbers(), managed={})
    assert Plan.from_wire(plan.to_wire()) == plan
    return plan


@pytest.mark.parametrize(
    ("cache", "on", "key"),
    [
        (True, True, None),
        (False, False, None),
        ({}, True, None),
        ({"vary": ["X-B", "x-a", "X-b"]}, True, CacheKeyPlan(vary=("x-a", "x-b"))),
        ({"tenant": {"header": "X-Tenant"}}, True, CacheKeyPlan(tenant="header", tenant_name="x-tenant")),
        ({"tenant": {"cookie": "Who"}}, True, CacheKeyPlan(tenant="cookie", tenant_name="Who")),
        ({"tenant": {"query": "Who"}}, True, CacheKeyPlan(tenant="query", tenant_name="Who")),
        ({"honor_cache_control": True}, True, CacheKeyPlan(control=True)),
    ],
)
def test_what_it_compiles_to(cache: Any, on: bool, key: CacheKeyPlan | None) -> None:
    (route,) = plan_of(cache).listeners[0].routes
    assert (route.cache, route.cache_key) == (on, key)


@pytest.mark.parametrize(
    ("cache", "says"),
    [
        ("yes", "must be true or false, or a mapping"),
        ({"tenant": {}}, "exactly one of"),
        ({"tenant": {"header": "a", "cookie": "b"}}, "exactly one of"),
        ({"vary": ["a b"]}, "vary"),
        ({"varies": []}, "varies"),
    ],
)
def test_what_is_refused(cache: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        file_with(cache)


@pytest.mark.parametrize(
    ("options", "says"),
    [({"section": False}, "there is no cache"), ({"protocol": "http"}, "only for pools of protocol oip")],
)
def test_where_it_has_no_effect(options: dict[str, Any], says: str) -> None:
    (found,) = check_config(file_with({"vary": ["a"]}, **options))
    assert found[0] == "listeners.web.routes[0].cache"
    assert says in found[1]
    assert check_config(file_with(False, **options)) == []


def test_results_by_get() -> None:
    (route,) = plan_of({"results_by_get": True}).listeners[0].routes
    assert route.results_by_get
    (route,) = plan_of(True).listeners[0].routes
    assert not route.results_by_get


@pytest.mark.parametrize("name", ["Cache-Tag", "Surrogate-Key"])
def test_the_field_of_tags(name: str) -> None:
    config = file_with(True, tags_header=name)
    plan = compile_plan(config, generation=1, workers=1, allocator=Numbers(), managed={})
    assert plan.cache is not None
    assert plan.cache.tags_header == name
    assert Plan.from_wire(plan.to_wire()) == plan
    with pytest.raises(ValueError, match="tags_header"):
        file_with(True, tags_header="X-Tags")


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"cache": {"results_by_get": True}}, ["cache-control", "Content-Location", "ETag"]),
        ({"cache": True, "tags_header": "Cache-Tag"}, ["cache-tag"]),
        ({"cache": True}, []),
    ],
)
def test_fields_that_are_not_the_routes_to_set(options: dict[str, Any], names: list[str]) -> None:
    given = ["cache-control", "Content-Location", "ETag", "cache-tag", "x-other"]
    for section in ("set", "add"):
        fields = {section: dict.fromkeys(given, "x")}
        found = check_config(file_with(**options, response_headers=fields))
        assert [place for place, _ in found] == [
            f"listeners.web.routes[0].response_headers.{section}.{n}" for n in names
        ]
