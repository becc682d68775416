"""Values of the request in a text, and look-ups in a map of 100,000 entries: a thousand of each."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.micro._values import fill, find
from lb.config.environment import Sources, expanded
from lb.proxy.routing.values.format import Format
from lb.proxy.routing.values.lookup import Lookup, build

TIMES = 1000
REQUEST = (
    b"GET /v2/models/m/infer?a=b HTTP/1.1\r\nHost: models.example.org\r\nUser-Agent: bench\r\nAccept: */*\r\n"
    b"Content-Type: application/json\r\nX-Tenant: acme\r\nCookie: a=b; session=0123456789abcdef\r\n\r\n"
)
TEXTS = {
    "literal": "a plain text",
    "known": "${client.address}",
    "header": "${header.x-tenant}",
    "cookie": "${cookie.session}",
    "default": "${header.x-none:-nobody}",
    "five": "${client.address} ${header.x-tenant} ${query.a} ${cookie.session} ${header.x-none:-x}",
}


@pytest.mark.parametrize("what", TEXTS)
def test_a_thousand_texts(benchmark: BenchmarkFixture, what: str) -> None:
    benchmark(fill, Format(expanded(TEXTS[what], Sources({}, Path("/")), [])), REQUEST, b"192.0.2.7", TIMES)


@cache
def entries() -> dict[bytes, bytes]:
    return {b"tenant-%d.example.org" % i: b"pool-%d" % (i % 7) for i in range(100_000)}


@pytest.mark.parametrize("kind", ["exact", "prefix", "suffix", "domain"])
def test_a_thousand_look_ups(benchmark: BenchmarkFixture, kind: str) -> None:
    lookup = Lookup(build(entries(), kind))
    texts = random.Random(1).sample(list(entries()), TIMES)
    assert benchmark(find, lookup, texts) == TIMES
