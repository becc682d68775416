"""A new session for each request: what accepting, choosing an endpoint, connecting to it and closing both cost.

With four workers it also shows what they cost each other: who wakes for a connection, and who takes it.
"""

from dataclasses import replace

from bench.peers import Task
from bench.results import Limit
from bench.scenarios import http1_new_connections, proxy_http1
from bench.scenarios.base import Scenario
from bench.scenarios.measures import LOAD_METRICS, full_load
from bench.servers import FixedHttp

SCENARIO = Scenario(
    name="tcp-new-connections",
    title="TCP relay, one small HTTP/1.1 request on each connection, 32 at a time",
    task=Task("tcp"),
    servers={"tcp": FixedHttp(proxy_http1.ANSWER)},
    measure=full_load(http1_new_connections.LOAD, proxy_http1.CHECK, http1_new_connections.PACE),
    metrics=LOAD_METRICS,
    generators=(http1_new_connections.LOAD, http1_new_connections.PACE),
    limits=(Limit(1.0, ("haproxy",)),),
)

FOUR_WORKERS = replace(
    SCENARIO,
    name="tcp-new-connections-4",
    title="TCP relay by four workers, one small HTTP/1.1 request on each connection, 32 at a time",
    task=replace(SCENARIO.task, workers=4),
    note="Four workers, or threads where a program has these, on every CPU of the bench beside the load.",
)
