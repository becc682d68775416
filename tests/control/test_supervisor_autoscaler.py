"""The autoscaler over a fake pool for what it decides, and over real processes for the whole way."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import pytest
from machine import machine
from msgspec.structs import replace
from waiting import until

from lb.clock import ManualClock, MonotonicClock
from lb.config.schema.file import ScalingConfig, ServeConfig
from lb.control.servers.autoscaler import Autoscaler
from lb.control.servers.replica import Machine, Replica
from lb.control.servers.scaling_memory import ScalingMemory
from lb.control.servers.signals import Source
from lb.control.servers.supervisor import Supervisor
from lb.control.servers.traffic import Counts
from lb.scaling import registry
from lb.scaling.plan import plan
from lb.scaling.rules.ray import Ray
from lb.scaling.scaler import Decision, Look

SECOND = 1_000_000_000
NOWHERE = ScalingMemory("digits", None)
STANDIN = Path(__file__).with_name("standin_model_server.py")


def settings(**more: Any) -> ScalingConfig:
    return ScalingConfig.model_validate({"metrics": [{"type": "in_flight", "target": 2}], **more})


class FakePool:
    """Replicas that are ready at once, unless `slow`."""

    def __init__(self, wanted: int) -> None:
        self.list: list[Replica] = []
        self.use: dict[str, float] = {}
        self.inflight: dict[str, float] = {}
        self.waiting = 0
        self.counts: Counts | None = None
        self.start_time: int | None = None
        self.memory = NOWHERE
        self.calls: list[int] = []
        self.slow = False
        self.wanted = 0
        self.scale_to(wanted)
        self.calls.clear()

    def scale_to(self, n: int) -> None:
        self.calls.append(n)
        self.wanted = n
        state = "starting" if self.slow else "ready"
        self.list = self.list[:n] + [
            Replica(i, 100 + i, f"unix:/{i}", state, 0, 0, "") for i in range(len(self.list), n)
        ]

    def replicas(self) -> list[Replica]:
        return self.list

    def load(self, total: float) -> None:
        self.inflight = {r.address or "": total / len(self.list) for r in self.list}

    def scaler(self, config: ScalingConfig, low: int = 1, high: int = 10) -> Autoscaler:
        source = Source(
            inflight=lambda address: self.inflight.get(address, 0),  # type: ignore[arg-type,return-value]
            waiting=lambda: self.waiting,
            counts=lambda: self.counts,
            pids=dict,
            cpu=lambda: self.use,
            memory=dict,
            report=lambda _: (0.0, 0),
        )
        return Autoscaler("digits", self, config, (low, high), source, self.memory, ManualClock())


def test_scales_and_says_why(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tidegate.scaling")
    pool = FakePool(2)
    scaler = pool.scaler(settings())
    pool.load(12)
    scaler.sample(15 * SECOND)
    decision = scaler.step(15 * SECOND)
    assert (decision.replicas, pool.wanted, pool.calls) == (6, 6, [6])
    assert caplog.messages == ["pool digits: scaled from 2 to 6: in_flight 6 per replica, target 2: 6"]
    status = scaler.status()
    assert status["metrics"] == {"in_flight": {"target": 2.0, "average": 6.0, "replicas": 6}}
    assert status["events"] == [{"at": 15 * SECOND, "from": 2, "to": 6, "reason": decision.reason}]
    assert (status["wanted"], status["decisions"], status["scaled_up"], status["scaled_down"]) == (6, 1, 1, 0)


def test_the_mean_of_an_interval_counts_and_not_its_last_moment() -> None:
    pool = FakePool(2)
    scaler = pool.scaler(settings())
    for total in (8, 8, 8, 0):
        pool.load(total)
        scaler.sample(15 * SECOND)
    assert scaler.step(15 * SECOND).detail["in_flight"]["average"] == 3.0
    pool.load(4)
    scaler.sample(30 * SECOND)
    # Nothing is left of the first.
    assert scaler.step(30 * SECOND).detail["in_flight"]["average"] == pytest.approx(4 / 3)


def test_no_scaling_without_a_reading() -> None:
    pool = FakePool(3)
    pool.list = [replace(r, state="starting") for r in pool.list]
    scaler = pool.scaler(settings(down={"window": "0s"}))
    scaler.sample(15 * SECOND)
    assert scaler.step(15 * SECOND).reason == "in_flight is missing"
    assert pool.calls == []


@pytest.mark.parametrize(
    ("waiting", "schedules", "replicas"),
    [(0, [], 0), (3, [], 4), (0, [{"from": "2020-01-01", "until": "2120-01-01", "min": 2}], 2)],
    ids=["nobody", "requests", "a schedule"],
)
def test_what_a_rule_holds_starts_nothing_at_zero(
    waiting: int, schedules: list[dict[str, Any]], replicas: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It went to zero for want of requests while the rule, of which windows are longer than that, wants four."""

    class Holder(Ray):
        def __init__(self, settings: ScalingConfig) -> None:
            super().__init__(settings.ray)

        def see(self, look: Look) -> None:
            self.last = look

        def decide(self, now: int) -> Decision:
            return plan(self.last, 4, 4, "four")

    monkeypatch.setitem(registry.RULES, "ray", Holder)
    pool = FakePool(0)
    scaler = pool.scaler(ScalingConfig.model_validate({"rule": "ray", "schedules": schedules}), 0)
    pool.counts = Counts(0, 0, 0, 0, {})
    scaler.sample(SECOND)
    pool.waiting = waiting
    pool.counts = Counts(0, 0, 0, waiting, {})
    scaler.sample(2 * SECOND)
    decision = scaler.step(2 * SECOND)
    assert (decision.replicas, pool.wanted) == (replicas, replicas)
    assert decision.reason.endswith("; at zero without a request") == (waiting == 0)
    # Where there are some, it is the rule's business.
    pool.scale_to(1)
    scaler.sample(3 * SECOND)
    assert scaler.step(3 * SECOND).replicas == 4


