"""A recorded trace, played in half a minute, on model servers that Tidegate starts and stops itself.

Each request keeps one core busy for about 10 ms. What counts is how long requests wait while servers are added, and how
much less server time is used than if the most servers ran all the time.
"""

from __future__ import annotations

import json
import time
from functools import partial
from pathlib import Path

from bench.bed import Answer, Bed
from bench.load.arrivals import Trace
from bench.load.request import Request
from bench.load.traces import read
from bench.open_loop import Open, raw_of, report_of
from bench.peers import Task
from bench.peers.base import Serve
from bench.peers.tidegate import endpoints
from bench.results import Metric, Sample
from bench.scenarios.base import Scenario
from bench.scenarios.latency import FAILED, P50, P99
from bench.scenarios.measures import Expect

TRACE = Path(__file__).parent.parent / "traces" / "azure_llm_2023_code_300s.csv"
SECONDS = 30.0
RATE = 50.0
MOST = 3
_BODY = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [0.5]}]}
REQUEST = Request("/v2/models/busy/infer", "POST", {"Content-Type": "application/json"}, json.dumps(_BODY).encode())


def right(answer: Answer) -> bool:
    return answer.status == 200 and json.loads(answer.body)["outputs"][0]["shape"] == [1, 256]


def played(path: Path, where: str | None = None) -> Open:
    """A trace as load: as fast as makes it last SECONDS, and with RATE requests/s on average.

    `where` ("COLUMN=VALUE") takes only these rows. Raises BenchError if the file cannot be read.
    """
    bins = read(path, where=where)
    length = bins.rows[-1][0] - bins.rows[0][0] + bins.width
    schedule = Trace(str(path), where=where, start=bins.rows[0][0], speed=length / SECONDS, mean_rate=RATE)
    return Open(REQUEST, RATE, connections=256, schedule=schedule)


def measure(pace: Open, bed: Bed) -> Sample:
    Expect(REQUEST, right, 60.0)(bed)
    servers: list[int] = []

    def watch() -> None:
        began = time.monotonic()
        while time.monotonic() < began + SECONDS:
            servers.append(endpoints(bed.setup.admin_port))
            time.sleep(0.2)

    counted, _ = bed.drive(pace, SECONDS, steady=False, during=watch)
    report = report_of(counted)
    p50, p99 = report.percentiles([50, 99])
    raw = raw_of(report)
    raw["series"] |= {"servers": servers, "servers_bin_s": 0.2}
    return Sample(
        values={
            "p99_ms": p99 / 1e3,
            "p50_ms": p50 / 1e3,
            "failed_pct": 100 * sum(report.failed.values()) / report.sent,
            "servers_pct": 100 * sum(servers) / len(servers) / MOST,
        },
        warnings=[doubt for doubt in report.doubts() if "failed" not in doubt],
        raw=raw,
    )


def scenario(path: Path, where: str | None = None) -> Scenario:
    """The scenario on a trace of one's own; see `played`."""
    pace = played(path, where)
    return Scenario(
        name="autoscale-trace",
        title=f"trace {path.stem}, {RATE:.0f} requests/s on average, on 1 to {MOST} managed model servers",
        task=Task("oip", serve=Serve("busy", 1, MOST, 1.0)),
        servers={},
        measure=partial(measure, pace),
        metrics=(P99, P50, FAILED, Metric("servers_pct", "server time % of always the most", "lower", 0)),
        generators=(pace,),
        ours_only="starts and scales no model servers",
        max_rounds=3,
    )


SCENARIO = scenario(TRACE)
