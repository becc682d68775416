"""Five reloads in a second and a half of load, each with a changed configuration: does a request fail or wait?"""

from __future__ import annotations

import time
from dataclasses import replace

from bench.bed import Bed
from bench.load.request import Request
from bench.open_loop import Open, raw_of, report_of
from bench.peers import Task
from bench.peers.base import route_prefix, write_files
from bench.results import Metric, Sample
from bench.scenarios import proxy_http1
from bench.scenarios.base import Scenario
from bench.scenarios.measures import Expect
from bench.servers import FixedHttp

RELOADS = 5
INTERVAL = 0.3
SECONDS = 3.0
REQUEST = Request(f"{route_prefix(0)}item")
PACE = Open(REQUEST, 1000)
CHECK = Expect(REQUEST, proxy_http1.right)


def measure(bed: Bed) -> Sample:
    CHECK(bed)
    bed.drive(PACE, 0.5)
    spent: list[float] = []

    def reload() -> None:
        time.sleep(2 * INTERVAL)
        for number in range(RELOADS):
            began = time.monotonic()
            changed = replace(bed.setup, task=replace(bed.setup.task, routes=bed.setup.task.routes + 1 + number % 2))
            write_files(bed.kind, changed)
            bed.kind.reload(changed, bed.proxy)
            spent.append(time.monotonic() - began)
            time.sleep(max(0.0, INTERVAL - spent[-1]))

    counted, _ = bed.drive(PACE, SECONDS, steady=False, during=reload)
    CHECK(bed)
    report = report_of(counted)
    p999, longest = report.percentiles([99.9, 100])
    return Sample(
        values={"p999_ms": p999 / 1e3, "max_ms": longest / 1e3, "failed": sum(report.failed.values())},
        warnings=[doubt for doubt in report.doubts() if "failed" not in doubt],
        raw=raw_of(report) | {"reload_s": spent},
    )


SCENARIO = Scenario(
    name="reload-under-load",
    title=f"{RELOADS} reloads, {INTERVAL * 1e3:.0f} ms apart, under 1,000 requests/s on 32 keep-alive connections",
    task=Task("http", routes=2),
    servers={"http": FixedHttp(proxy_http1.ANSWER)},
    measure=measure,
    metrics=(
        Metric("p999_ms", "p99.9 ms", "lower", 2),
        Metric("max_ms", "longest ms", "lower", 1),
        Metric("failed", "failed requests", "lower", ratio=False),
    ),
    generators=(PACE,),
    default=True,
)
