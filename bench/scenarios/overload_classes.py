"""Too many requests of two kinds: people who wait for 100 ms at most, and work that has a second. Who is served?

The servers and the load are those of `overload`: twelve that do 933 requests/s, 1,400 come. Two in seven are
interactive: due within 100 ms, and of high priority; the others are due within 1 s, and of low priority. Tidegate's
routes say so, and a server gets a second request while it works on one. HAProxy, the one peer with priorities, is
tuned by hand: the classes in order, each as far ahead in the queue as its deadline, and a queue timeout of the longer
deadline less what a slow server takes at most.
"""

from __future__ import annotations

from dataclasses import replace

from bench.bed import Bed
from bench.emulator.client import ControlClient
from bench.load.request import Request
from bench.open_loop import Open, raw_of, report_of, share_above
from bench.peers import Task
from bench.peers.base import CLASS_HEADER, Class
from bench.results import Limit, Metric, Sample
from bench.scenarios.base import Scenario
from bench.scenarios.latency import NOTE, REQUEST, WARMUP_SECONDS, answered
from bench.scenarios.measures import Expect
from bench.scenarios.uneven_endpoints import SERVERS

INTERACTIVE, BATCH = Class("interactive", 0.1, "high"), Class("batch", 1.0, "low")
CLASSES = (INTERACTIVE, BATCH)


def _request(kind: Class) -> Request:
    return replace(REQUEST, headers={**REQUEST.headers, CLASS_HEADER: kind.name}, label=kind.name)


MIX = tuple(_request(kind) for kind in (INTERACTIVE, BATCH, BATCH, BATCH, INTERACTIVE, BATCH, BATCH))
# Warmed up until every queue is as long as it gets, and not let go while those counted wait: what a queue takes in or
# gives back is no answer more per second.
PACE = Open(MIX, 1400, arrivals="poisson", connections=3000, timeout=3.0, warmup=3.0, cooldown=1.5)
CHECK = Expect(MIX[0], answered)
SECONDS = 6
INTERACTIVE_LATE = Metric("interactive_late_pct", "interactive late %", "lower", 2, ratio=False)
INTERACTIVE_GOODPUT = Metric("interactive_goodput", "interactive in time/s", "higher")
BATCH_GOODPUT = Metric("batch_goodput", "batch in time/s", "higher")


def measure(bed: Bed) -> Sample:
    """In-time answers per second by class, and the share of all requests that came late or failed."""
    CHECK(bed)
    control = ControlClient(bed.control_ports[0])
    bed.drive(PACE, WARMUP_SECONDS)
    control.start()
    counted, usage = bed.drive(PACE, SECONDS)
    report = report_of(counted)
    values, in_time = {}, 0.0
    for kind in CLASSES:
        label = report.labels[kind.name]
        histogram = label.histogram()
        good = (1 - share_above(histogram, kind.deadline * 1e6)) * label.completed
        in_time += good
        values[f"{kind.name}_goodput"] = good * 1e9 / report.duration_ns
        values[f"{kind.name}_late_pct"] = 100 * (1 - good / label.sent)
        if label.completed:
            values[f"{kind.name}_p99_ms"] = histogram.get_value_at_percentile(99) / 1e3
    return Sample(
        values={"late_pct": 100 * (1 - in_time / report.sent), **values},
        warnings=[doubt for doubt in report.doubts() if "failed" not in doubt],
        raw=raw_of(report) | {"usage": vars(usage), "servers": control.stats()},
    )


SCENARIO = Scenario(
    name="overload-classes",
    title=f"1,400 requests/s to twelve model servers that do {SERVERS.capacity:.0f}: 400/s due within 100 ms, 1,000/s "
    "within 1 s",
    task=Task("oip", balance="least_request", endpoint_limit=2, classes=CLASSES),
    peer_task=Task(
        "http", balance="least_request", endpoint_limit=1, queue_timeout=BATCH.deadline - 0.05, classes=CLASSES
    ),
    servers={"http": SERVERS, "grpc": SERVERS},
    measure=measure,
    metrics=(
        Metric("late_pct", "late or failed %", "lower", 1),
        INTERACTIVE_LATE,
        INTERACTIVE_GOODPUT,
        BATCH_GOODPUT,
        Metric("interactive_p99_ms", "interactive p99 ms", "lower", 1),
    ),
    generators=(PACE,),
    # As much as HAProxy tuned by hand. Where both answer all that is interactive, a ratio of 1 would be missed every
    # second time by the thousandths in which runs differ.
    limits=(
        Limit(0.99, ("haproxy",), INTERACTIVE_GOODPUT.key),
        Limit(1, ("haproxy",), BATCH_GOODPUT.key),
        Limit(0, metric=INTERACTIVE_LATE.key),
    ),
    note=NOTE,
    max_rounds=5,
)
