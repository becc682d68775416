"""One run's arrangement: a fresh proxy on its core, fresh servers beside the load, and an account of what both cost."""

from __future__ import annotations

import http.client
import resource
import shutil
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from bench import machine
from bench.accounting import CpuReading, cpu_between, read_cpu
from bench.errors import BenchError
from bench.generator import Counted, Generator, Target
from bench.load.invoke import MEASURING
from bench.load.request import Request
from bench.machine import Cores, busy_ns, free_ports
from bench.models import repository
from bench.peers import Proxy, Setup, Task
from bench.peers.base import write_files
from bench.peers.certificates import make_certificate
from bench.processes import Process, Processes, dying_with_us, on_cores
from bench.results import LOADS_RATE
from bench.servers import Place, Server

# A share of a core above which there is nothing left of it; and what others may use of one before a run is doubtful.
SATURATED = 0.95
DISTURBED = 0.05


@dataclass(frozen=True)
class Timing:
    """Seconds that a run is warmed up (and dropped) and then measured at full load. wrk takes whole seconds only."""

    warmup: int = 1
    duration: int = 1


@dataclass(frozen=True)
class Answer:
    """One answer to a request, whole."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Usage:
    """Nanoseconds: of real time, and of CPU by the proxy, the servers, the load generator and by anything else.

    `proxy` is None where its processes came and went, so that nobody knows.
    """

    wall: int
    proxy: int | None
    server: int
    load: int
    others: int


@dataclass
class Bed:
    """A proxy that serves, and what is around it.

    `control_ports` are the servers' own, off the proxy's way; `started` is when the proxy was (CLOCK_MONOTONIC, ns);
    `round` counts from 1. `beside` are further proxies of the same kind with their setups. `server_ports` are those of
    all servers, in the proxies' files or not.
    """

    directory: Path
    cores: Cores
    timing: Timing
    kind: Proxy
    setup: Setup
    proxy: Process
    server: Process | None
    config: str
    control_ports: tuple[int, ...]
    started: int
    round: int
    beside: tuple[tuple[Setup, Process], ...] = ()
    server_ports: tuple[int, ...] = ()

    @property
    def target(self) -> Target:
        certificate = self.setup.certificate
        authority = certificate.authority if certificate else None
        more = tuple(setup.port for setup, _ in self.beside)
        return Target(self.setup.port, self.cores.load_threads, self.directory, authority, more)

    @property
    def proxies(self) -> tuple[tuple[Setup, Process], ...]:
        """All of them, the first one included."""
        return ((self.setup, self.proxy), *self.beside)

    def serve_by(self, ports: tuple[int, ...]) -> None:
        """Puts a file with these servers into effect in each proxy. Raises BenchError if one refuses."""
        for setup, process in self.proxies:
            changed = replace(setup, server_ports=ports)
            write_files(self.kind, changed)
            self.kind.reload(changed, process)

    def _pids(self) -> list[int]:
        return [pid for _, process in self.proxies for pid in process.pids()]

    def ask(self, request: Request, timeout: float = 5.0, proxy: int = 0) -> Answer:
        """Sends a request by HTTP/1.1 once, on a connection of its own. Raises BenchError if there is no answer.

        `proxy` is the number of the one that is asked.
        """
        connection = self._connect(self.proxies[proxy][0].port, timeout)
        try:
            connection.request(request.method, request.path, request.body or None, dict(request.headers))
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        except (OSError, http.client.HTTPException) as error:
            self.check_processes()
            raise BenchError(f"{self.proxy.name} does not answer: {error!r}") from error
        finally:
            connection.close()

    def _connect(self, port: int, timeout: float) -> http.client.HTTPConnection:
        if self.setup.certificate is None:
            return http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
        context = ssl.create_default_context(cafile=str(self.setup.certificate.authority))
        return http.client.HTTPSConnection("localhost", port, timeout=timeout, context=context)

    def ask_until(self, request: Request, right: Callable[[Answer], bool], timeout: float = 5.0) -> None:
        """Repeats the request until the answer is right, of each proxy.

        Raises BenchError with the last answer if it never is.
        """
        for number, (_, process) in enumerate(self.proxies):
            limit = time.monotonic() + timeout
            while not right(answer := self.ask(request, proxy=number)):
                if time.monotonic() > limit:
                    raise BenchError(f"{process.name} answers {answer.status} {answer.body[:200]!r} {answer.headers}")
                time.sleep(0.05)

    def check_processes(self) -> None:
        """Raises BenchError with a process's last words if it has ended."""
        for _, process in self.proxies:
            process.check()
        if self.server is not None:
            self.server.check()

    def drive(
        self, generator: Generator, seconds: float, *, steady: bool = True, during: Callable[[], None] | None = None
    ) -> tuple[Counted, Usage]:
        """Runs a load to its end and accounts for it; `during` is called once, when an open loop's warm-up is over.

        Where the run is not `steady`, the proxy may replace its processes, and its CPU time stays unknown.
        Raises BenchError if the generator or a process under test fails.
        """
        command = generator.command(self.target, seconds)
        pids, server_pids = self._pids(), self.server.pids() if self.server else []
        cores = (self.cores.proxy, *self.cores.load)
        began, busy, used = time.monotonic_ns(), busy_ns(cores), resource.getrusage(resource.RUSAGE_CHILDREN)
        before, server_before = read_cpu(pids), read_cpu(server_pids)
        output = self._run(generator.name, command, seconds, during)
        after, server_after = read_cpu(pids), read_cpu(server_pids)
        wall = time.monotonic_ns() - began
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        load = int((ended.ru_utime - used.ru_utime + ended.ru_stime - used.ru_stime) * 1e9)
        proxy = self._proxy_ns(pids, before, after) if steady else None
        server = cpu_between(server_before, server_after, at_least=True)
        others = 0 if proxy is None else max(0, busy_ns(cores) - busy - proxy - server - load)
        return generator.parse(output), Usage(wall, proxy, server, load, others)

    def _proxy_ns(self, pids: list[int], before: CpuReading, after: CpuReading) -> int:
        if (found := set(self._pids())) != set(pids):
            changed, said = sorted(found ^ set(pids)), self.proxy.last_words()
            raise BenchError(f"processes of {self.proxy.name} came or went during the run: {changed}; it said: {said}")
        return cpu_between(before, after)

    def _run(self, name: str, command: list[str], seconds: float, during: Callable[[], None] | None) -> str:
        # A file, which can be looked into while it is written.
        said = self.directory / "load.out"
        with (
            said.open("wb") as out,
            subprocess.Popen(
                dying_with_us(on_cores(self.cores.load, command)),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.PIPE,
                text=True,
            ) as process,
        ):
            try:
                if during is not None and _is_measuring(process, said):
                    during()
                _, complaints = process.communicate(timeout=seconds + 60)
            except subprocess.TimeoutExpired:
                raise BenchError(f"{name} did not end a minute after its time") from None
            finally:
                process.kill()
        output = said.read_text()
        self.check_processes()
        if process.returncode:
            raise BenchError(f"{name} ended with code {process.returncode}: {(complaints or output).strip()[-300:]}")
        return output


