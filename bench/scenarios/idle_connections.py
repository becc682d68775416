"""Memory that an idle keep-alive connection costs, of HTTP/1.1 or HTTP/2: many connections that have each had one
answer and stay open.

The growth of all the proxy's processes (PSS, so shared pages count once) from a few connections to many, divided by
their number. The kernel's socket buffers are not in it; they are the same for every proxy.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import ExitStack

from bench import accounting
from bench.bed import Bed
from bench.errors import BenchError
from bench.peers import Task
from bench.results import Limit, Metric, Sample
from bench.scenarios import proxy_http1
from bench.scenarios.base import Scenario
from bench.scenarios.checks import expect_http2
from bench.scenarios.measures import Check
from bench.servers import FixedHttp, FixedHttp2

FIRST = 200  # open before the first reading, so that what is set up once is not counted
MORE = 4000
_REQUEST = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
# The preface, empty SETTINGS, their acknowledgement, and one request (RFC 9113 section 3.4; RFC 7541 appendix A).
_HTTP2_REQUEST = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0" + b"\0\0\0\4\1\0\0\0\0"
    + b"\0\0\x0e\1\5\0\0\0\1" + b"\x82\x86\x84\x41\x09127.0.0.1"
)  # fmt: skip


def measured(request: bytes, check: Check) -> Callable[[Bed], Sample]:
    """How the memory is measured. It raises BenchError if connections are refused or closed."""

    def measure(bed: Bed) -> Sample:
        check(bed)
        return grown(bed, request)

    return measure


def grown(bed: Bed, request: bytes) -> Sample:
    count = min(MORE, bed.setup.max_connections - FIRST - 50)
    pids = bed.proxy.pids()
    with ExitStack() as stack:
        held = [open_served(bed.setup.port, request, stack) for _ in range(FIRST)]
        before = settled(pids)
        held += [open_served(bed.setup.port, request, stack) for _ in range(count)]
        after = settled(pids)
        if closed := sum(is_closed(connection) for connection in held):
            raise BenchError(f"{bed.proxy.name} closed {closed} of {len(held)} idle connections")
    values = {"pss_bytes": (after.pss - before.pss) / count, "rss_bytes": (after.rss - before.rss) / count}
    return Sample(values, raw={"connections": count, "before": vars(before), "after": vars(after)})


def open_served(port: int, request: bytes, stack: ExitStack) -> socket.socket:
    """A connection that has had one whole answer; the stack closes it."""
    try:
        connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))
        connection.sendall(request)
        received = b""
        while proxy_http1.ANSWER.encode() not in received:
            if not (data := connection.recv(4096)):
                raise BenchError(f"a connection was closed instead of answered: {received[:100]!r}")
            received += data
    except OSError as error:
        raise BenchError(f"cannot open one more idle connection: {error}") from error
    return connection


def is_closed(connection: socket.socket) -> bool:
    """Whether the other side has ended a connection on which no more than SETTINGS or so is expected."""
    connection.setblocking(False)
    try:
        while connection.recv(4096):
            pass
        return True
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


METRICS = (
    Metric("pss_bytes", "PSS bytes/connection", "lower"),
    Metric("rss_bytes", "RSS bytes/connection", "lower"),
)
SCENARIO = Scenario(
    name="idle-connections",
    title=f"memory of an idle keep-alive connection ({MORE:,} of them)",
    task=Task("http"),
    servers={"http": FixedHttp(proxy_http1.ANSWER)},
    measure=measured(_REQUEST, proxy_http1.CHECK),
    metrics=METRICS,
    generators=(),
    limits=(Limit(4096),),
    default=True,
    max_rounds=3,
)
HTTP2 = Scenario(
    name="idle-http2",
    title=f"memory of an idle HTTP/2 connection ({MORE:,} of them)",
    task=Task("http2"),
    servers={"http2": FixedHttp2(proxy_http1.ANSWER)},
    measure=measured(_HTTP2_REQUEST, expect_http2("/", proxy_http1.ANSWER.encode())),
    metrics=METRICS,
    generators=(),
    limits=(Limit(24 * 1024),),
    max_rounds=3,
)
