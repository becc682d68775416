"""Servers whose size changes with their use: over a fake pool for what is done, then over real processes."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
from machine import machine
from test_supervisor import QUICK, Pool, standin, supervised
from waiting import until

from lb.clock import ManualClock, MonotonicClock
from lb.config.schema.file import ServeConfig, VerticalConfig
from lb.config.units import MIB, MINUTE
from lb.control.servers.model_server import prepare, serve_command
from lb.control.servers.ports import Ports
from lb.control.servers.vertical import VerticalScaler
from lb.scaling.runs import UP_LOOKS, Runs


class Fake:
    """A pool of two servers that use `used` cores each."""

    def __init__(self, used: float) -> None:
        self.used = used
        self.rolling = False
        self.rolled: list[ServeConfig] = []

    def cpu(self) -> dict[str, float]:
        return {"a": 100 * self.used, "b": 100 * self.used}

    def memory(self) -> dict[str, float]:
        return {"a": 1e9, "b": 1e9}

    def roll_to(self, serve: ServeConfig) -> None:
        self.rolled.append(serve)


def scaler(pool: Fake, serve: ServeConfig, **settings: object) -> VerticalScaler:
    return VerticalScaler("p", pool, serve, VerticalConfig.model_validate({"max_cores": 8, **settings}), ManualClock())


def look(one: VerticalScaler, minutes: int) -> None:
    for minute in range(1, minutes + 1):
        one.sample(minute * MINUTE)
        one.step(minute * MINUTE)


def test_more_threads_for_servers_that_use_all(tmp_path: Path) -> None:
    pool = Fake(2.0)
    one = scaler(pool, ServeConfig(models=tmp_path, threads=2))
    look(one, 60)
    assert [serve.threads for serve in pool.rolled] == [3]
    assert pool.rolled[0].model_copy(update={"threads": 2}) == ServeConfig(models=tmp_path, threads=2)
    status = one.status()
    assert (status["cores"], status["advised"], status["dry_run"]) == (3, 3, False)
    assert status["memory"] == pytest.approx(1e9 * 1.15, rel=0.06)


def test_cores_where_servers_have_them() -> None:
    pool = Fake(2.0)
    look(scaler(pool, ServeConfig(command=["x"], cores=2)), 60)
    assert [serve.cores for serve in pool.rolled] == [3]


def test_nothing_while_servers_are_being_replaced_and_nothing_in_a_dry_run(tmp_path: Path) -> None:
    pool = Fake(2.0)
    pool.rolling = True
    look(scaler(pool, ServeConfig(models=tmp_path, threads=2)), 60)
    assert pool.rolled == []
    pool.rolling = False
    dry = scaler(pool, ServeConfig(models=tmp_path, threads=2), dry_run=True)
    look(dry, 60)
    assert pool.rolled == []
    assert (dry.status()["cores"], dry.status()["advised"]) == (2, 3)


CROWDED = Runs({4: (100, 100 * 10_000_000)}, 4, 400, 400 * 20_000_000, 1.0, 0.5)  # full runs, and a wait of two


def fitted(pool: Fake, serve: ServeConfig, runs: Runs, looks: int = UP_LOOKS, **settings: object) -> VerticalScaler:
    one = scaler(pool, serve, **settings)
    for _ in range(looks):
        one.fit(runs)
    return one


def test_a_larger_batch_and_then_more_runs_at_once(tmp_path: Path) -> None:
    pool = Fake(1.0)
    one = fitted(pool, ServeConfig(models=tmp_path, batch=4, threads=2), CROWDED, max_batch=8, max_instances=4)
    assert [(serve.batch, serve.instances) for serve in pool.rolled] == [(8, None)]
    assert (one.status()["batch"], one.status()["instances"]) == (8, 2)
    eights = Runs({8: (100, 100 * 10_000_000)}, 8, 800, 800 * 20_000_000, 2.0, 0.5)
    for _ in range(UP_LOOKS):
        one.fit(eights)
    assert [(serve.batch, serve.instances) for serve in pool.rolled[1:]] == [(8, 4)]
    assert serve_command(pool.rolled[1], "unix:/s")[-6:] == ["--threads", "2", "--max-batch", "8", "--concurrency", "4"]


def test_batches_of_a_command_are_told_in_its_place(tmp_path: Path) -> None:
    pool = Fake(1.0)
    serve = ServeConfig(command=["x", "--rows={batch}"], env={"WORKERS": "{instances}"}, batch=4, instances=1)
    fitted(pool, serve, CROWDED, max_batch=64)
    (rolled,) = pool.rolled
    started = prepare(rolled, "p", 0, tmp_path, Ports()).specification
    assert (started.command, started.environment["WORKERS"]) == (["x", "--rows=8"], "1")
    # Nobody told it its cores.
    look(scaler(pool, serve, max_batch=64), 60)
    assert len(pool.rolled) == 1


def test_batches_stay_without_a_limit_and_in_a_dry_run(tmp_path: Path) -> None:
    pool = Fake(1.0)
    serve = ServeConfig(models=tmp_path, batch=4, threads=2)
    fitted(pool, serve, CROWDED)
    one = fitted(pool, serve, CROWDED, max_batch=8, dry_run=True)
    assert pool.rolled == []
    assert one.status()["batch"] == 4


async def test_servers_are_asked_for_their_runs_where_these_may_change(tmp_path: Path) -> None:
    asked: list[float | None] = []

    async def measure(now: int, cores: float | None) -> Runs:
        asked.append(cores)
        return CROWDED

    pool = Fake(1.0)
    serve = ServeConfig(models=tmp_path, batch=4, threads=2)
    config = VerticalConfig.model_validate({"interval": "100ms", "max_batch": 8, "max_cores": 2, "min_cores": 2})
    one = VerticalScaler("p", pool, serve, config, ManualClock(), measure)
    one.start()
    await until(lambda: bool(pool.rolled), "the third look")
    await one.stop()
    assert (asked[0], pool.rolled[0].batch) == (0.5, 8)


async def test_a_fault_is_logged_and_the_next_round_comes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Faulty(Fake):
        def cpu(self) -> dict[str, float]:
            raise RuntimeError("no")

    one = scaler(Faulty(1.0), ServeConfig(models=tmp_path, threads=1), interval="100ms")
    one.start()
    await until(lambda: caplog.text.count("could not decide on the size") >= 2)
    await one.stop()


class Loaded:
    """A real pool whose servers use as many cores as they have threads."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.fewest = 99
        self.most = 0

    @property
    def rolling(self) -> bool:
        return self._pool.supervisor.rolling

    def cpu(self) -> dict[str, float]:
        self.fewest = min(self.fewest, len(self._pool.addresses()))
        self.most = max(self.most, len(self._pool.supervisor.replicas()))
        return dict.fromkeys(self._pool.addresses(), 100.0)

    def memory(self) -> dict[str, float]:
        return dict(self._pool.supervisor.memory())

    def roll_to(self, serve: ServeConfig) -> None:
        self._pool.supervisor.roll_to(serve)


