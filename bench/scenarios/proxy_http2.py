"""HTTP/2 by prior knowledge on both sides, each request balanced on its own: many streams at a time, or one."""

from bench.h2load import H2load
from bench.peers import Task
from bench.results import Limit
from bench.scenarios import proxy_http1
from bench.scenarios.base import Scenario
from bench.scenarios.checks import expect_http2
from bench.scenarios.measures import SATURATION_METRICS, full_load
from bench.servers import FixedHttp2


def scenario(name: str, connections: int, streams: int, text: str, *limits: Limit) -> Scenario:
    load = H2load(proxy_http1.REQUEST, connections=connections, streams=streams)
    return Scenario(
        name=name,
        title=f"HTTP/2 to HTTP/2, small JSON answer, {connections} connections of {text}",
        task=Task("http2"),
        servers={"http2": FixedHttp2(proxy_http1.ANSWER)},
        measure=full_load(load, expect_http2("/", proxy_http1.ANSWER.encode())),
        metrics=SATURATION_METRICS,
        generators=(load,),
        limits=limits,
    )


SCENARIO = scenario(
    "proxy-http2", 8, 8, "8 streams", Limit(0.4, ("haproxy",)), Limit(0.25, ("envoy",)), Limit(0.125, ("nginx",))
)
SINGLE = scenario("proxy-http2-single", 32, 1, "one stream", Limit(0.95, ("haproxy",)))
