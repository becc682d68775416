"""Datagrams of 512 bytes there and back, 32 clients."""

from bench.bed import Bed, warnings
from bench.peers import Task
from bench.results import Limit, Metric, Sample
from bench.scenarios.base import Scenario
from bench.servers import UdpEcho
from bench.udp import Udp

LOAD = Udp(connections=32, size=512)


def measure(bed: Bed) -> Sample:
    bed.drive(LOAD, bed.timing.warmup)
    counted, usage = bed.drive(LOAD, bed.timing.duration)
    return Sample(
        values={"cpu_us": (usage.proxy or 0) / 1e3 / counted.operations, "rps": counted.rate},
        warnings=warnings(bed.cores, usage, counted.errors),
        raw={"usage": vars(usage), **counted.raw},
    )


SCENARIO = Scenario(
    name="udp",
    title="UDP, datagrams of 512 bytes echoed, 32 clients",
    task=Task("udp"),
    servers={"udp": UdpEcho()},
    measure=measure,
    metrics=(Metric("cpu_us", "CPU µs/echo", "lower", 2), Metric("rps", "echoes/s", "higher")),
    generators=(LOAD,),
    limits=(Limit(1.0, ("nginx",)),),
)
