"""The supervisor with real processes: a small stand-in for the model server, and the model server itself."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import signal
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import uvloop
from machine import machine
from waiting import until

from lb.clock import MonotonicClock
from lb.config.schema.file import HealthConfig, ServeConfig
from lb.control.servers.model_server import serve_command
from lb.control.servers.replica import Machine
from lb.control.servers.supervisor import Supervisor
from lb.errors import StartError
from lb.health.check import CheckFailed
from lb.health.registry import build
from lb.upstream.start import Start

STANDIN = Path(__file__).with_name("standin_model_server.py")
MODELS = Path(__file__).parents[2] / "examples" / "digits" / "models"
SECOND = 1_000_000_000
LONG = {"initial": "60s", "max": "60s"}
QUICK = {"backoff": {"initial": "10ms", "max": "50ms"}, "drain_timeout": "20s", "start_timeout": "30s"}


# Its successor, a hook of newer versions, does not exist in all that we allow.
pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy:DeprecationWarning")


@pytest.fixture
def event_loop_policy() -> asyncio.AbstractEventLoopPolicy:
    return uvloop.EventLoopPolicy()


def standin(serve: ServeConfig, listen: str) -> list[str]:
    return [sys.executable, str(STANDIN), "--listen", listen, *serve.args]


class Pool:
    """A supervisor with its surroundings, which record what it told them."""

    def __init__(self, folder: Path, around: Machine, program: Any = standin, **serve: Any) -> None:
        self.log: list[tuple[Any, ...]] = []
        self.inflight: Counter[str] = Counter()
        self.folder = folder / "run"
        self.supervisor = Supervisor(
            "digits",
            ServeConfig(**{"models": None if "command" in serve else folder, **QUICK, **serve}),
            runtime_dir=self.folder,
            on_change=lambda: self.log.append(("change", self.addresses())),
            on_exit=lambda address: self.log.append(("exit", address, self.addresses())),
            inflight=lambda address: self.inflight[address],
            clock=MonotonicClock(),
            machine=around,
            probe="tcp" if "command" in serve else "grpc",
            command=program,
            on_move=self._moved,
        )
        self.moves: list[str] = []  # of replica 0
        self.pids: set[int] = set()

    def _moved(self) -> None:
        replicas = self.supervisor.replicas()
        self.moves.append(replicas[0].state if replicas else "gone")

    def addresses(self) -> list[str]:
        return [e.address for e in self.supervisor.endpoints()]

    def states(self) -> list[str]:
        replicas = self.supervisor.replicas()
        self.pids |= {r.pid for r in replicas if r.pid}
        return [r.state for r in replicas]

    async def ready(self, n: int) -> None:
        await until(lambda: self.states() == ["ready"] * n, f"for {n} ready; {self.supervisor}")

    def sockets(self) -> list[Path]:
        return list(self.folder.glob("*")) if self.folder.exists() else []


@contextlib.asynccontextmanager
async def running(folder: Path, program: Any = standin, **serve: Any) -> AsyncIterator[Pool]:
    with machine() as around:
        async with supervised(Pool(folder, around, program, **serve)) as pool:
            yield pool


@contextlib.asynccontextmanager
async def supervised(pool: Pool) -> AsyncIterator[Pool]:
    await pool.supervisor.start()
    try:
        yield pool
    finally:
        pool.states()
        pool.inflight.clear()
        await asyncio.wait_for(pool.supervisor.stop(), 60)
        assert pool.supervisor.replicas() == ()
        assert pool.supervisor.endpoints() == ()
        assert pool.sockets() == []
        assert not [pid for pid in pool.pids if psutil.pid_exists(pid)]


async def serves(address: str) -> bool:
    try:
        await asyncio.wait_for(build(HealthConfig(type="grpc")).run(address), 10)
    except CheckFailed:
        return False
    return True


async def test_starts_min_replicas_and_offers_them_when_they_serve(tmp_path: Path) -> None:
    async with running(tmp_path, min=2, max=4) as pool:
        assert pool.supervisor.wanted == 2
        assert pool.supervisor.endpoints() == ()
        assert set(pool.states()) <= {"starting", "backoff"}
        await pool.ready(2)
        addresses = pool.addresses()
        assert len(set(addresses)) == 2
        assert all(re.fullmatch(rf"unix:{pool.folder}/digits-[01]-[0-9a-f]{{8}}\.sock", a) for a in addresses)
        assert all([await serves(a) for a in addresses])
        assert [entry for entry in pool.log if entry[0] == "change"][-1] == ("change", addresses)
        replicas = pool.supervisor.replicas()
        assert [r.index for r in replicas] == [0, 1]
        assert [os.getpgid(r.pid) for r in replicas if r.pid] == [r.pid for r in replicas]
        assert all(r.restarts == 0 and r.last_error == "" and r.started_at for r in replicas)
    assert [entry[0] for entry in pool.log].count("exit") == 2


async def test_tcp_replicas_get_free_ports(tmp_path: Path) -> None:
    async with running(tmp_path, min=2, listen="tcp") as pool:
        await pool.ready(2)
        assert all(re.fullmatch(r"127\.0\.0\.1:[1-9]\d+", a) for a in pool.addresses())
        assert all([await serves(a) for a in pool.addresses()])
        assert pool.sockets() == []


async def test_a_killed_replica_is_out_at_once_and_comes_back_under_a_new_address(tmp_path: Path) -> None:
    async with running(tmp_path, min=2) as pool:
        await pool.ready(2)
        first, second = pool.addresses()
        victim = pool.supervisor.replicas()[0]
        pool.log.clear()
        assert victim.pid
        os.kill(victim.pid, signal.SIGKILL)
        await until(lambda: pool.log)
        # on_exit comes first, and whoever asks from within it no longer sees the endpoint
        assert pool.log[:2] == [("exit", first, [second]), ("change", [second])]
        assert not Path(first.removeprefix("unix:")).exists()
        await pool.ready(2)
        back = pool.supervisor.replicas()[0]
        assert back.address not in (first, second)
        assert (back.index, back.restarts) == (0, 1)
        assert back.last_error == "signal SIGKILL: served by a stand-in"
        assert pool.addresses() == [back.address, second]
        assert await serves(back.address or "")


async def test_a_server_that_hangs_is_killed_and_started_again(tmp_path: Path) -> None:
    async with running(tmp_path, hang_timeout="200ms", min=2) as pool:
        await pool.ready(2)
        hangs, well = pool.supervisor.replicas()
        assert hangs.pid is not None
        os.kill(hangs.pid, signal.SIGSTOP)
        await until(lambda: hangs.address not in pool.addresses(), "for the end of what hangs")
        await pool.ready(2)
        assert pool.supervisor.restarts == 1
        again, still = pool.supervisor.replicas()
        assert (again.restarts, still.pid, still.restarts) == (1, well.pid, 0)
        pool.supervisor.scale_to(0)
        await until(lambda: not pool.states(), "for their end")
        assert pool.supervisor.restarts == 1
        assert again.last_error == "it has not answered for 200ms that it serves, and was killed"


async def test_a_server_that_hangs_can_be_left_alone(tmp_path: Path) -> None:
    async with running(tmp_path, hang_timeout="0s") as pool:
        await pool.ready(1)
        # Nobody looks.
        await until(lambda: "digits/0 ready" not in {task.get_name() for task in asyncio.all_tasks()}, "for the watch")
        assert pool.states() == ["ready"]


async def test_every_exit_is_seen_under_many_kills(tmp_path: Path) -> None:
    async with running(tmp_path, min=3, crash_loop={"restarts": 1000}) as pool:
        killed: list[str] = []

        def exits() -> list[str]:
            return [entry[1] for entry in pool.log if entry[0] == "exit" and entry[1] in killed]

        for turn in range(1, 4):
            await pool.ready(3)
            killed += pool.addresses()
            for replica in pool.supervisor.replicas():
                assert replica.pid
                os.kill(replica.pid, signal.SIGKILL)
            await until(lambda n=3 * turn: len(exits()) >= n)
        await pool.ready(3)
        assert len(set(killed)) == 9
        assert sorted(exits()) == sorted(killed)


async def test_a_server_that_exits_is_retried_later_and_later_and_ends_in_a_crash_loop(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tidegate.supervisor")
    broken = tmp_path / "broken"
    broken.touch()
    async with running(
        tmp_path,
        backoff={"initial": "10ms", "max": "40ms"},
        crash_loop={"restarts": 4, "within": "60s"},
        env={"STANDIN_BROKEN": str(broken)},
    ) as pool:
        await until(lambda: "crash_loop" in pool.states())
        (replica,) = pool.supervisor.replicas()
        assert replica.restarts >= 5
        assert replica.last_error == "exit code 1: error: the model is broken"
        assert pool.log == []  # it was never an endpoint
        waits = re.findall(r"tried again in (\w+)", caplog.text)[:5]
        assert waits == ["10ms", "20ms", "40ms", "40ms", "40ms"]
        assert "digits/0: error: the model is broken" in caplog.text
        assert caplog.text.count("it fails all the time") >= 1
        # it is still tried, and serves as soon as it can
        broken.unlink()
        await pool.ready(1)
        assert await serves(pool.addresses()[0])


async def test_not_ready_in_time_is_a_failure_with_the_reason(tmp_path: Path) -> None:
    async with running(
        tmp_path, start_timeout="2s", args=["--mode", "never_ready"], crash_loop={"restarts": 99}
    ) as pool:
        # A busy machine may not even get it to listen in time at first; then the reason is that.
        expected = "not ready within 2s: status NOT_SERVING"
        await until(lambda: any(r.restarts and r.last_error == expected for r in pool.supervisor.replicas()))
        assert pool.addresses() == []


async def test_what_ignores_sigterm_is_killed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with running(tmp_path, drain_timeout="100ms", args=["--mode", "stubborn"]) as pool:
        await pool.ready(1)
    assert "does not stop, killed" in caplog.text


async def test_a_replica_that_still_starts_can_be_retired(tmp_path: Path) -> None:
    async with running(tmp_path, min=2, drain_timeout="100ms", args=["--mode", "silent"]) as pool:
        pool.supervisor.scale_to(0)  # before its process is there
        await until(lambda: not pool.states())
        pool.supervisor.scale_to(1)
        await until(lambda: all(r.pid for r in pool.supervisor.replicas()))
        assert pool.states() == ["starting"]
        pool.supervisor.scale_to(0)
        assert pool.states() == ["stopping"]
        await until(lambda: not pool.states())
        assert pool.log == []


async def test_how_the_start_goes_on(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    async with running(tmp_path, min=0, env={"STANDIN_BROKEN": str(broken)}, backoff=LONG) as pool:
        clock = MonotonicClock()
        assert pool.supervisor.next_ready().start == Start()
        pool.supervisor.scale_to(1)
        assert pool.supervisor.next_ready().start == Start()  # nothing is known of how long it takes
        await pool.ready(1)
        took = pool.supervisor.next_ready().start.takes
        assert took > 0
        pool.supervisor.scale_to(0)
        await until(lambda: pool.states() == [], "it is gone")
        assert pool.supervisor.next_ready().start == Start(takes=took)
        before = clock.now()
        pool.supervisor.scale_to(1)
        assert before + took <= pool.supervisor.next_ready().start.ready_at <= clock.now() + took
        await pool.ready(1)
        took = pool.supervisor.next_ready().start.takes
        pool.supervisor.scale_to(0)
        await until(lambda: pool.states() == [], "it is gone")
        broken.touch()
        pool.supervisor.scale_to(1)
        await until(lambda: pool.states() == ["backoff"], "it fails")
        failed = pool.supervisor.next_ready().start
        assert failed.trouble == "its model server ended before it was ready"
        assert clock.now() + 50 * SECOND < failed.ready_at < clock.now() + 61 * SECOND + took


async def test_a_server_that_was_ready_and_died_is_no_trouble(tmp_path: Path) -> None:
    async with running(tmp_path, backoff=LONG) as pool:
        await pool.ready(1)
        (replica,) = pool.supervisor.replicas()
        assert replica.pid is not None
        os.kill(replica.pid, signal.SIGKILL)
        await until(lambda: pool.states() == ["backoff"], "it is seen")
        start = pool.supervisor.next_ready().start
        assert (start.trouble, start.ready_at > MonotonicClock().now() + 50 * SECOND) == ("", True)


@pytest.mark.parametrize(
    ("serve", "trouble", "shown"),
    [
        ({"command": ["/no/such/server"]}, "its model server could not be started", "/no/such/server"),
        (
            {"command": [sys.executable, "-c", "print('the key of /srv/models is 1234'); raise SystemExit(3)"]},
            "its model server ended before it was ready",
            "exit code 3: the key of /srv/models is 1234",
        ),
        (
            {"command": [sys.executable, "-c", "print('/srv/models'); import time; time.sleep(60)"]},
            "its model server was not ready in time",
            "not ready within 1s",
        ),
    ],
    ids=["no program", "it ends", "it takes too long"],
)
async def test_clients_are_told_the_kind_of_a_failure_alone(
    tmp_path: Path, serve: dict[str, Any], trouble: str, shown: str
) -> None:
    """Not what a process has written, nor paths."""
    async with running(tmp_path, backoff=LONG, start_timeout="1s", **serve) as pool:
        await until(lambda: pool.supervisor.next_ready().start.trouble != "", "it fails", 10)
        await until(lambda: pool.states() == ["backoff"], "it is gone", 10)
        found = pool.supervisor.next_ready()
        assert found.start.trouble == trouble
        assert found.detail.startswith("none could be started (")
        assert shown in found.detail


async def test_clients_are_told_of_a_server_that_ends_again_and_again(tmp_path: Path) -> None:
    async with running(tmp_path, crash_loop={"restarts": 1, "within": "1h"}) as pool:
        for n in (1, 2):
            await until(lambda n=n: [r.restarts for r in pool.supervisor.replicas()] == [n - 1], "its start")  # type: ignore[misc]
            await pool.ready(1)
            (replica,) = pool.supervisor.replicas()
            assert replica.pid is not None
            os.kill(replica.pid, signal.SIGKILL)
            await until(lambda: pool.states() != ["ready"], "it is seen")
        assert pool.states() == ["crash_loop"]
        assert pool.supervisor.next_ready().start.trouble == "its model server ends again and again"


async def test_a_server_without_a_place_is_trouble_until_another_stops(tmp_path: Path) -> None:
    core = min(os.sched_getaffinity(0))
    with machine(cores=[core]) as around:
        (tmp_path / "b").mkdir()
        first = Pool(tmp_path, around, cores=1)
        async with supervised(first), supervised(Pool(tmp_path / "b", around, cores=1)) as second:
            await first.ready(1)
            assert second.states() == ["waiting"]
            found = second.supervisor.next_ready()
            assert found.start == Start(trouble="its model server waits for free cores")
            assert found.detail == "it waits for 1 of 1 cores, of which 1 are taken"
            told = len(second.moves)
            first.inflight[first.addresses()[0]] = 1
            first.supervisor.scale_to(0)
            assert (first.states(), second.states()) == (["draining"], ["waiting"])
            assert second.supervisor.next_ready().start == Start()
            assert second.moves[told:] == ["waiting"]
            first.inflight.clear()
            await second.ready(1)


async def test_who_is_told_of_each_step(tmp_path: Path) -> None:
    async with running(tmp_path) as pool:
        await pool.ready(1)
        assert pool.moves == ["starting", "ready"]
        pool.supervisor.scale_to(0)
        await until(lambda: pool.states() == [], "it is gone")
        assert pool.moves == ["starting", "ready", "draining", "stopping", "gone"]


async def test_scales_up_and_down(tmp_path: Path) -> None:
    async with running(tmp_path, min=1, max=4) as pool:
        await pool.ready(1)
        kept = pool.addresses()
        pool.supervisor.scale_to(3)
        assert pool.supervisor.wanted == 3
        await pool.ready(3)
        pool.supervisor.scale_to(1)
        assert pool.states() == ["ready", "draining", "draining"]
        assert pool.addresses() == kept
        await pool.ready(1)
        assert pool.addresses() == kept
        pool.supervisor.scale_to(2)
        await pool.ready(2)


async def test_a_drain_waits_for_what_is_in_flight(tmp_path: Path) -> None:
    async with running(tmp_path, min=2) as pool:
        await pool.ready(2)
        kept, leaving = pool.addresses()
        pool.inflight[leaving] = 3
        pool.log.clear()
        pool.supervisor.scale_to(1)
        assert pool.log == [("change", [kept])]  # no new requests from here on
        await asyncio.sleep(0.6)
        assert pool.states() == ["ready", "draining"]
        assert await serves(leaving)
        # a new replica takes another place meanwhile
        pool.supervisor.scale_to(2)
        await until(lambda: pool.states() == ["ready", "draining", "ready"])
        pool.inflight[leaving] = 0
        await pool.ready(2)
        assert ("exit", leaving, pool.addresses()) in pool.log
        assert [r.index for r in pool.supervisor.replicas()] == [0, 2]


async def test_a_drain_ends_with_its_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with running(tmp_path, min=2, drain_timeout="300ms") as pool:
        await pool.ready(2)
        pool.inflight[pool.addresses()[1]] = 1
        pool.supervisor.scale_to(1)
        await pool.ready(1)
        assert "digits/1: requests are still in flight after 300ms" in caplog.text


async def test_a_replica_that_dies_in_its_drain_is_not_restarted(tmp_path: Path) -> None:
    async with running(tmp_path, min=1) as pool:
        await pool.ready(1)
        (replica,) = pool.supervisor.replicas()
        pool.inflight[replica.address or ""] = 1
        pool.supervisor.scale_to(0)
        assert replica.pid
        os.kill(replica.pid, signal.SIGKILL)
        await until(lambda: not pool.states())
        assert pool.log[-1] == ("exit", replica.address, [])


async def test_the_whole_process_group_ends_with_the_server(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tidegate.supervisor")
    async with running(tmp_path, args=["--mode", "child"]) as pool:
        await pool.ready(1)
        (child,) = re.findall(r"digits/0: child (\d+)", caplog.text)
        assert psutil.pid_exists(int(child))
        (replica,) = pool.supervisor.replicas()
        assert replica.pid
        os.kill(replica.pid, signal.SIGKILL)
        await until(lambda: not psutil.pid_exists(int(child)) or psutil.Process(int(child)).status() == "zombie")


async def test_kill_ends_a_drain(tmp_path: Path) -> None:
    async with running(tmp_path, min=2) as pool:
        await pool.ready(2)
        for address in pool.addresses():
            pool.inflight[address] = 1
        stopping = asyncio.create_task(pool.supervisor.stop())
        await until(lambda: pool.states() == ["draining"] * 2)
        pool.supervisor.kill()
        await asyncio.wait_for(stopping, 30)


async def test_nothing_leaks_over_restarts(tmp_path: Path) -> None:
    async with running(tmp_path, crash_loop={"restarts": 1000}) as pool:

        async def restart() -> None:
            await pool.ready(1)
            (replica,) = pool.supervisor.replicas()
            assert replica.pid
            os.kill(replica.pid, signal.SIGKILL)
            await until(lambda: pool.supervisor.replicas()[0].restarts > replica.restarts)
            await pool.ready(1)

        await restart()
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(4):
            await restart()
        await until(lambda: len(os.listdir("/proc/self/fd")) <= before)
        assert len(pool.sockets()) == 1


async def test_a_faulty_listener_does_not_stop_the_supervisor(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("listener")

    with machine() as around:
        supervisor = Supervisor(
            "digits",
            ServeConfig(models=tmp_path, **QUICK),
            runtime_dir=tmp_path,
            on_change=fail,
            on_exit=fail,
            inflight=lambda _: 0,
            clock=MonotonicClock(),
            machine=around,
            command=standin,
        )
        await supervisor.start()
        await until(supervisor.endpoints)
        (replica,) = supervisor.replicas()
        assert replica.pid
        os.kill(replica.pid, signal.SIGKILL)
        await until(lambda: supervisor.replicas()[0].restarts == 1)
        await until(supervisor.endpoints)
        await asyncio.wait_for(supervisor.stop(), 60)
    assert "was not handled" in caplog.text


async def test_a_command_that_cannot_be_started_is_a_crash_loop(tmp_path: Path) -> None:
    async with running(tmp_path, lambda *_: ["/no/such/program"], crash_loop={"restarts": 1}) as pool:
        await until(lambda: pool.states() == ["crash_loop"])
        assert pool.supervisor.replicas()[0].last_error == "cannot start /no/such/program: No such file or directory"


async def test_a_runtime_folder_that_cannot_be_used_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder, reason in ((tmp_path / "file" / "x", "cannot make"), (tmp_path / ("x" * 100), "longer than the 107")):
        with machine() as around:
            supervisor = Supervisor(
                "digits",
                ServeConfig(models=tmp_path),
                runtime_dir=folder,
                on_change=lambda: None,
                on_exit=lambda _: None,
                inflight=lambda _: 0,
                clock=MonotonicClock(),
                machine=around,
                command=standin,
            )
            with pytest.raises(StartError, match=reason):
                await supervisor.start()
        assert supervisor.replicas() == ()


async def test_cpu_use_is_measured_per_ready_replica(tmp_path: Path) -> None:
    async with running(tmp_path, min=1, args=["--mode", "busy"]) as pool:
        assert pool.supervisor.cpu_percent() is None
        await pool.ready(1)
        await until(lambda: (pool.supervisor.cpu_percent() or 0) > 5)
        assert list(pool.supervisor.cpu()) == pool.addresses()


async def test_the_model_server_itself(tmp_path: Path) -> None:
    """`python -m backend serve` under the supervisor: ready, killed, restarted, stopped."""
    async with running(tmp_path, serve_command, models=MODELS, min=1, threads=1, start_timeout="60s") as pool:
        await pool.ready(1)
        (first,) = pool.addresses()
        (replica,) = pool.supervisor.replicas()
        assert replica.pid
        os.kill(replica.pid, signal.SIGKILL)
        await until(lambda: pool.addresses() not in ([first], []))
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(pool.addresses()[0].removeprefix("unix:"))
        (replica,) = pool.supervisor.replicas()
        assert replica.restarts == 1


async def test_the_model_server_with_a_broken_model_says_why(tmp_path: Path) -> None:
    (tmp_path / "models" / "bad" / "1").mkdir(parents=True)
    (tmp_path / "models" / "bad" / "1" / "model.onnx").write_bytes(b"not a model")
    async with running(tmp_path, serve_command, models=tmp_path / "models", threads=1) as pool:
        await until(lambda: pool.supervisor.replicas()[0].last_error)
        error = pool.supervisor.replicas()[0].last_error
        assert error.startswith("exit code 1: ")
        assert "bad" in error
