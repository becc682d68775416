"""Memory that an idle keep-alive connection costs: many connections that have each had one answer and stay open.

The growth of all the proxy's processes (PSS, so shared pages count once) from a few connections to many, divided by
their number. The kernel's socket buffers are not in it; they are the same for every proxy.
"""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack

from bench import accounting
from bench.bed import Bed
from bench.errors import BenchError
from bench.peers import Task
from bench.results import Limit, Metric, Sample
from bench.scenarios import proxy_http1
from bench.scenarios.base import Scenario
from bench.servers import FixedHttp

FIRST = 200  # open before the first reading, so that what is set up once is not counted
MORE = 4000
_REQUEST = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


def measure(bed: Bed) -> Sample:
    """Raises BenchError if connections are refused or closed."""
    proxy_http1.CHECK(bed)
    count = min(MORE, bed.setup.max_connections - FIRST - 50)
    pids = bed.proxy.pids()
    with ExitStack() as stack:
        held = [open_served(bed.setup.port, stack) for _ in range(FIRST)]
        before = settled(pids)
        held += [open_served(bed.setup.port, stack) for _ in range(count)]
        after = settled(pids)
        if closed := sum(is_closed(connection) for connection in held):
            raise BenchError(f"{bed.proxy.name} closed {closed} of {len(held)} idle connections")
    values = {"pss_bytes": (after.pss - before.pss) / count, "rss_bytes": (after.rss - before.rss) / count}
    return Sample(values, raw={"connections": count, "before": vars(before), "after": vars(after)})


def open_served(port: int, stack: ExitStack) -> socket.socket:
    """A connection that has had one whole answer; the stack closes it."""
    try:
        connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))
        connection.sendall(_REQUEST)
        received = b""
        while proxy_http1.ANSWER.encode() not in received:
            if not (data := connection.recv(4096)):
                raise BenchError(f"a connection was closed instead of answered: {received[:100]!r}")
            received += data
    except OSError as error:
        raise BenchError(f"cannot open one more idle connection: {error}") from error
    return connection


def is_closed(connection: socket.socket) -> bool:
    """Whether the other side has ended a connection on which nothing is expected."""
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def settled(pids: list[int], timeout: float = 3.0) -> accounting.Memory:
    """Memory once two readings agree within 64 KiB, or when the time is up."""
    limit = time.monotonic() + timeout
    last = accounting.memory(pids)
    while True:
        time.sleep(0.2)
        now = accounting.memory(pids)
        if abs(now.pss - last.pss) < 65536 or time.monotonic() > limit:
            return now
        last = now


SCENARIO = Scenario(
    name="idle-connections",
    title=f"memory of an idle keep-alive connection ({MORE:,} of them)",
    task=Task("http"),
    servers={"http": FixedHttp(proxy_http1.ANSWER)},
    measure=measure,
    metrics=(
        Metric("pss_bytes", "PSS bytes/connection", "lower"),
        Metric("rss_bytes", "RSS bytes/connection", "lower"),
    ),
    generators=(),
    limit=Limit(8192),
    default=True,
    max_rounds=3,
)