class FastClock(MonotonicClock):
    """100 ms are 20 minutes."""

    def now(self) -> int:
        return super().now() * 12_000


async def test_servers_with_more_threads_take_the_place_of_others_one_at_a_time(tmp_path: Path) -> None:
    def program(serve: ServeConfig, listen: str) -> list[str]:
        return [*standin(serve, listen), f"--threads={serve.threads}"]

    with machine() as around:
        pool = Pool(tmp_path, around, program, min=3, threads=1)
        async with supervised(pool):
            await pool.ready(3)
            before = pool.addresses()
            serve = ServeConfig(models=tmp_path, threads=1, **QUICK)
            settings = VerticalConfig.model_validate({"interval": "100ms", "max_cores": 2})
            target = Loaded(pool)
            one = VerticalScaler("digits", target, serve, settings, FastClock())
            one.start()
            await until(lambda: one.status()["cores"] == 2, "for the decision")
            await until(lambda: not pool.supervisor.rolling and pool.states() == ["ready"] * 3)
            await one.stop()
            assert not set(before) & set(pool.addresses())
            commands = [psutil.Process(r.pid).cmdline() for r in pool.supervisor.replicas() if r.pid]
            assert all("--threads=2" in command for command in commands)
            assert (target.fewest, target.most <= 4) == (3, True)
            assert one.status()["memory"] >= 250 * MIB
            assert pool.supervisor.restarts == 0
