"""Datagrams of 512 bytes there and back, 32 clients."""

import contextlib
import socket
import time
from collections.abc import Callable

from bench.bed import Bed, warnings
from bench.errors import BenchError
from bench.peers import Task
from bench.results import Limit, Metric, Sample
from bench.scenarios.base import Scenario
from bench.servers import UdpEcho
from bench.udp import Udp

LOAD = Udp(connections=32, size=512)
_PROBE = bytes(LOAD.size)


def wait_echo(port: int, seconds: float, check: Callable[[], None]) -> None:
    """Sends a datagram again and again until it comes back: a proxy's socket is bound some time before it is read.

    `check` raises if there is nothing left to wait for. Raises BenchError after `seconds` without an answer.
    """
    limit = time.monotonic() + seconds
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(0.1)
        client.connect(("127.0.0.1", port))
        while time.monotonic() < limit:
            check()
            with contextlib.suppress(TimeoutError):
                client.send(_PROBE)
                if client.recv(2 * len(_PROBE)) == _PROBE:
                    return
    raise BenchError(f"127.0.0.1:{port} sends no datagram back in {seconds:g} s")


def measure(bed: Bed) -> Sample:
    wait_echo(bed.setup.port, 15.0, bed.check_processes)
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
