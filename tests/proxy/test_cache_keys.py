"""What sets answers in the cache apart besides the question: headers, tenants; and what clients say of the cache."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from datapath import Gate, Site, settle
from infer_site import MIB, Held, gate_to, idle
from oip_site import INFER, ModelServer, ask, plain
from test_grpc_cache import BYPASS, HIT, inference, stub, tell
from test_grpc_rows import batch, plain_batch

from lb.cache import tags
from lb.cache.store import ResultCache
from lb.config.plan.cache_key import CacheKeyPlan
from lb.config.plan.caching import FreshnessPlan
from lb.upstream.model_counts import FIELDS

MISS = "tidegate; fwd=miss"
ANEW = "tidegate; fwd=request"
KINDS = pytest.mark.parametrize("kind", ["rest", "grpc"])


class Asker:
    """Asks the same question, with these fields; gives what is said of the cache, without whether it was stored, which
    gRPC cannot say."""

    def __init__(self, gate: Gate, kind: str) -> None:
        self.gate = gate
        self.kind = kind

    async def __call__(self, *fields: tuple[str, str]) -> str:
        if self.kind == "grpc":
            async with stub(self.gate) as call:
                told = (await tell(call, inference(), metadata=[(name.lower(), value) for name, value in fields])).cache
        else:
            answer = await ask(self.gate, plain(), headers=dict(fields))
            assert answer.status == 200
            told = answer.cache
        assert told is not None
        return told.removesuffix("; stored")


async def site_of(site: Site, server: ModelServer, freshness: FreshnessPlan | None = None, **key: Any) -> Gate:
    return await gate_to(site, server, cached=True, route={"cache_key": CacheKeyPlan(**key), "freshness": freshness})


@KINDS
async def test_headers_that_the_route_varies_by(site: Site, kind: str) -> None:
    model = ModelServer()
    gate = await site_of(site, model, vary=("x-a", "x-b"))
    asks = Asker(gate, kind)
    different: list[list[tuple[str, str]]] = [
        [], [("X-A", "1")], [("X-B", "1")], [("X-A", "1"), ("X-B", "1")], [("X-A", "11")], [("X-A", "")],
        [("X-A", "1"), ("X-B", "")],
    ]  # fmt: skip
    for expected in (MISS, HIT):
        for fields in different:
            assert await asks(*fields, ("X-C", expected)) == expected, fields
    assert len(model.requests) == len(different)


async def test_a_header_that_connection_names_is_none(site: Site) -> None:
    """The endpoint does not see it (RFC 9110 section 7.6.1), so it may not stand for one that it sees."""
    asks = Asker(await site_of(site, ModelServer(), vary=("x-a",)), "rest")
    assert await asks(("X-A", "1"), ("connection", "x-a")) == MISS  # beside "Connection: close"
    assert await asks(("X-A", "1")) == MISS
    assert await asks() == HIT


@KINDS
@pytest.mark.parametrize("by", ["header", "cookie"])
async def test_tenants_have_answers_of_their_own(site: Site, kind: str, by: str) -> None:
    model = ModelServer()
    gate = await site_of(site, model, tenant=by, tenant_name="x-tenant")
    asks = Asker(gate, kind)

    def of(name: str) -> tuple[str, str]:
        return ("X-Tenant", name) if by == "header" else ("Cookie", f"a=b; x-tenant={name}")

    for expected in (MISS, HIT):
        for tenant in ("a", "b", "ab"):
            assert await asks(of(tenant)) == expected
    # Nobody gets the answer of somebody who is not named.
    for _ in range(2):
        assert await asks() == BYPASS
        assert await asks(of("")) == BYPASS
    store = ResultCache(gate.segment, MIB)
    store.purge(tags.of_tenant("a").encode())
    assert [await asks(of(tenant)) for tenant in ("a", "b", "ab")] == [MISS, HIT, HIT]
    store.purge(tags.of_model("pool", "m").encode())
    assert [await asks(of(tenant)) for tenant in ("a", "b", "ab")] == [MISS] * 3
    await idle(gate)


async def test_a_tenant_that_is_named_twice_is_none(site: Site) -> None:
    gate = await site_of(site, ModelServer(), tenant="header", tenant_name="x-tenant")
    async with stub(gate) as call:
        for _ in range(2):
            told = await tell(call, inference(), metadata=[("x-tenant", "a"), ("x-tenant", "b")])
            assert told.cache == BYPASS


@pytest.mark.parametrize(
    ("by", "path", "headers"),
    [
        ("cookie", INFER, {"Cookie": "who=a; who=b"}),
        ("cookie", INFER, {"Cookie": "x=1; who=a;who=a"}),
        ("cookie", INFER, {"Cookie": "who=a", "cookie": "who=b"}),
        ("query", f"{INFER}?who=a&who=b", {}),
        ("query", f"{INFER}?who=a&%77ho=b", {}),
        ("query", f"{INFER}?who=a&who", {}),
    ],
)
async def test_a_tenant_that_is_named_twice_by_other_means_is_none(
    site: Site, by: str, path: str, headers: dict[str, str]
) -> None:
    """What has checked the tenant in front may have looked at the other one."""
    gate = await site_of(site, ModelServer(), tenant=by, tenant_name="who")
    for _ in range(2):
        assert (await ask(gate, plain(), path=path, headers=headers)).cache == BYPASS


async def test_a_tenant_among_others_of_like_names(site: Site) -> None:
    gate = await site_of(site, ModelServer(), tenant="query", tenant_name="who")
    for expected in (MISS, HIT):
        answer = await ask(gate, plain(), path=f"{INFER}?whom=b&x=who=c&who=a&awho=%41")
        assert answer.cache is not None
        assert answer.cache.removesuffix("; stored") == expected


async def test_tenants_do_not_wait_for_each_others_answers(site: Site) -> None:
    model = Held()
    gate = await site_of(site, model, tenant="header", tenant_name="x-tenant")
    asked = [Asker(gate, "grpc" if i % 2 else "rest")(("X-Tenant", "ab"[i // 4])) for i in range(8)]
    tasks = [asyncio.create_task(each) for each in asked]
    await settle(lambda: gate.proxy.busy() == 8, "the requests did not arrive")
    await settle(lambda: len(model.requests) == 2, "the calls were not made")
    model.release.set()
    assert sorted(await asyncio.gather(*tasks)) == [MISS] * 2 + ["tidegate; fwd=miss; collapsed"] * 6
    assert len(model.requests) == 2
    await idle(gate)


@KINDS
@pytest.mark.parametrize("wanted", ["no-cache", "foo, No-Cache", "max-age=0"])
async def test_no_cache_makes_the_answer_anew(site: Site, kind: str, wanted: str) -> None:
    model = ModelServer()
    gate = await site_of(site, model, control=True)
    asks = Asker(gate, kind)
    assert await asks(("Cache-Control", wanted)) == ANEW
    assert await asks() == HIT
    assert await asks(("Cache-Control", wanted)) == ANEW
    assert len(model.requests) == 2
    assert gate.total(2).values("cache")["stored"] == 2


@KINDS
async def test_no_store_passes_by(site: Site, kind: str) -> None:
    model = ModelServer()
    gate = await site_of(site, model, control=True)
    asks = Asker(gate, kind)
    assert [await asks(("Cache-Control", "no-cache, no-store")) for _ in range(2)] == [BYPASS] * 2
    assert await asks(("Cache-Control", "max-age=10")) == MISS
    assert await asks(("Cache-Control", "no-store")) == BYPASS
    assert await asks() == HIT
    assert len(model.requests) == 4


@KINDS
async def test_who_wants_it_anew_waits_for_nobody(site: Site, kind: str) -> None:
    """Nor does his leaving, or his answer, matter to those who wait."""
    model = Held()
    gate = await site_of(site, model, control=True)
    asks = Asker(gate, kind)
    first = [asyncio.create_task(asks()) for _ in range(2)]
    await settle(lambda: gate.proxy.busy() == 2 and len(model.requests) == 1, "the requests did not arrive")
    anew = [asyncio.create_task(asks(("Cache-Control", "no-cache"))) for _ in range(2)]
    await settle(lambda: len(model.requests) == 3, "the calls were not made")
    anew[0].cancel()
    await settle(lambda: gate.proxy.busy() == 3, "its leaving was not noticed")
    model.release.set()
    assert sorted(await asyncio.gather(*first)) == [MISS, "tidegate; fwd=miss; collapsed"]
    assert await anew[1] == ANEW
    assert len(model.requests) == 3
    await idle(gate)


@KINDS
async def test_routes_that_do_not_honour_it(site: Site, kind: str) -> None:
    asks = Asker(await gate_to(site, ModelServer(), cached=True), kind)
    assert await asks() == MISS
    assert [await asks(("Cache-Control", "no-cache")), await asks(("Cache-Control", "no-store"))] == [HIT] * 2


@KINDS
async def test_batches_of_tenants_have_no_rows_in_common(site: Site, kind: str) -> None:
    """Of a model whose batches are cached row by row elsewhere."""
    model = ModelServer()
    key = CacheKeyPlan(tenant="header", tenant_name="x-tenant")
    gate = await gate_to(site, model, cached=True, pool={"cache_rows": ("m",)}, route={"cache_key": key})

    async def told(tenant: str) -> str | None:
        if kind == "grpc":
            async with stub(gate) as call:
                return (await tell(call, batch(1.0, 2.0), metadata=[("x-tenant", tenant)])).cache
        answer = await ask(gate, plain_batch(1.0, 2.0), headers={"X-Tenant": tenant})
        return None if answer.cache is None else answer.cache.removesuffix("; stored")

    assert [await told(tenant) for tenant in "abab"] == [MISS, MISS, HIT, HIT]
    assert len(model.requests) == 2
    await idle(gate)


async def test_hits_over_grpc_are_counted_as_those_of_rest(site: Site) -> None:
    model = ModelServer()
    gate = await gate_to(site, model, cached=True, pool={"count_models": True})
    async with stub(gate) as call:
        assert [(await tell(call, inference())).cache for _ in range(3)] == [MISS, HIT, HIT]
    ((name, counted),) = gate.proxy.model_counts("pool")
    assert name == "m"
    found = dict(zip(FIELDS, counted, strict=True))
    assert {kind: found[kind] for kind in ("success", "fail", "rows", "runs", "hits", "misses")} == {
        "success": 3, "fail": 0, "rows": 2, "runs": 1, "hits": 2, "misses": 1
    }  # fmt: skip


@KINDS
async def test_stale_answers_are_made_anew_with_the_headers_that_they_depend_on(site: Site, kind: str) -> None:
    model = ModelServer()
    short = FreshnessPlan(ttl_ns=50_000_000, stale_ns=60_000_000_000, early=1)
    gate = await site_of(site, model, short, vary=("x-a",))
    asks = Asker(gate, kind)
    for _ in range(3):
        assert await asks(("X-A", "1")) == MISS
        await asyncio.sleep(0.06)
    await settle(lambda: gate.in_flight() == 0, "a call in the background")
    assert len(model.requests) == 3
