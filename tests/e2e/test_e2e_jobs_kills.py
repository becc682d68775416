"""Jobs through kill -9 of every process in turn, while clients submit, cancel and are told by webhooks: no accepted job
is lost, none has another's answer, and none runs again but for a process that had it in hand.

    make soak-jobs                        10,000 jobs, ten rounds, in SQLite and in NATS

`make test` has one round of a few hundred jobs.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
from daemon import Daemon, digits_pool, environment, http_listener, route
from jobs_load import SAMPLES, SECRET, Accepted, Receiver, Submitters, check
from journal_endpoint import Run, runs
from nats_server import NatsServer
from ports import free_port, wait_for_port
from traffic import DIGITS_INFER
from waiting import eventually, until, until_in_thread

Start = Callable[..., Daemon]
ROUNDS = int(os.environ.get("TIDEGATE_JOBS_ROUNDS", "1"))
JOBS = int(os.environ.get("TIDEGATE_JOBS", "300"))
SEED = int(os.environ.get("TIDEGATE_JOBS_SEED", "1"))
CONCURRENCY = 16
CLIENTS = 8 if ROUNDS > 1 else 4
# Processes whose death may make a job run again: those that have its request in hand.
IN_HAND = ("jobs process", "worker 0", "worker 1", "endpoint", "master")
STORED = 5.0  # seconds from an answer until it is stored, on a busy machine


class Journal:
    """The endpoint's process, and what it has written down."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.path = folder / "journal"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        script = str(Path(__file__).with_name("journal_endpoint.py"))
        command = [sys.executable, script, str(self.port), str(self.path)]
        self._process = subprocess.Popen(command, env=environment())
        wait_for_port(self.port)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path)
    made.start()
    yield made
    made.kill()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    made = Receiver()
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:
        yield session


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    made = NatsServer(tmp_path / "nats")
    made.start()
    yield made
    made.kill()


class Killer:
    """Kills one process after the other with SIGKILL, and begins again those that the daemon does not. `kills` are
    their times, in seconds of the monotonic clock, and names."""

    def __init__(self, start: Start, config: dict[str, Any], endpoint: Journal, server: NatsServer | None) -> None:
        self.kills: list[tuple[float, str]] = []
        self.daemon = start(config)
        self._start = start
        self._config = config
        self._endpoint = endpoint
        self._server = server

    def kill(self, what: str) -> None:
        """Returns once it is dead, and, where it is not the daemon's to replace, there again."""
        if what == "endpoint":
            self._note(what)
            self._endpoint.kill()
            self._endpoint.start()
        elif what == "nats-server":
            assert self._server is not None
            self._note(what)
            self._server.kill()
            self._server.start()
        else:
            pid = eventually(lambda: self._pid(what), f"a {what} to kill")
            family = psutil.Process(pid).children(recursive=True)
            self._note(what)
            os.kill(pid, signal.SIGKILL)
            if what == "master":
                self.daemon.process.wait(20)
                eventually(lambda: not any(process.is_running() for process in family), "the end of its processes")
                self.daemon = self._start(self._config)

    def _note(self, what: str) -> None:
        self.kills.append((time.monotonic(), what))

    def _pid(self, what: str) -> int:
        daemon = self.daemon
        match what.split():
            case ["master"]:
                return daemon.process.pid
            case ["jobs", "process"]:
                found = daemon.status()["jobs"]["pid"]
            case ["model", "server"]:
                found = daemon.pool("digits")["managed"]["replicas"][0]["pid"]
            case ["worker", number]:
                found = daemon.worker_pids()[int(number)]
            case _:
                (found,) = {psutil.Process(pid).ppid() for pid in daemon.worker_pids()} - {daemon.process.pid}
        assert isinstance(found, int)
        return found


def configuration(endpoint: Journal, receiver: Receiver, folder: Path, store: dict[str, Any]) -> dict[str, Any]:
    (folder / "secret").write_bytes(b"whsec_" + base64.b64encode(SECRET))
    routes = [route("/work/", "work", jobs=True), route("/v2", "digits", jobs=True)]
    return {
        "listeners": {"web": {**http_listener(*routes), "bind": f"127.0.0.1:{free_port()}"}},
        "pools": {
            "work": {"protocol": "http", "endpoints": [f"127.0.0.1:{endpoint.port}"]},
            "digits": digits_pool(min=1),
        },
        "jobs": {
            **store,
            "attempts": 100,
            "concurrency": CONCURRENCY,
            "webhooks": {"secret_file": str(folder / "secret"), "urls": [receiver.url]},
        },
    }


async def expected_outputs(client: aiohttp.ClientSession, base: str) -> list[Any]:
    """The model's outputs for the samples, by requests without a job."""
    found = []
    for sample in SAMPLES:
        inputs = [{"name": "image", "datatype": "FP32", "shape": [1, 64], "data": sample["image"]}]
        async with client.post(base + DIGITS_INFER, json={"inputs": inputs}) as answer:
            found.append((await answer.json())["outputs"])
    return found