def test_another_rule_takes_over() -> None:
    pool = FakePool(2)
    scaler = pool.scaler(settings())
    assert scaler.status()["rule"] == "hpa"
    scaler.reconfigure(ScalingConfig.model_validate({"rule": "ray"}), 1, 4)
    pool.counts = Counts(0, 0, 0, 8, {})
    scaler.sample(15 * SECOND)
    scaler.step(15 * SECOND)
    assert (scaler.status()["rule"], pool.wanted) == ("ray", 2)
    for second in range(16, 47):
        scaler.sample(second * SECOND)
        scaler.step(second * SECOND)
    assert pool.wanted == 4  # 8 requests, 2 for each


def test_a_schedule_gives_a_floor() -> None:
    pool = FakePool(2)
    scaler = pool.scaler(settings(schedules=[{"from": "2020-01-01", "min": 5}]))
    assert scaler.floor == 0  # not looked yet
    scaler.sample(15 * SECOND)
    assert scaler.step(15 * SECOND).replicas == 5
    assert scaler.floor == 5
    scaler.reconfigure(settings(), 1, 10)
    assert scaler.floor == 0


def test_replicas_that_start_damp_the_next_step() -> None:
    pool = FakePool(2)
    pool.slow = True
    scaler = pool.scaler(settings(), high=20)
    pool.load(10)
    for _ in range(2):
        scaler.sample(15 * SECOND)
        scaler.step(15 * SECOND)
        assert pool.wanted == 5  # 10 in flight over 5, three of which are not there yet


def test_draining_and_broken_replicas_are_not_measured() -> None:
    pool = FakePool(3)
    pool.load(6)
    pool.list[1] = replace(pool.list[1], state="crash_loop", address=None)
    pool.list.append(Replica(3, 9, "unix:/3", "draining", 0, 0, ""))
    pool.inflight["unix:/3"] = 1000
    scaler = pool.scaler(settings())
    scaler.sample(15 * SECOND)
    assert scaler.step(15 * SECOND).detail["in_flight"]["average"] == 2.0


def test_cpu_and_in_flight_together() -> None:
    config = settings(
        metrics=[{"type": "in_flight", "target": 2}, {"type": "cpu", "target": 50}], down={"window": "0s"}
    )
    pool = FakePool(4)
    scaler = pool.scaler(config)
    pool.load(1)
    scaler.sample(15 * SECOND)
    assert scaler.step(15 * SECOND).replicas == 4  # cpu is missing: nothing is removed
    pool.use = {r.address or "": 25.0 for r in pool.list}
    scaler.sample(30 * SECOND)
    assert scaler.step(30 * SECOND).replicas == 2
    pool.use = {r.address or "": 200.0 for r in pool.list}
    scaler.sample(45 * SECOND)
    assert scaler.step(45 * SECOND).replicas == 6  # 8 wanted, 4 more allowed in 15 s


def test_other_limits_hold_from_the_next_decision_on() -> None:
    pool = FakePool(5)
    scaler = pool.scaler(settings())
    scaler.reconfigure(settings(), 1, 3)
    scaler.sample(15 * SECOND)
    assert scaler.step(15 * SECOND).replicas == 3


def test_those_who_wait_are_load() -> None:
    pool = FakePool(2)
    scaler = pool.scaler(settings())
    pool.load(4)  # as many as the endpoints may have
    pool.waiting = 6
    scaler.sample(15 * SECOND)
    decision = scaler.step(15 * SECOND)
    assert decision.replicas == 5  # (4 + 6) / 2 of each, target 2
    assert scaler.status()["metrics"]["in_flight"]["average"] == 5


