"""How long a daemon takes from its command to its first answer, and what memory a fresh worker has of its own.

    python -m bench.start [--rounds 10] [--workers 2]

Each round starts a daemon with a configuration like the README's, whose endpoints nobody serves, and asks a listener
until a worker answers. Shown are the medians, with their ranges: the wall time to the first answer; the CPU time of the
master and of the fork server up to then, which other programs on the machine disturb less; the wall time until the
daemon says that it is ready; and a while later the private memory (clean and dirty) of the worker that has most.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from bench.accounting import read_cpu
from bench.errors import BenchError
from bench.machine import free_ports
from bench.processes import Process
from lb.cli.admin import AdminClient, AdminError

PAUSE = 0.002  # seconds between two attempts
SETTLED = 1.0  # seconds from the first answer to the reading of the memory
LONGEST = 60.0
ASK = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"  # no route takes it, and no endpoint is asked
CONFIGURATION = """\
workers: {workers}
admin: {{bind: "unix:{folder}/admin.sock"}}
listeners:
  web:
    bind: 127.0.0.1:{web}
    protocol: http
    routes:
      - match: {{path: {{prefix: /v2/models/digits/}}}}
        pool: digits
        timeout: 2s
      - match: {{host: "*.example.org", method: GET}}
        pool: site
  raw: {{bind: 127.0.0.1:{raw}, protocol: tcp, pool: redis}}
pools:
  digits:
    protocol: oip
    policy: least_request
    endpoints: ["unix:{folder}/digits.sock"]
    health: {{type: grpc, interval: 2s}}
  site:
    protocol: http
    policy: {{type: maglev, key: {{cookie: session}}}}
    endpoints: ["unix:{folder}/site-1.sock", {{address: "unix:{folder}/site-2.sock", weight: 2}}]
    health: {{type: http, path: /health, rise: 2, fall: 3}}
  redis: {{protocol: tcp, endpoints: ["unix:{folder}/redis.sock"], health: {{type: tcp}}, send_proxy: v2}}
cache: {{size: 1GiB, ttl: 5m}}
log: {{access: "{folder}/access.log", level: warning}}
"""


@dataclass(frozen=True)
class Start:
    """Of one start."""

    answer_s: float
    master_cpu_s: float
    fork_server_cpu_s: float
    ready_s: float
    worker_private_mb: float


NAMES = {
    "answer_s": "command to first answer, s",
    "master_cpu_s": "CPU time of the master until then, s",
    "fork_server_cpu_s": "CPU time of the fork server until then, s",
    "ready_s": "command to ready, s",
    "worker_private_mb": "private memory of a worker, MB",
}


def once(folder: Path, workers: int) -> Start:
    """One start. Raises BenchError when the daemon does not come up."""
    web, raw = free_ports(2)
    file = folder / "tidegate.yaml"
    file.write_text(CONFIGURATION.format(workers=workers, folder=folder, web=web, raw=raw))
    began = time.monotonic()
    process = Process("tidegate", [sys.executable, "-m", "lb.cli", "run", "-c", str(file)], folder / "log")
    try:
        _answered(process, web)
        answer = time.monotonic() - began
        pids = process.pids()
        cpu = _by_process(pids)
        admin = AdminClient(f"unix:{folder}/admin.sock")
        document = _running(process, admin)
        ready = time.monotonic() - began
        time.sleep(max(0.0, began + answer + SETTLED - time.monotonic()))
        members = [row["pid"] for row in document["workers"]]
        (server,) = (pid for pid in pids if pid not in members and pid != pids[0])
        return Start(answer, cpu[pids[0]] / 1e9, cpu[server] / 1e9, ready, max(map(private_mb, members)))
    finally:
        process.stop()


def private_mb(pid: int) -> float:
    """Megabytes of memory that a process shares with no other."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    found = {name: int(value.split()[0]) for name, _, value in (line.partition(":") for line in lines)}
    return (found["Private_Clean"] + found["Private_Dirty"]) * 1024 / 1e6


def _by_process(pids: Sequence[int]) -> dict[int, int]:
    """CPU nanoseconds of each process, of all its threads."""
    found: dict[int, int] = {}
    for (pid, _), ns in read_cpu(pids).tasks.items():
        found[pid] = found.get(pid, 0) + ns
    return found


def _answered(process: Process, port: int) -> None:
    """Returns once a worker has answered; before the master listens connections are refused."""
    limit = time.monotonic() + LONGEST
    while time.monotonic() < limit:
        process.check()
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)) as client:
            client.settimeout(LONGEST)
            client.sendall(ASK)
            if client.recv(4096).startswith(b"HTTP/1.1 404"):
                return
            raise BenchError("the first answer is not the one that a request without a route gets")
        time.sleep(PAUSE)
    raise BenchError(f"no answer within {LONGEST:.0f} s: {process.last_words()}")


def _running(process: Process, admin: AdminClient) -> dict[str, Any]:
    """The status document once the daemon runs."""
    limit = time.monotonic() + LONGEST
    while time.monotonic() < limit:
        process.check()
        with contextlib.suppress(AdminError):
            document = admin.status()
            if document["state"] == "running":
                return document
        time.sleep(PAUSE)
    raise BenchError(f"not ready within {LONGEST:.0f} s: {process.last_words()}")


def table(starts: Sequence[Start]) -> Iterator[str]:
    """Median and range of each figure, as a table in Markdown."""
    yield "| | median | from | to |"
    yield "|---|---:|---:|---:|"
    for field in fields(Start):
        values = [getattr(start, field.name) for start in starts]
        yield f"| {NAMES[field.name]} | {statistics.median(values):.2f} | {min(values):.2f} | {max(values):.2f} |"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.start", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args(argv)
    starts = []
    try:
        for _ in range(options.rounds):
            with tempfile.TemporaryDirectory(prefix="tidegate-start-") as folder:
                starts.append(once(Path(folder), options.workers))
    except BenchError as error:
        print(f"bench.start: {error}", file=sys.stderr)
        return 1
    print("\n".join(table(starts)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
