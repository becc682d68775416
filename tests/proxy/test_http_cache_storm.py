"""Many clients of a cached route at once, who want different things, leave, and meet an endpoint that fails in all
ways: no answer is another's, none is torn, and nothing is left behind."""

from __future__ import annotations

import asyncio
import random
from functools import partial
from typing import Any

import pytest
from datapath import Gate, Site, settle, sharing
from h2_client import h2_client
from http_cache_site import Asked, Got, Origin, Reply, cached_gate, read_answer
from infer_site import idle

KINDS = ("a", "b", "c")
TARGETS = 6
SIZES = (0, 10, 3000, 70_000, 400_000)


def body_of(target: str, kind: str, version: int) -> bytes:
    """A body that says what it is an answer to; its length goes by the version."""
    text = f"{target} {kind} {version};".encode()
    size = SIZES[version % len(SIZES)]
    return (text * (size // len(text) + 1))[: max(size, len(text))]


class Unsteady(Origin):
    """Answers as a throw of dice says; each answer has a number of its own."""

    def __init__(self, dice: random.Random) -> None:
        super().__init__(self.roll)
        self.dice = dice
        self.version = 0

    async def roll(self, asked: Asked) -> Reply:
        dice = self.dice
        if dice.random() < 0.3:
            await asyncio.sleep(dice.random() / 50)
        kind = asked.get("x-kind") or ""
        said = asked.get("if-none-match")
        if said is not None and dice.random() < 0.5:
            return Reply(304, [("Cache-Control", "max-age=600"), ("ETag", said)])
        if dice.random() < 0.1:
            return Reply(silent=True)
        if dice.random() < 0.1:
            return Reply(dice.choice((404, 500, 503)), body=b"no")
        self.version += 1
        body = body_of(asked.target, kind, self.version)
        fields = [("Vary", "X-Kind"), ("ETag", f'"{self.version}-{kind}"')]
        control = dice.choice(
            ("max-age=600", "max-age=600", "no-store", "no-cache", "max-age=0, stale-while-revalidate=60",
             "max-age=0, stale-if-error=60", "private", "s-maxage=600")
        )  # fmt: skip
        fields.append(("Cache-Control", control))
        cut = len(body) // 2 if dice.random() < 0.1 and body else None
        return Reply(200, fields, body, chunked=dice.random() < 0.5, cut=cut)


def right(got: Got, target: str, kind: str, span: tuple[int, int] | None) -> bool:
    """Whether an answer is one to this request."""
    if got.status in (304, 404, 416, 500, 502, 503, 504):
        return True
    tag = (got.get("etag") or "").strip('"')
    version, _, of_kind = tag.partition("-")
    whole = body_of(target, kind, int(version))
    if got.status == 206:
        assert span is not None
        whole = whole[span[0] : span[1] + 1]
    return of_kind == kind and got.body == whole


async def one_client(gate: Gate, dice: random.Random, seen: list[int]) -> None:
    target, kind = f"/{dice.randrange(TARGETS)}", dice.choice(KINDS)
    method = "GET" if dice.random() < 0.93 else dice.choice(("HEAD", "DELETE"))
    lines = [f"{method} {target} HTTP/1.1", "Host: a", f"X-Kind: {kind}"]
    span = None
    if dice.random() < 0.1:
        span = (dice.randrange(20), dice.randrange(20, 5000))
        lines.append(f"Range: bytes={span[0]}-{span[1]}")
    if dice.random() < 0.1:
        lines.append(
            "Cache-Control: " + dice.choice(("no-cache", "max-stale", "only-if-cached", "no-store", "max-age=0"))
        )
    if dice.random() < 0.1:
        lines.append(f'If-None-Match: "{dice.randrange(200)}-{kind}"')
    reader, writer = await gate.connect()
    try:
        writer.write("\r\n".join([*lines, "", ""]).encode())
        if dice.random() < 0.15:
            await asyncio.sleep(dice.random() / 50)
            return
        got = await read_answer(reader, method == "HEAD")
        if method == "GET":
            assert right(got, target, kind, span), (target, kind, got.status, got.fields, got.body[:60])
        seen.append(got.status)
    except (asyncio.IncompleteReadError, ConnectionError):
        seen.append(0)
    finally:
        writer.close()


async def one_stream(client: Any, dice: random.Random, seen: list[int]) -> None:
    target, kind = f"/{dice.randrange(TARGETS)}", dice.choice(KINDS)
    got = await client.fetch(target, fields=[("x-kind", kind)])
    if got.reset is None:
        named = [(name.title(), value) for name, value in got.fields]
        assert right(Got(got.status, named, got.body), target, kind, None), (target, kind, got.fields)
        seen.append(got.status)


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("seed", range(4))
async def test_no_answer_is_torn_or_anothers(site: Site, seed: int, workers: int) -> None:
    dice = random.Random(seed)
    origin = Unsteady(dice)
    make = partial(cached_gate, site, origin, rules={"max_object": 300_000}, pool={"retries": seed % 2})
    seen: list[int] = []
    async with sharing(site, workers, make) as gates, h2_client(gates[-1].port) as client:
        for _ in range(12):
            clients = [one_client(dice.choice(gates), dice, seen) for _ in range(40)]
            streams = [one_stream(client, dice, seen) for _ in range(10)]
            await asyncio.gather(*clients, *streams)
        assert seen.count(200) > 100
        await settle(lambda: not any(gate.proxy.busy() for gate in gates), "an exchange is left")
        await idle(gates[0])
        assert [gate.proxy.admission.http_cache_in_flight() for gate in gates] == [(0, 0, 0, 0)] * workers