def _is_measuring(process: subprocess.Popen[str], said: Path) -> bool:
    """Waits until an open loop's warm-up is over; False if it ends before."""
    while MEASURING not in said.read_text():
        if process.poll() is not None:
            return False
        time.sleep(0.01)
    return True


def warnings(cores: Cores, usage: Usage, errors: dict[str, int]) -> list[str]:
    """What makes a run at full load doubtful."""
    found = []
    threads = cores.load_threads
    shares = {
        "the load generator": usage.load / threads,
        "the server": usage.server / threads,
        "the load's cores": (usage.load + usage.server) / len(cores.load),
    }
    full = [name for name, used in shares.items() if used / usage.wall >= SATURATED]
    if full and (usage.proxy or 0) / usage.wall < SATURATED:
        found.append(f"saturated {full[0]}, not the proxy: {LOADS_RATE}")
    if usage.others / usage.wall > DISTURBED:
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
def lay(
    proxy: Proxy, task: Task, server: Server | None, cores: Cores, timing: Timing, connections: int, number: int
) -> Iterator[Bed]:
    """Starts the servers and a proxy before them, and stops both. Raises BenchError, or Cannot from the proxy.

    The proxy gets a core of its own. It gets all cores where it runs the model servers itself (without a server), and
    where it has several workers.
    """
    with work_directory() as directory:
        behind = directory / "server"
        behind.mkdir()
        wanted, control = (server.ports, server.extra_ports) if server else (0, 0)
        ports = free_ports(wanted + control + 2 * task.proxies)
        server_ports, control_ports = tuple(ports[:wanted]), tuple(ports[wanted : wanted + control])
        setups = _setups(task, ports[wanted + control :], server_ports, directory, connections)
        configs = [write_files(proxy, setup) for setup in setups]
        with Processes(directory) as processes:
            running = None
            if server is not None:
                place = Place(behind, server_ports, cores.load_threads, connections, control_ports)
                running = processes.start(server.name, on_cores(cores.load, server.command(place)))
                for each in server_ports:
                    running.wait_listening(each, udp=task.job == "udp")
            began = time.monotonic_ns()
            alone = server is not None and task.workers == 1
            own = [cores.proxy] if alone else [cores.proxy, *cores.load]
            started = []
            for number_beside, setup in enumerate(setups):
                name = f"{proxy.name}-{number_beside + 1}" if number_beside else proxy.name
                started.append((setup, processes.start(name, on_cores(own, proxy.command(setup)))))
            for setup, process in started:
                # A pool of its own model servers may take connections only once one is ready.
                process.wait_listening(setup.port, 60.0 if task.serve else 15.0, udp=task.job == "udp")
            (setup, process), *beside = started
            yield Bed(
                directory=directory,
                cores=cores,
                timing=timing,
                kind=proxy,
                setup=setup,
                proxy=process,
                server=running,
                config=configs[0],
                control_ports=control_ports,
                started=began,
                round=number,
                beside=tuple(beside),
                server_ports=server_ports,
            )


def _setups(
    task: Task, ports: list[int], server_ports: tuple[int, ...], directory: Path, connections: int
) -> list[Setup]:
    """One for each proxy, with a directory of its own and two of `ports`."""
    certificate = make_certificate(directory) if task.tls else None
    models = repository(task.serve.model, directory) if task.serve else None
    named = server_ports[: task.endpoints or len(server_ports)]
    setups = []
    for number in range(task.proxies):
        front = directory / f"proxy-{number}"
        front.mkdir()
        port, admin_port = ports[2 * number : 2 * number + 2]
        setups.append(Setup(task, port, named, admin_port, front, connections, certificate, models))
    return setups
