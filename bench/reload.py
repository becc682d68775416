"""How long a reload of a large configuration takes, and how long it keeps clients waiting.

    python -m bench.reload [--routes 10000] [--endpoints 1000] [--workers 2] [--rounds 5]

A daemon runs a configuration of many routes (by host, path and method) and endpoints. It is reloaded with one that
differs in one route of a hundred, and with one in which every route and endpoint is another, while a client on each of
a few connections asks every millisecond for an answer that no endpoint is needed for. Shown are the medians of the
rounds: the time from asking for the reload to the answer, which comes when every worker has acknowledged; the CPU time
of master and worker up to then; and the longest wait of a request, beside the longest without a reload.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.errors import BenchError
from bench.machine import free_ports
from bench.processes import Process
from lb.cli.admin import AdminClient, AdminError

POOLS = 20
HOSTS = 500
CONNECTIONS = 4
TICK = 0.001
QUIET = 0.5  # seconds of load before each reload, and after it
# Removed endpoints keep their places for 5 s, of which a daemon has 4,096.
LINGER, MANY = 6.0, 500
START = 60.0
METHODS = ("GET", "POST", "[GET, HEAD]", "")
ASK = b"GET /ping HTTP/1.1\r\nHost: ping.example.org\r\n\r\n"


@dataclass(frozen=True)
class Size:
    routes: int
    endpoints: int
    workers: int


@dataclass(frozen=True)
class Outcome:
    """Of one reload, in milliseconds. `waits` is the longest wait of a request, `quiet` the longest without reload."""

    took: float
    master: float
    worker: float  # the one that spent most
    waits: float
    quiet: float


def configuration(size: Size, port: int, admin: Path, changed: int = 0, edition: int = 0) -> str:
    """The file, of which the first `changed` routes depend on `edition`; if all do, so do the endpoints."""
    lines = [f"workers: {size.workers}", f"admin: {{bind: 'unix:{admin}'}}", "log: {level: warning}"]
    lines += ["listeners:", "  front:", f"    bind: 127.0.0.1:{port}", "    protocol: http", "    routes:"]
    lines += ["      - match: {host: ping.example.org}", "        respond: {body: pong}"]
    step = size.routes // changed if changed else size.routes + 1
    for i in range(size.routes):
        path = f"/service-{i}/" + (f"{edition}/" if i % step == 0 else "")
        kind = "exact" if i % 4 == 1 else "prefix"
        lines += ["      - match:", f"          path: {{{kind}: {path}}}"]
        if i % 4 != 3:
            lines.append(f"          host: host-{i % HOSTS}.example.org")
        if METHODS[i % 4]:
            lines.append(f"          method: {METHODS[i % 4]}")
        lines.append(f"        pool: pool-{i % POOLS}")
    lines.append("pools:")
    network = edition % 200 if changed == size.routes else 0
    for pool in range(POOLS):
        lines += [f"  pool-{pool}:", "    protocol: http", "    endpoints:"]
        lines += [
            f"      - 198.18.{network}.{pool + 1}:{9000 + number}"
            for number in range(pool * size.endpoints // POOLS, (pool + 1) * size.endpoints // POOLS)
        ]
    return "\n".join(lines) + "\n"


def cpu_ms(pid: int) -> float:
    """CPU time of all threads of a process so far."""
    tasks = Path(f"/proc/{pid}/task")
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir()) / 1e6


class Client:
    """Asks on each of its connections every TICK, whatever became of the requests before; keeps the longest wait."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, port: int) -> None:
        for _ in range(CONNECTIONS):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            due: asyncio.Queue[float] = asyncio.Queue()
            self._tasks += [asyncio.create_task(self._ask(writer, due)), asyncio.create_task(self._take(reader, due))]

    async def _ask(self, writer: asyncio.StreamWriter, due: asyncio.Queue[float]) -> None:
        at = time.monotonic()
        while True:
            await asyncio.sleep(max(0.0, at - time.monotonic()))
            writer.write(ASK)
            due.put_nowait(max(at, time.monotonic()))  # what this program is late for is not the daemon's
            at += TICK

    async def _take(self, reader: asyncio.StreamReader, due: asyncio.Queue[float]) -> None:
        while True:
            asked = await due.get()
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200") or await reader.readexactly(4) != b"pong":
                raise BenchError(f"a wrong answer: {head!r}")
            self.longest = max(self.longest, time.monotonic() - asked)

    def take_longest(self) -> float:
        """The longest wait since the last call, in milliseconds."""
        self.check()
        longest, self.longest = self.longest, 0.0
        return longest * 1e3

    def check(self) -> None:
        for task in self._tasks:
            if task.done():
                task.result()

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _wait_ready(admin: AdminClient, process: Process) -> None:
    limit = time.monotonic() + START
    while True:
        process.check()
        with contextlib.suppress(AdminError):
            if admin.status()["state"] == "running":
                return
        if time.monotonic() > limit:
            raise BenchError(f"the daemon does not run after {START:.0f} s: {process.last_words()}")
        await asyncio.sleep(0.05)


