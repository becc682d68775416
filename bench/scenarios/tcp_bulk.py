"""Bytes one way through a TCP relay as fast as they go: what moving a GiB costs."""

from bench.bed import Bed, warnings
from bench.bulk import Bulk
from bench.peers import Task
from bench.results import Limit, Metric, Sample
from bench.scenarios.base import Scenario
from bench.servers import BulkServer

LOAD = Bulk(connections=4)


def measure(bed: Bed) -> Sample:
    bed.drive(LOAD, bed.timing.warmup)
    counted, usage = bed.drive(LOAD, bed.timing.duration)
    gib = counted.bytes / (1 << 30)
    return Sample(
        values={"cpu_ms": (usage.proxy or 0) / 1e6 / gib, "gbit": counted.bytes * 8 / counted.duration_ns},
        warnings=warnings(bed.cores, usage, counted.errors),
        raw={"usage": vars(usage), **counted.raw},
    )


SCENARIO = Scenario(
    name="tcp-bulk",
    title="TCP relay of as many bytes as go, server to client, 4 connections",
    task=Task("tcp"),
    servers={"tcp": BulkServer()},
    measure=measure,
    metrics=(Metric("cpu_ms", "CPU ms/GiB", "lower", 1), Metric("gbit", "Gbit/s", "higher", 1)),
    generators=(LOAD,),
    limits=(Limit(1.0, ("haproxy",)),),
)
