"""A GET by HTTP/1.1 that takes one of ten thousand routes, to one of a thousand endpoints: what there is besides what a
request needs must not cost it anything."""

from bench.guard.clients import Http1Client, http1_request
from bench.guard.paths.base import Path, Run
from bench.guard.paths.http1 import ANSWER, right
from bench.guard.rig import Rig
from bench.guard.upstreams import Http1Server

ROUTES = 10_000
POOLS = 100
ENDPOINTS = 10


def config(address: str) -> str:
    """Every pool has the server and nine endpoints of weight 0."""
    routes = "".join(
        f"      - {{match: {{path: {{prefix: /v2/models/m{i:05}/}}}}, pool: p{i % POOLS}}}\n" for i in range(ROUTES)
    )
    pools = ""
    for pool in range(POOLS):
        idle = ", ".join(f'{{address: "127.1.{pool}.{i}:9", weight: 0}}' for i in range(1, ENDPOINTS))
        pools += f'  p{pool}: {{protocol: http, endpoints: ["{address}", {idle}]}}\n'
    return f"""workers: 1
listeners:
  front:
    bind: "127.0.0.1:1"
    protocol: http
    routes:
{routes}pools:
{pools}"""


def start() -> Run:
    server = Http1Server(ANSWER)
    rig = Rig(config(server.address), [server])
    return Run(rig, Http1Client(rig, http1_request("GET", "/v2/models/m07777/infer", {}, b""), right), server)


PATH = Path("http1-routes", "the same by one of 10,000 routes to one of 1,000 endpoints", start)
