"""A repeated GET of a small page, answered from the proxy's HTTP cache."""

from bench.bed import Answer
from bench.load.request import Request
from bench.open_loop import Open
from bench.peers import Task
from bench.results import Limit
from bench.scenarios.base import Scenario
from bench.scenarios.measures import LOAD_METRICS, Expect, full_load
from bench.servers import FixedHttp
from bench.wrk import Wrk

PAGE = "<p>" + "a page of some length, " * 40 + "</p>"
REQUEST = Request("/page")


def right(answer: Answer) -> bool:
    """All say in Cache-Status whether the answer was a hit; only a hit is what is to be measured."""
    return (
        answer.status == 200
        and "hit" in answer.headers.get("cache-status", "").lower()
        and answer.body == PAGE.encode()
    )


LOAD = Wrk(REQUEST)
PACE = Open(REQUEST, 2000)

SCENARIO = Scenario(
    name="http-cache-hit",
    title="repeated GET of 1 KB, answered from the HTTP cache, 32 connections",
    task=Task("http_cache"),
    servers={"http": FixedHttp(PAGE, "text/html")},
    measure=full_load(LOAD, Expect(REQUEST, right), PACE),
    metrics=LOAD_METRICS,
    generators=(LOAD, PACE),
    limits=(Limit(0.8, ("nginx",)), Limit(0.6, ("varnish",))),
)