def unexplained(ran: list[Run], kills: list[tuple[float, str]]) -> list[Run]:
    """Runs after which the job ran again without a reason: neither its answer nor a kill asked for it."""
    return [
        run
        for run, later in itertools.pairwise(ran)
        if run.status != 500
        and not any(
            what in IN_HAND and run.began - 1 <= when <= min(later.began, (run.ended or later.began) + STORED)
            for when, what in kills
        )
    ]


def check_runs(accepted: list[Accepted], journal: Path, kills: list[tuple[float, str]]) -> int:
    """Every job that has an answer was run, with one key, and again only for a reason: the number of runs that were
    repeated for a kill."""
    found, again = runs(journal), 0
    asked = [job for job in accepted if job.kind != "inference"]
    assert not found.keys() - {job.target for job in asked}
    for job in asked:
        ran = found.get(job.target, [])
        assert ran or job.end in ("cancelled", "dead"), job
        assert {run.key for run in ran} <= {job.name}, (job, ran)
        assert not unexplained(ran, kills), (job, ran, kills)
        again += sum(run.status != 500 for run in ran[:-1])
    return again


async def through_kills(
    killer: Killer, rounds: list[str], client: aiohttp.ClientSession, endpoint: Journal, receiver: Receiver
) -> None:
    base = f"http://127.0.0.1:{killer.daemon.port()}"
    expected = await expected_outputs(client, base)
    submitters = Submitters(client, [base], receiver.url, SEED)
    submitters.start(CLIENTS)
    between = JOBS // (ROUNDS * len(rounds) + 1) + 1
    for _ in range(ROUNDS):
        for what in rounds:
            await submitters.wait_for_more(between)
            await asyncio.to_thread(killer.kill, what)
    receiver.busy = False
    await submitters.wait_for_more(between)
    await submitters.stop()
    accepted = submitters.accepted
    assert len({job.place for job in accepted}) == len(accepted)
    ends = Counter(job.end for job in accepted)

    def states() -> Counter[str]:
        found: Counter[str] = Counter()
        for _, state, number in killer.daemon.status()["jobs"]["jobs"]:
            found[state] += number
        return +found

    await until_in_thread(lambda: states() == ends, f"these ends: {ends}", 300)
    slots = asyncio.Semaphore(CONCURRENCY)

    async def look(job: Accepted) -> None:
        async with slots:
            await check(client, base, job, expected)

    await asyncio.gather(*(look(job) for job in accepted))
    told = {job.id: job.end for job in accepted if job.told}
    await until(lambda: receiver.told.keys() >= told.keys(), "a webhook of each", 60)
    assert receiver.told.keys() == told.keys()
    assert {job: set(states) for job, states in receiver.told.items()} == {job: {end} for job, end in told.items()}
    assert receiver.forged == 0
    again = check_runs(accepted, endpoint.path, killer.kills)
    assert again <= CONCURRENCY * sum(what in IN_HAND for _, what in killer.kills)
    told_again = sum(len(states) - 1 for states in receiver.told.values())
    print(
        f"\n{len(accepted)} jobs ({dict(ends)}) through {len(killer.kills)} kills ({ROUNDS} of each of {rounds}); "
        f"{again} runs repeated, {len(told)} webhooks told, {told_again} of them again"
    )


async def test_in_sqlite(
    start: Start, tmp_path: Path, client: aiohttp.ClientSession, endpoint: Journal, receiver: Receiver
) -> None:
    config = configuration(endpoint, receiver, tmp_path, {"path": str(tmp_path / "jobs.db")})
    killer = await asyncio.to_thread(Killer, start, config, endpoint, None)
    rounds = ["jobs process", "worker 0", "worker 1", "fork server", "model server", "endpoint", "master"]
    await through_kills(killer, rounds, client, endpoint, receiver)


async def test_in_nats(
    start: Start,
    tmp_path: Path,
    client: aiohttp.ClientSession,
    endpoint: Journal,
    receiver: Receiver,
    server: NatsServer,
) -> None:
    """A jobs process that dies leaves its jobs for the length of a lease, half a minute: that is for long runs alone.
    test_e2e_jobs_nats.py has one such death."""
    config = configuration(endpoint, receiver, tmp_path, {"store": {"nats": {"urls": [server.url]}}})
    killer = await asyncio.to_thread(Killer, start, config, endpoint, server)
    rounds = ["nats-server", "worker 0", "worker 1", "fork server", "model server", "endpoint"]
    if ROUNDS > 1:
        rounds += ["jobs process", "master"]
    await through_kills(killer, rounds, client, endpoint, receiver)
