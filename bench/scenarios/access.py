"""What it costs to know who a request is from: by an API key, and by a token that was seen before. Beside each stands
the same daemon without `auth`; the first check of a token is measured by bench/micro/bench_access.py."""

from __future__ import annotations

from typing import Literal

from bench.load.request import Request
from bench.open_loop import Open
from bench.peers import OURS, Task
from bench.peers.access import headers
from bench.results import Limit
from bench.scenarios import proxy_http1
from bench.scenarios.base import Row, Scenario
from bench.scenarios.measures import LOAD_METRICS, Expect, full_load
from bench.servers import FixedHttp
from bench.wrk import Wrk

OPEN = "tidegate, no auth"
REQUEST = Request("/", headers=headers())
LOAD = Wrk(REQUEST)
PACE = Open(REQUEST, proxy_http1.RATE)


def _scenario(kind: Literal["api_key", "jwt"], name: str, what: str) -> Scenario:
    return Scenario(
        name=name,
        title=f"HTTP/1.1, small JSON answer, 32 connections, {what} with each request",
        task=Task("http", access=kind),
        servers={"http": FixedHttp(proxy_http1.ANSWER)},
        measure=full_load(LOAD, Expect(REQUEST, proxy_http1.right), PACE),
        metrics=LOAD_METRICS,
        generators=(LOAD, PACE),
        # A microsecond of the ten or so that a request takes without.
        limits=(Limit(1.1, (OPEN,)),),
        ours_only="is not asked who a request is from: the cost of asking is compared, not the program",
        rows=(Row(OPEN, OURS, Task("http")),),
    )


KEY = _scenario("api_key", "access-key", "an API key")
TOKEN = _scenario("jwt", "access-token", "the same signed token")