async def _reload(client: Client, admin: AdminClient, master: int, file: Path, text: str) -> Outcome:
    await asyncio.to_thread(file.write_text, text)
    workers = [row["pid"] for row in admin.status()["workers"]]
    await asyncio.sleep(QUIET)
    client.take_longest()
    await asyncio.sleep(QUIET)
    quiet = client.take_longest()
    before = {pid: cpu_ms(pid) for pid in (master, *workers)}
    began = time.monotonic()
    answer = await asyncio.to_thread(admin.reload)
    took = time.monotonic() - began
    spent = {pid: cpu_ms(pid) - was for pid, was in before.items()}
    if not answer["ok"]:
        raise BenchError(f"the reload failed: {answer['error']}")
    await asyncio.sleep(QUIET)
    waits = client.take_longest()
    return Outcome(took * 1e3, spent[master], max(spent[pid] for pid in workers), waits, quiet)


async def measure(size: Size, rounds: int, folder: Path) -> dict[str, list[Outcome]]:
    """The outcomes of `rounds` reloads of each kind. Raises BenchError when the daemon does not do what it should."""
    (port,) = free_ports(1)
    file, socket = folder / "tidegate.yaml", folder / "admin.sock"
    kinds = {"one route of a hundred": max(1, size.routes // 100), "every route and endpoint": size.routes}
    await asyncio.to_thread(file.write_text, configuration(size, port, socket))
    process = Process("tidegate", [sys.executable, "-m", "lb.cli", "run", "-c", str(file)], folder / "log")
    client = Client()
    found: dict[str, list[Outcome]] = {kind: [] for kind in kinds}
    try:
        admin = AdminClient(f"unix:{socket}")
        await _wait_ready(admin, process)
        await client.start(port)
        edition = 0
        for kind, changed in kinds.items():
            for number in range(rounds + 1):  # the first makes all before it alike, and does not count
                edition += 1
                text = configuration(size, port, socket, changed, edition)
                outcome = await _reload(client, admin, process.pids()[0], file, text)
                if number:
                    found[kind].append(outcome)
                if size.endpoints > MANY:
                    await asyncio.sleep(LINGER)
        await client.stop()
    finally:
        process.stop()
    return found


def table(found: dict[str, list[Outcome]]) -> Iterator[str]:
    """The medians as a table in Markdown, with the range of the first."""
    yield "| what changed | reload ms | master CPU ms | worker CPU ms | longest wait ms | without a reload |"
    yield "|---|---:|---:|---:|---:|---:|"
    for kind, outcomes in found.items():
        took = [outcome.took for outcome in outcomes]
        rest = [
            f"{statistics.median(getattr(outcome, name) for outcome in outcomes):.1f}"
            for name in ("master", "worker", "waits", "quiet")
        ]
        yield f"| {kind} | {statistics.median(took):.0f} ({min(took):.0f} to {max(took):.0f}) | {' | '.join(rest)} |"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.reload", description=(__doc__ or "").partition("\n")[0])
    for name, default in (("routes", 10_000), ("endpoints", 1_000), ("workers", 2), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args(argv)
    size = Size(options.routes, options.endpoints, options.workers)
    try:
        with tempfile.TemporaryDirectory(prefix="tidegate-reload-") as folder:
            found = asyncio.run(measure(size, options.rounds, Path(folder)))
    except BenchError as error:
        print(f"bench.reload: {error}", file=sys.stderr)
        return 1
    print("\n".join(table(found)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
