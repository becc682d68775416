"""A JSON answer of 16 KiB that the proxy compresses with gzip."""

import gzip
import json
import random

from bench.bed import Answer
from bench.load.request import Request
from bench.open_loop import Open
from bench.peers import Task
from bench.results import Limit
from bench.scenarios.base import Scenario
from bench.scenarios.measures import LOAD_METRICS, Expect, full_load
from bench.servers import FixedHttp
from bench.wrk import Wrk


def _page() -> str:
    draw = random.Random(16)
    names = ("alpha", "beta", "gamma")
    rows = [
        {"id": i, "name": draw.choice(names), "score": draw.random(), "tags": draw.sample("abcd", 2)}
        for i in range(220)
    ]
    return json.dumps(rows)[: 16 << 10]


PAGE = _page()
REQUEST = Request("/page", headers={"Accept-Encoding": "gzip"})


def right(answer: Answer) -> bool:
    return (
        answer.status == 200
        and answer.headers.get("content-encoding") == "gzip"
        and gzip.decompress(answer.body) == PAGE.encode()
    )


LOAD = Wrk(REQUEST)
PACE = Open(REQUEST, 500)

SCENARIO = Scenario(
    name="gzip-http1",
    title="HTTP/1.1 to HTTP/1.1, a JSON answer of 16 KiB compressed with gzip, 32 connections",
    task=Task("http", compress=True),
    servers={"http": FixedHttp(PAGE, "application/json")},
    measure=full_load(LOAD, Expect(REQUEST, right), PACE),
    metrics=LOAD_METRICS,
    generators=(LOAD, PACE),
    limits=(Limit(1.0, ("nginx",)),),
)