def test_it_explains_what_the_last_decision_was_made_of() -> None:
    pool = FakePool(2)
    scaler = pool.scaler(settings())
    found = scaler.explain(0)
    assert (found["reason"], found["decided_s_ago"], found["signals"]) == ("no decision yet", None, {})
    pool.load(12)
    pool.start_time = 4 * SECOND
    pool.counts = Counts(100, 0, 0, 0, {})
    scaler.sample(14 * SECOND)
    pool.counts = Counts(110, 1, 0, 0, {})
    scaler.sample(15 * SECOND)
    scaler.step(15 * SECOND)
    found = scaler.explain(18 * SECOND)
    assert (found["rule"], found["wanted"], found["ready"], found["min"], found["max"]) == ("hpa", 6, 2, 1, 10)
    assert (found["decided_s_ago"], found["start_time_s"], found["interval_s"]) == (3.0, 4.0, 15.0)
    assert found["recommenders"] == {"in_flight": {"target": 2.0, "average": 6.0, "replicas": 6}}
    assert found["signals"]["in_flight"] == {"average": 6.0, "missing": 0, "unready": 0}
    assert found["traffic"]["requests_per_second"] == 11.0
    assert [(e["s_ago"], e["from"], e["to"]) for e in found["events"]] == [(3.0, 2, 6)]
    assert found["memory"] is None


class Learner(Ray):
    """Counts its decisions, over restarts."""

    def __init__(self, settings: ScalingConfig) -> None:
        super().__init__(settings.ray)
        self.decisions = 0

    def decide(self, now: int) -> Decision:
        self.decisions += 1
        return super().decide(now)

    def learned(self) -> dict[str, Any]:
        return {"decisions": self.decisions}

    def memory(self) -> bytes:
        return b"%d" % self.decisions

    def restore(self, memory: bytes) -> None:
        if self._settings.target_ongoing_requests == 7:
            raise ValueError("seven is another thing")
        self.decisions = int(memory)


async def test_what_is_learned_survives_a_restart_and_other_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(registry.RULES, "ray", Learner)
    config = ScalingConfig.model_validate({"rule": "ray"})

    def started() -> Autoscaler:
        pool = FakePool(2)
        pool.memory = ScalingMemory("digits", tmp_path)
        scaler = pool.scaler(config)
        scaler.start()
        return scaler

    scaler = started()
    for second in (1, 2, 3):
        scaler.sample(second * SECOND)
        scaler.step(second * SECOND)
    await scaler.stop()
    scaler = started()
    assert scaler.status()["learned"] == {"decisions": 3}
    scaler.reconfigure(ScalingConfig.model_validate({"ray": {"target_ongoing_requests": 5}}), 1, 4)
    assert scaler.status()["learned"] == {"decisions": 3}
    scaler.reconfigure(ScalingConfig.model_validate({"ray": {"target_ongoing_requests": 7}}), 1, 4)
    assert scaler.status()["learned"] == {"decisions": 0}
    scaler.reconfigure(settings(), 1, 4)
    assert scaler.status()["rule"] == "hpa"
    await scaler.stop()


async def test_a_failing_measure_leaves_the_pool_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    pool = FakePool(2)
    calls = []

    def inflight(address: str) -> int:
        calls.append(address)
        raise RuntimeError("no segment")

    source = Source(inflight, lambda: 0, lambda: None, dict, dict, dict, lambda _: (0.0, 0))
    scaler = Autoscaler("digits", pool, settings(interval="100ms"), (1, 4), source, NOWHERE, MonotonicClock())
    scaler.start()
    await until(lambda: len(calls) > 5)
    await scaler.stop()
    await scaler.stop()
    assert pool.calls == []
    assert "could not decide" in caplog.text


async def test_rising_load_adds_model_servers_and_falling_load_removes_them(tmp_path: Path) -> None:
    with machine() as around:
        await scaled_by_load(tmp_path, around)


async def scaled_by_load(tmp_path: Path, around: Machine) -> None:
    load = {"total": 0}

    def inflight(address: str) -> int:
        endpoints = supervisor.endpoints()
        return load["total"] // len(endpoints) if any(e.address == address for e in endpoints) else 0

    supervisor = Supervisor(
        "digits",
        ServeConfig(models=tmp_path, min=1, max=3),
        runtime_dir=tmp_path / "run",
        on_change=lambda: None,
        on_exit=lambda _: None,
        inflight=inflight,
        clock=MonotonicClock(),
        machine=around,
        command=lambda serve, listen: [sys.executable, str(STANDIN), "--listen", listen],
    )
    config = settings(
        interval="200ms", down={"window": "1s", "policies": [{"type": "replicas", "value": 1, "period": "1s"}]}
    )
    source = Source(
        inflight, lambda: 0, lambda: None, supervisor.pids, supervisor.cpu, supervisor.memory, lambda _: (0.0, 0)
    )
    scaler = Autoscaler("digits", supervisor, config, (1, 3), source, NOWHERE, MonotonicClock())
    await supervisor.start()
    scaler.start()
    await until(lambda: len(supervisor.endpoints()) == 1)
    load["total"] = 20
    await until(lambda: len(supervisor.endpoints()) == 3)
    load["total"] = 0
    await until(lambda: len(supervisor.replicas()) == 1)
    assert [e["to"] for e in scaler.status()["events"]] == [3, 2, 1]
    await scaler.stop()
    await supervisor.stop()
    assert list((tmp_path / "run").iterdir()) == []
