"""A plan is taken in steps; what of its routes, pools and tables did not change is taken over, and nothing else."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator
from typing import Any

import msgpack
import pytest
from datapath import HTTP, POOL, ROUTE, SECOND, listening_socket
from msgspec.structs import replace

from lb.config.plan.caching import FreshnessPlan
from lb.config.plan.plan import AccessLogPlan, EndpointPlan, Plan, PoolPlan, RoutePlan
from lb.config.plan.routes import (
    AnswerPlan,
    ConditionPlan,
    CorsPlan,
    FieldsPlan,
    HedgePlan,
    MirrorPlan,
    RatePlan,
    RetryPlan,
    RewritePlan,
    SharePlan,
    SplitPlan,
)
from lb.errors import TidegateError
from lb.proxy.proxy import Proxy
from lb.proxy.routing.route import Route
from lb.shared.segment import Segment

ENDPOINTS = [EndpointPlan(f"192.0.2.{i}:80", i, 900 + i, 1) for i in range(8)]


class Site:
    """A data path with one listener, `web`."""

    def __init__(self) -> None:
        self.master = Segment.create(1)
        self.segment = Segment.attach(os.dup(self.master.fd), 0)
        self.proxy = Proxy(asyncio.get_running_loop(), self.segment)
        self.fd, _ = listening_socket()

    def take(self, routes: list[RoutePlan], pools: list[PoolPlan]) -> int:
        """Has a plan in force, come over the wire; returns in how many steps."""
        return sum(1 for _ in self.steps(routes, pools))

    def steps(self, routes: list[RoutePlan], pools: list[PoolPlan]) -> Any:
        plan = Plan(1, 1, (replace(HTTP, routes=tuple(routes)),), tuple(pools), None, AccessLogPlan(""), SECOND)
        return self.proxy.adopt(Plan.from_wire(msgpack.unpackb(msgpack.packb(plan.to_wire()))), {"web": self.fd})

    @property
    def made(self) -> Any:
        return self.proxy.routes["web"]

    def close(self) -> None:
        self.proxy.close()
        os.close(self.fd)
        self.segment.close()
        self.master.close()


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    made = Site()
    yield made
    made.close()


def pool(name: str, *endpoints: int, **others: Any) -> PoolPlan:
    return replace(POOL, name=name, endpoints=tuple(ENDPOINTS[i] for i in endpoints), **others)


def route(number: int, **others: Any) -> RoutePlan:
    given = {"path_kind": "prefix", "path": f"/{number}/", **others}
    return replace(ROUTE, name=f"web/{number}", series=10 + number, **given)


def settings_of(made: Any) -> tuple[Any, ...]:
    return made.name, made.timeout, made.max_body, made.priority, made.cache, made.rate is None


async def test_the_same_plan_again_makes_nothing(site: Site) -> None:
    routes, pools = [route(i) for i in range(300)], [pool("a", 0, 1), pool("b", 2)]
    site.take(routes, pools)
    made, before = site.made, site.proxy.pools
    assert site.take(routes, pools) < 5
    assert site.made is made
    assert all(a is b for a, b in zip(before, site.proxy.pools, strict=True))
    assert site.proxy.listeners["web"] is not None


async def test_many_routes_take_many_steps(site: Site) -> None:
    assert site.take([route(i) for i in range(2000)], [pool("a", 0)]) > 2000 / 64


async def test_a_changed_route_is_made_anew_and_the_others_stay(site: Site) -> None:
    routes, pools = [route(i) for i in range(40)], [pool("a", 0)]
    site.take(routes, pools)
    before = list(site.made.routes)
    routes[7] = route(7, timeout_ns=5)
    site.take(routes, pools)
    after = list(site.made.routes)
    assert [i for i in range(40) if before[i] is not after[i]] == [7]
    assert site.made.table.lookup(b"GET /7/x HTTP/1.1\r\n\r\n")[0] is after[7]
    assert after[7].timeout == 5
    site.take(routes[1:] + routes[:1], pools)
    assert site.made.routes == after[1:] + after[:1]  # wherever it stands


async def test_a_changed_pool_takes_along_the_routes_that_lead_to_it(site: Site) -> None:
    routes = [
        route(0), route(1, pool=1), route(2, pool=-1, split=SplitPlan((SharePlan(0, 1), SharePlan(1, 1)))),
        route(3, mirror=MirrorPlan(1, 1_000_000, 1, 1 << 20)), route(4, mirror=MirrorPlan(2, 1_000_000, 1, 1 << 20)),
    ]  # fmt: skip
    site.take(routes, [pool("a", 0), pool("b", 1), pool("c", 2)])
    before, pools = list(site.made.routes), site.proxy.pools
    site.take(routes, [pool("a", 0), pool("b", 1, 3), pool("c", 2)])
    after = list(site.made.routes)
    assert [a is b for a, b in zip(pools, site.proxy.pools, strict=True)] == [True, False, True]
    assert [i for i in range(5) if before[i] is not after[i]] == [1, 2, 3]
    assert after[1].pool is after[3].mirror.pool is after[2].split.pools[1] is site.proxy.pools[1]


async def test_pools_that_change_places_take_along_their_routes(site: Site) -> None:
    routes = [route(0), route(1, pool=1)]
    site.take(routes, [pool("a", 0), pool("b", 1)])
    site.take(routes, [pool("b", 1), pool("a", 0)])
    assert [made.pool.name for made in site.made.routes] == ["b", "a"]


async def test_another_connect_timeout_makes_other_connections_and_another_pool(site: Site) -> None:
    site.take([route(0)], [pool("a", 0)])
    before = site.proxy.pools[0]
    site.take([route(0)], [pool("a", 0, connect_timeout_ns=5)])
    after = site.proxy.pools[0]
    assert after is not before
    assert after.channels[0] is not before.channels[0]
    assert site.made.routes[0].pool is after


async def test_until_the_last_step_and_after_a_failure_the_plan_before_is_in_force(site: Site) -> None:
    routes, pools = [route(i) for i in range(200)], [pool("a", 0)]
    site.take(routes, pools)
    made, plan = site.made, site.proxy.plan
    other = [route(i, path=f"/other/{i}/") for i in range(200)]
    steps = site.steps(other, pools)
    for _ in range(4):
        next(steps)
    assert site.made is made
    steps.close()
    bad = [*other, route(200, path_kind="regex", path="(")]
    with pytest.raises(TidegateError, match="cannot be used"):
        site.take(bad, [pool("b", 3)])
    assert site.made is made
    assert site.proxy.plan is plan
    assert site.made.table.lookup(b"GET /7/x HTTP/1.1\r\n\r\n")[0] is made.routes[7]
    site.take(other, pools)
    assert site.made.table.lookup(b"GET /other/7/x HTTP/1.1\r\n\r\n")[0].name == "web/7"


# Each has something that its route does not count or keep for itself.
LENT: list[dict[str, Any]] = [
    {},
    {"methods": ("GET", "POST")},
    {"methods": ("BREW",)},
    {"cache": False, "freshness": FreshnessPlan(5), "timeout_ns": 6, "max_body": 7, "response_timeout_ns": 8},
    {"expose_endpoint": True, "max_in_flight": 9, "priority": 2, "idempotent": True},
    {"conditions": (ConditionPlan("header", "x", "exact", "y"),), "host": "*.example.org"},
    {"host": "^a", "host_regex": True, "rewrite_host": "inner.example"},
    {"answer": AnswerPlan(204), "pool": -1},
    {"rewrite": RewritePlan("path", ("/new",)), "request_fields": FieldsPlan(remove=("x",))},
    {"response_fields": FieldsPlan(add=(("x", "y"),)), "cors": CorsPlan(("*",), (), "GET", "", "", False, 60)},
    {"path_kind": "model", "path": "/v2/models/a"},
    {"path_kind": "template", "path": "/{a}/b"},
    {"path_kind": "regex", "path": "^/[0-9]"},
]


@pytest.mark.parametrize("form", LENT)
async def test_routes_of_one_form_are_as_if_each_were_made_from_its_plan(form: dict[str, Any], site: Site) -> None:
    pools = [pool("a", 0), pool("b", 1)]
    first = route(1, **form)
    second = replace(first, name="web/2", series=12, pool=first.pool and 1, host="c.example", path="/{c}/d")
    if form.get("answer"):
        second = replace(second, pool=-1)
    site.take([first, second], pools)
    made = site.made.routes[1]
    assert site.made.routes[0].path_kind == made.path_kind == second.path_kind
    whole = Route(second, site.proxy.pools[second.pool] if second.pool >= 0 else None, site.proxy.segment)
    shared = site.made.routes[0]
    names = [name for name in dir(made) if not name.startswith("_") and not callable(getattr(made, name))]
    assert len(names) > 30
    for name in names:
        ours, theirs, lent = (getattr(each, name) for each in (made, whole, shared))
        assert ours == theirs or ours is lent, name
        assert (ours is None) == (theirs is None), name


@pytest.mark.parametrize(
    "form",
    [
        {"rate_limit": RatePlan(1000, 5, "", "", "off")},
        {"mirror": MirrorPlan(1, 1000, 1, 1)},
        {"split": SplitPlan((SharePlan(0, 1), SharePlan(1, 1))), "pool": -1},
        {"retry": RetryPlan(1, ("connect",), 0, 20, 3)},
        {"hedge": HedgePlan(0, 5, 1, 10, 1)},
    ],
    ids=lambda form: next(iter(form)),
)
async def test_what_counts_is_each_route_s_own(form: dict[str, Any], site: Site) -> None:
    (key, *_) = form
    site.take([route(1, **form), route(2, **form)], [pool("a", 0), pool("b", 1)])
    first, second = (getattr(made, "rate" if key == "rate_limit" else key) for made in site.made.routes)
    assert first is not None
    assert second is not None
    assert first is not second


@pytest.mark.parametrize("seed", range(25))
async def test_random_reloads_come_to_what_a_fresh_start_comes_to(seed: int) -> None:
    chance = random.Random(seed)
    names = "abc"
    kept = Site()
    routes: list[RoutePlan] = [route(i) for i in range(30)]
    pools = [pool(name, i) for i, name in enumerate(names)]
    try:
        for _ in range(12):
            for _ in range(chance.randrange(4)):
                at = chance.randrange(len(routes))
                match chance.randrange(7):
                    case 0:
                        routes[at] = replace(routes[at], path=f"/{chance.randrange(60)}/")
                    case 1:
                        routes.insert(at, route(100 + chance.randrange(100), pool=chance.randrange(3)))
                    case 2:
                        routes.pop(at)
                    case 3:
                        chance.shuffle(routes)
                    case 4:
                        pools[at % 3] = pool(names[at % 3], *chance.sample(range(8), 2))
                    case 5:
                        shares = tuple(SharePlan(i, 1) for i in range(3))
                        routes[at] = replace(routes[at], pool=-1, split=SplitPlan(shares), mirror=None)
                    case 6:
                        routes[at] = replace(
                            routes[at], rate_limit=RatePlan(1000, chance.randrange(1, 9), "", "", "off")
                        )
            kept.take(routes, pools)
            fresh = Site()
            try:
                fresh.take(routes, pools)
                by_pool = {id(p): q for p, q in zip(fresh.proxy.pools, kept.proxy.pools, strict=True)}
                for ours, theirs in zip(kept.made.routes, fresh.made.routes, strict=True):
                    assert settings_of(ours) == settings_of(theirs)
                    assert ours.pool is (theirs.pool and by_pool[id(theirs.pool)])
                    if theirs.split is not None:
                        assert ours.split.pools == tuple(by_pool[id(p)] for p in theirs.split.pools)
                for p, q in zip(fresh.proxy.pools, kept.proxy.pools, strict=True):
                    assert (p.name, p.endpoints.addresses) == (q.name, q.endpoints.addresses)
                for i in range(0, 200, 3):
                    request = b"GET /%d/x HTTP/1.1\r\n\r\n" % i
                    ours, theirs = kept.made.table.lookup(request), fresh.made.table.lookup(request)
                    assert (ours[0] and ours[0].name, ours[1]) == (theirs[0] and theirs[0].name, theirs[1])
            finally:
                fresh.close()
    finally:
        kept.close()
