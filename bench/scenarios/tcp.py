"""The same requests and answers as in `http1`, passed on as bytes."""

from bench.scenarios import http1
from bench.scenarios.base import LOAD_METRICS, Limit, Scenario
from bench.servers import FixedHttp

SCENARIO = Scenario(
    name="tcp",
    title="TCP relay of small HTTP/1.1 requests, 32 connections",
    job="tcp",
    servers={"http": FixedHttp(http1.ANSWER)},
    measure=http1.measure,
    metrics=LOAD_METRICS,
    limit=Limit(1.0, ("haproxy",)),
)
