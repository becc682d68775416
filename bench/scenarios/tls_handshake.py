"""A TLS handshake for each request, none resumed: ECDSA with P-256."""

from bench.handshakes import Handshakes
from bench.open_loop import Open
from bench.peers import Task
from bench.results import Limit, Metric
from bench.scenarios import proxy_http1
from bench.scenarios.base import Scenario
from bench.scenarios.measures import full_load
from bench.servers import FixedHttp

LOAD = Handshakes()
PACE = Open(proxy_http1.REQUEST, 200, close=True)

SCENARIO = Scenario(
    name="tls-handshake",
    title="HTTPS, a full handshake and one request on each connection",
    task=Task("http", tls=True),
    servers={"http": FixedHttp(proxy_http1.ANSWER)},
    measure=full_load(LOAD, proxy_http1.CHECK, PACE),
    metrics=(
        Metric("cpu_us", "CPU µs/handshake", "lower"),
        Metric("rps", "handshakes/s", "higher"),
        Metric("p50_us", "p50 µs", "lower"),
        Metric("p99_us", "p99 µs", "lower"),
    ),
    generators=(LOAD, PACE),
    limits=(Limit(1.2, ("nginx",)),),
)
