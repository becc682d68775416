"""Inference POSTs of 700 bytes of which few are asked for often and many seldom: hits, misses and what is kept.

Popularity follows Zipf's law with exponent 1, as web requests do (Breslau et al., "Web Caching and Zipf-like
Distributions", INFOCOM 1999). All fit into the cache; each is computed once.
"""

from bench.open_loop import Open
from bench.peers import Task
from bench.scenarios.base import Scenario
from bench.scenarios.cache_hit import OUTPUT
from bench.scenarios.inference import json_answer, json_request
from bench.scenarios.measures import LOAD_METRICS, Expect, full_load
from bench.servers import FixedHttp, GrpcStub
from bench.wrk import Wrk

DISTINCT = 10_000
REQUESTS = tuple(json_request(700, seed) for seed in range(DISTINCT))
LOAD = Wrk(REQUESTS, popularity="zipf:1.0")
PACE = Open(REQUESTS, 2000, zipf=1.0)

SCENARIO = Scenario(
    name="cache-mixed",
    title=f"{DISTINCT:,} different inference POSTs of 700 bytes, popularity by Zipf's law, with the result cache",
    task=Task("cache"),
    servers={"http": FixedHttp(json_answer(OUTPUT)), "grpc": GrpcStub(OUTPUT)},
    measure=full_load(LOAD, Expect(REQUESTS[0], lambda a: a.status == 200 and b"OUTPUT0" in a.body), PACE),
    metrics=LOAD_METRICS,
    generators=(LOAD, PACE),
)
