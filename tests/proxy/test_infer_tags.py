"""The tags of cached answers: what is purged is not found, and not kept by those who asked before."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from datapath import Gate, Site, settle
from infer_site import MIB, Held, gate_to, idle
from oip_site import INFER, ModelServer, ask, plain, tensor

from lb.cache import tags
from lb.cache.store import ResultCache

MISS = "tidegate; fwd=miss; stored"
VERSION = "/v2/models/m/versions/1/infer"


def store_of(gate: Gate) -> ResultCache:
    return ResultCache(gate.segment, MIB)


@pytest.mark.parametrize(
    ("tag", "purged"),
    [
        (tags.of_pool("pool"), {INFER, VERSION, "/v2/models/n/infer"}),
        (tags.of_model("pool", "m"), {INFER, VERSION}),
        (tags.of_version("pool", "m", "1"), {VERSION}),
        (tags.of_version("pool", "m", ""), {INFER}),
        (tags.of_model("pool", "n"), {"/v2/models/n/infer"}),
        (tags.of_pool("other"), set()),
    ],
)
async def test_a_purge_takes_what_carries_the_tag(site: Site, tag: str, purged: set[str]) -> None:
    gate = await gate_to(site, ModelServer(), cached=True)
    paths = [INFER, VERSION, "/v2/models/n/infer"]
    for path in paths:
        assert (await ask(gate, plain(), path=path)).cache == MISS
    store_of(gate).purge(tag.encode())
    for path in paths:
        assert ((await ask(gate, plain(), path=path)).cache == MISS) == (path in purged)


async def test_a_purge_while_the_model_answers_wins(site: Site) -> None:
    """Who asked before gets the answer that he waits for; who asks after the purge never does."""
    model = Held()
    gate = await gate_to(site, model, cached=True)
    before = [asyncio.create_task(ask(gate, plain())) for _ in range(3)]
    await settle(lambda: len(model.requests) == 1 and gate.proxy.busy() == 3, "the requests did not arrive")
    store_of(gate).purge(tags.of_model("pool", "m").encode())
    after = [asyncio.create_task(ask(gate, plain())) for _ in range(3)]
    await settle(lambda: len(model.requests) == 2, "the answer from before the purge is waited for")
    await settle(lambda: gate.proxy.busy() == 6, "the requests did not arrive")
    model.release.set()
    assert sorted(a.cache or "" for a in await asyncio.gather(*before)) == [
        "tidegate; fwd=miss", *["tidegate; fwd=miss; collapsed"] * 2
    ]  # fmt: skip
    assert sorted(a.cache or "" for a in await asyncio.gather(*after)) == ["tidegate; fwd=miss; collapsed"] * 2 + [MISS]
    assert (await ask(gate, plain())).cache == "tidegate; hit"
    assert store_of(gate).stats()["rejected_purged"] == 1
    await idle(gate)


async def test_a_hit_saves_what_its_answer_took(site: Site) -> None:
    async def slow(sent: Any, context: Any) -> Any:
        await asyncio.sleep(0.05)
        return await behave(sent, context)

    model = ModelServer()
    behave, model.behave = model.behave, slow
    gate = await gate_to(site, model, cached=True)
    await ask(gate, plain(tensor([3.0])))
    assert store_of(gate).stats()["saved_us"] == 0
    await ask(gate, plain(tensor([3.0])))
    assert store_of(gate).stats()["saved_us"] >= 40_000
