"""HTTP/2 by prior knowledge on both sides: 8 connections of 8 streams, each request balanced on its own."""

from bench.h2load import H2load
from bench.peers import Task
from bench.results import Limit
from bench.scenarios import proxy_http1
from bench.scenarios.base import Scenario
from bench.scenarios.checks import expect_http2
from bench.scenarios.measures import SATURATION_METRICS, full_load
from bench.servers import FixedHttp2

LOAD = H2load(proxy_http1.REQUEST, connections=8, streams=8)

SCENARIO = Scenario(
    name="proxy-http2",
    title="HTTP/2 to HTTP/2, small JSON answer, 8 connections of 8 streams",
    task=Task("http2"),
    servers={"http2": FixedHttp2(proxy_http1.ANSWER)},
    measure=full_load(LOAD, expect_http2("/", proxy_http1.ANSWER.encode())),
    metrics=SATURATION_METRICS,
    generators=(LOAD,),
    limit=Limit(1.0, ("haproxy", "nginx", "envoy")),
)
