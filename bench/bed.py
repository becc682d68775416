"""One run's arrangement: a fresh proxy on its core, a fresh server beside the load, and the measuring of the two."""

from __future__ import annotations

import http.client
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import machine, wrk
from bench.accounting import cpu_between, read_cpu
from bench.errors import BenchError
from bench.machine import Cores, busy_ns, free_ports
from bench.peers import Proxy, Setup
from bench.peers.base import Job
from bench.processes import Process, Processes, die_with_parent, on_cores
from bench.results import Sample
from bench.servers import Server

# A share of a core above which there is nothing left of it; and what others may use of one before a run is doubtful.
SATURATED = 0.95
DISTURBED = 0.05


@dataclass(frozen=True)
class Timing:
    """Seconds that a run is warmed up (and dropped) and then measured."""

    warmup: int = 1
    duration: int = 2


@dataclass(frozen=True)
class Answer:
    """One answer to a request, whole."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass
class Bed:
    """A proxy that serves, and what is around it."""

    directory: Path
    cores: Cores
    timing: Timing
    port: int
    proxy: Process
    server: Process
    config: str
    connections: int

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def ask(self, load: wrk.Load) -> Answer:
        """Sends a load's request once, on a connection of its own. Raises BenchError if there is no answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request(load.method, load.path, load.body or None, dict(load.headers))
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        except (OSError, http.client.HTTPException) as error:
            self.proxy.check()
            self.server.check()
            raise BenchError(f"{self.proxy.name} does not answer: {error!r}") from error
        finally:
            connection.close()

    def ask_until(self, load: wrk.Load, right: Callable[[Answer], bool], timeout: float = 5.0) -> None:
        """Repeats the request until the answer is right. Raises BenchError with the last answer if it never is."""
        limit = time.monotonic() + timeout
        while not right(answer := self.ask(load)):
            if time.monotonic() > limit:
                raise BenchError(f"{self.proxy.name} answers {answer.status} {answer.body[:200]!r} {answer.headers}")
            time.sleep(0.05)

    def drive(self, load: wrk.Load, right: Callable[[Answer], bool]) -> Sample:
        """One measured run of wrk; the answer is checked before and after. Raises BenchError if it cannot count."""
        self.ask_until(load, right)
        script = self.directory / "load.lua"
        script.write_text(wrk.script(load))
        self._wrk(load, script, self.timing.warmup)
        pids, server_pids = self.proxy.pids(), self.server.pids()
        cores = (self.cores.proxy, *self.cores.load)
        began, busy, used = time.monotonic_ns(), busy_ns(cores), resource.getrusage(resource.RUSAGE_CHILDREN)
        before, server_before = read_cpu(pids), read_cpu(server_pids)
        result = self._wrk(load, script, self.timing.duration)
        proxy_ns, server_ns = cpu_between(before, read_cpu(pids)), cpu_between(server_before, read_cpu(server_pids))
        wall = time.monotonic_ns() - began
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        wrk_ns = int((after.ru_utime - used.ru_utime + after.ru_stime - used.ru_stime) * 1e9)
        others = max(0, busy_ns(cores) - busy - proxy_ns - server_ns - wrk_ns)
        if (found := set(self.proxy.pids())) != set(pids):
            raise BenchError(f"processes of {self.proxy.name} came or went during the run: {sorted(found ^ set(pids))}")
        self.ask_until(load, right)
        return Sample(
            values={
                "rps": result.rate,
                "p50_us": result.p50,
                "p99_us": result.p99,
                "cpu_us": proxy_ns / 1e3 / result.requests,
            },
            warnings=warnings(self.cores, wall, proxy_ns, server_ns, wrk_ns, others, result.errors),
            raw={"wall_ns": wall, "proxy_cpu_ns": proxy_ns, "server_cpu_ns": server_ns, "wrk_cpu_ns": wrk_ns}
            | {"others_cpu_ns": others, "wrk": vars(result)},
        )

    def _wrk(self, load: wrk.Load, script: Path, seconds: int) -> wrk.Result:
        command = wrk.command(load, script, self.address, self.cores.load_threads, seconds)
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=seconds + 30, check=False, preexec_fn=die_with_parent
            )
        except subprocess.TimeoutExpired as error:
            raise BenchError(f"wrk did not end {error.timeout - seconds:.0f} s after its time") from error
        self.proxy.check()
        self.server.check()
        if done.returncode:
            raise BenchError(f"wrk ended with code {done.returncode}: {(done.stderr or done.stdout).strip()[-300:]}")
        return wrk.parse(done.stdout)


def warnings(
    cores: Cores, wall: int, proxy: int, server: int, load: int, others: int, errors: dict[str, int]
) -> list[str]:
    """What makes a run doubtful; all times in ns of CPU, `wall` in ns of real time."""
    found = []
    threads = cores.load_threads
    shares = {
        "the load generator": load / threads,
        "the server": server / threads,
        "the load's cores": (load + server) / len(cores.load),
    }
    full = [name for name, used in shares.items() if used / wall >= SATURATED]
    if full and proxy / wall < SATURATED:
        found.append(f"saturated {full[0]}, not the proxy: requests/s and latencies are not the proxy's limit")
    if others / wall > DISTURBED:
        found.append("other programs were busy on these cores")
    if errors:
        found.append("failed requests: " + ", ".join(f"{count} {kind}" for kind, count in errors.items()))
    return found


@contextmanager
def work_directory() -> Iterator[Path]:
    """A private directory below `machine.work_root()`, removed afterwards."""
    path = Path(tempfile.mkdtemp(prefix="tidegate-bench-", dir=machine.work_root()))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def lay(proxy: Proxy, job: Job, server: Server, cores: Cores, timing: Timing, connections: int) -> Iterator[Bed]:
    """Starts a server and a proxy before it, and stops both. Raises BenchError, or Cannot from the proxy."""
    with work_directory() as directory:
        front, behind = directory / "proxy", directory / "server"
        front.mkdir()
        behind.mkdir()
        port, server_port, admin_port = free_ports(3)
        config = proxy.config(Setup(job, port, server_port, admin_port, front, connections))
        path = front / f"{proxy.name}.conf"
        path.write_text(config)
        with Processes(directory) as processes:
            command = server.command(behind, server_port, cores.load_threads, connections)
            running = processes.start(server.name, on_cores(cores.load, command))
            running.wait_listening(server_port)
            started = processes.start(proxy.name, on_cores([cores.proxy], proxy.command(path)))
            started.wait_listening(port)
            yield Bed(directory, cores, timing, port, started, running, config, connections)
