"""Paths that an endpoint could take for others than the routes did (`escaped_slash: same_route`, the default)."""

from __future__ import annotations

from typing import Any

import pytest
from datapath import Site
from h2_client import h2_client
from routing_site import curl, routing_gate, shown

from lb.proxy.routing.readings import path_readings

ROUTES: list[dict[str, Any]] = [
    {"match": {"path": {"prefix": "/admin/"}}, "respond": {"status": 403}},
    {"match": {"path": {"exact": "/a%2Fb;c"}}, "pool": "a"},
    {"match": {"path": {"template": "/files/{name}"}}, "pool": "a"},
    {"match": {"path": {"prefix": "/"}}, "pool": "a"},
]
ROUND = [
    "/%2fadmin/x", "/x/..%2fadmin/x", "/x%2f..%2fadmin/x", "/x/%2e%2e%2fadmin/x", "/%5cadmin/x", "/\\admin\\x",
    "/admin%2fx", "/admin%5cx", "/admin\\x", "/x\\..\\admin\\x", "/x/..\\admin/x", "/%252fadmin/x",
    "/x/..%252fadmin/x", "/%25252fadmin/x", "/%2561dmin/x", "/admin;a=b/x", "/;/admin/x", "/x/..;/admin/x",
    "/x/..;a/admin/x", "/x/.%2e;/admin/x", "/x%2f%2e%2e%2f%2fadmin/x", "/admin%2f%2f..%2fx",
    "/x%2f..%2fadmin%2f%5c..%5c..%5cx", "/admin%2fx%2f..%252f..%252f..%252fy", "/files%2f..%2fadmin%2fx",
    "/%2f%2fadmin/x",
]  # fmt: skip
PASSED = [
    "/a%2Fb", "/x%2Fy%2Fz", "/a%20b", "/100%25", "/x;v=1/y", "/a\\b", "/a%2Fb;c", "/x%5Cy", "/%E2%82%AC%2F", "/a%252Fb",
    "/administrator%2Fx",
]  # fmt: skip


@pytest.mark.parametrize("path", ROUND)
async def test_no_reading_gets_round_a_route(site: Site, path: str) -> None:
    made, pools = await shown(site, "a")
    gate = await routing_gate(site, ROUTES, pools)
    assert (await curl(gate, path)).status == 400
    async with h2_client(gate.port) as client:
        assert (await client.fetch(path)).status == 400
    assert made["a"].requests == []


@pytest.mark.parametrize("path", PASSED)
async def test_what_takes_one_route_is_passed_on_as_it_came(site: Site, path: str) -> None:
    made, pools = await shown(site, "a")
    gate = await routing_gate(site, ROUTES, pools)
    assert (await curl(gate, path)).status == 200
    assert made["a"].last.split(b" ")[1].lower() == path.encode().lower()


async def test_what_no_route_exposes_is_refused(site: Site) -> None:
    made, pools = await shown(site, "a")
    gate = await routing_gate(site, [{"match": {"path": {"prefix": "/public/"}}, "pool": "a"}], pools)
    for path in ("/public/..%2fprivate", "/public/..;/private", "/public/%2e%2e%2f"):
        assert (await curl(gate, path)).status == 400
    assert made["a"].requests == []
    assert (await curl(gate, "/public/a%2Fb")).status == 200


async def test_a_models_name_may_have_a_slash(site: Site) -> None:
    made, pools = await shown(site, "a", "b")
    routes: list[dict[str, Any]] = [{"match": {"model": "org/name"}, "pool": "a"}, {"pool": "b"}]
    gate = await routing_gate(site, routes, pools)
    assert (await curl(gate, "/v2/models/org%2Fname/infer")).body == "a"
    assert (await curl(gate, "/v2/models/org%2Fother/infer")).body == "b"
    assert made["a"].last.startswith(b"GET /v2/models/org%2Fname/infer ")


@pytest.mark.parametrize("value", ["keep", False])
async def test_it_can_be_switched_off(site: Site, value: object) -> None:
    made, pools = await shown(site, "a")
    normalize = {"escaped_slash": value} if value else False
    gate = await routing_gate(site, ROUTES, pools, normalize_path=normalize)
    assert (await curl(gate, "/%2Fadmin/x")).status == 200
    assert made["a"].last.startswith(b"GET /%2Fadmin/x ")


def test_readings_are_those_of_every_kind_of_endpoint() -> None:
    assert path_readings(b"/a") == [b"/a"]
    assert set(path_readings(b"/x%2F..%5Cy;z") or ()) == {
        b"/x%2F..%5Cy;z",
        b"/x%2F..%5Cy",
        b"/x/..\\y;z",
        b"/x/..\\y",
        b"/y;z",
        b"/y",
    }
    assert b"/b" in (path_readings(b"/a%252F..%252Fb") or ())
    assert path_readings(b"/a%2500") is None
