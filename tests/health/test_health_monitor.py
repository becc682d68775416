from __future__ import annotations

import asyncio
import logging
import os
import random
import re
import resource
import socket
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import uvloop
from health_servers import NOT_SERVING, SERVING, grpc_server
from waiting import until

from lb.clock import MonotonicClock
from lb.config.schema.file import HealthConfig
from lb.health.check import CheckFailed, Means
from lb.health.checks.tls import CheckTls
from lb.health.monitor import HealthMonitor, Target, interval_of
from lb.health.rise_fall import RiseFall, State

FAST = {"interval": "10ms", "timeout": "5s", "rise": 2, "fall": 3}


def target(address: str, slot: int = 0, **health: Any) -> Target:
    return Target("pool", address, slot, HealthConfig(**{"type": "tcp", **FAST, **health}))


class Scripted:
    """A check whose answers the test sets; it records how many of one address run at once."""

    def __init__(self) -> None:
        self.answers: dict[str, str | BaseException | None] = {}
        self.runs: Counter[str] = Counter()
        self.running: Counter[str] = Counter()
        self.most = 0
        self.gate: asyncio.Event | None = None
        self.models: dict[str, bool] | None = None

    def __call__(self, config: HealthConfig, tls: CheckTls | None, means: Means) -> Scripted:
        return self

    async def run(self, address: str) -> dict[str, bool] | None:
        self.runs[address] += 1
        self.running[address] += 1
        self.most = max(self.most, self.running[address])
        try:
            if self.gate:
                await self.gate.wait()
            answer = self.answers.get(address)
            if isinstance(answer, BaseException):
                raise answer
            if answer is not None:
                raise CheckFailed(answer)
            return self.models
        finally:
            self.running[address] -= 1


class Harness:
    def __init__(self) -> None:
        self.check = Scripted()
        self.changes: list[tuple[str, bool, str]] = []
        self.monitor = HealthMonitor(self.changed, MonotonicClock(), random.Random(1), self.check)

    def changed(self, target: Target, up: bool, reason: str) -> None:
        self.changes.append((target.address, up, reason))

    def state(self, address: str) -> dict[str, Any]:
        return self.monitor.status()["pool"][address]


@pytest.fixture
async def harness():
    harness = Harness()
    yield harness
    await harness.monitor.close()
    assert not [t for t in asyncio.all_tasks() if t.get_name().startswith("health ")]


async def test_reports_each_transition_once_with_its_reason(harness: Harness, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tidegate.health")
    harness.monitor.update([target("a:1")])
    await until(lambda: harness.check.runs["a:1"])
    harness.check.answers["a:1"] = "status 503"
    await until(lambda: harness.check.runs["a:1"] > 6)
    assert harness.changes == [("a:1", False, "status 503")]
    harness.check.answers["a:1"] = None
    await until(lambda: len(harness.changes) > 1)
    runs = harness.check.runs["a:1"]
    await until(lambda: harness.check.runs["a:1"] > runs + 3)
    assert [(a, up) for a, up, _ in harness.changes] == [("a:1", False), ("a:1", True)]
    lines = [r.getMessage() for r in caplog.records if r.name == "tidegate.health"]
    assert lines == [
        "pool pool: endpoint a:1 is down: 3 checks failed, the last: status 503",
        "pool pool: endpoint a:1 is up: 2 checks passed",
    ]


async def test_the_first_check_is_sent_at_once_and_decides(harness: Harness) -> None:
    """With nothing but hours to the next one."""
    settings = {"interval": "1h", "fast_interval": None, "down_interval": "10ms", "rise": 4, "fall": 9}
    harness.check.answers = {"bad:1": "Connection refused"}
    good, bad = target("good:1", 0, **settings), target("bad:1", 1, **settings)
    harness.monitor.update([good, bad])
    await until(lambda: harness.changes)
    assert harness.changes == [("bad:1", False, "Connection refused")]
    assert harness.state("good:1")["checks"] == 1
    harness.check.answers.clear()
    runs = harness.check.runs["bad:1"]
    await until(lambda: len(harness.changes) == 2)
    assert harness.changes[1][:2] == ("bad:1", True)
    assert harness.check.runs["bad:1"] - runs <= 2, "one is enough as long as it was never up"


async def test_after_its_first_good_check_an_endpoint_has_its_thresholds(harness: Harness) -> None:
    harness.monitor.update([target("a:1", fall=5, rise=3)])
    await until(lambda: harness.check.runs["a:1"] > 1)
    harness.check.answers["a:1"] = "ill"
    failed = harness.state("a:1")["failures"]
    await until(lambda: harness.changes)
    assert harness.state("a:1")["failures"] - failed >= 5
    harness.check.answers["a:1"] = None
    passed = harness.check.runs["a:1"]
    await until(lambda: len(harness.changes) == 2)
    assert harness.check.runs["a:1"] - passed >= 3


async def test_who_waits_for_first_checks_goes_on_with_the_last_of_them(harness: Harness) -> None:
    settings = {"interval": "1h"}
    targets = [target("good:1", 0, **settings), target("bad:1", 1, **settings), target("down:1", 2, initial="down")]
    harness.check.answers["bad:1"] = "ill"
    harness.check.gate = asyncio.Event()
    assert harness.monitor.begin(targets) == targets
    waiting = asyncio.create_task(harness.monitor.wait_first(targets, 60))
    await until(lambda: len(harness.check.runs) == 3)
    assert not waiting.done()
    harness.check.gate.set()
    await waiting
    assert [change[:2] for change in harness.changes if change[0] == "bad:1"] == [("bad:1", False)]
    assert harness.monitor.begin(targets) == [], "they are known"
    await harness.monitor.wait_first(targets, 60)


async def test_the_wait_for_first_checks_is_bounded(harness: Harness) -> None:
    harness.check.gate = asyncio.Event()
    slow = target("a:1")
    harness.monitor.begin([slow])
    await harness.monitor.wait_first([slow], 0.05)
    assert harness.state("a:1")["state"] == "up"
    assert harness.state("a:1")["checks"] == 0


async def test_first_checks_of_many_are_not_sent_in_one_burst(harness: Harness) -> None:
    targets = [target(f"a:{i}", i, interval="1h") for i in range(300)]
    harness.check.gate = asyncio.Event()
    harness.monitor.update(targets)
    await asyncio.sleep(0.02)
    assert len(harness.check.runs) < 300
    await until(lambda: len(harness.check.runs) == 300)
    harness.check.gate.set()
    await until(lambda: sum(harness.check.running.values()) == 0)
    await asyncio.sleep(0.05)
    assert sum(harness.check.runs.values()) < 305, "the second ones are spread over the interval"


async def test_initial_down_needs_rise_passes(harness: Harness) -> None:
    harness.monitor.update([target("a:1", initial="down", rise=4)])
    assert harness.state("a:1")["state"] == "down"
    await until(lambda: harness.changes)
    assert harness.changes[0][:2] == ("a:1", True)
    assert harness.check.runs["a:1"] >= 4


async def test_begins_with_what_an_endpoint_is_taken_for_already() -> None:
    check, changes = Scripted(), []
    monitor = HealthMonitor(
        lambda target, up, reason: changes.append((target.address, up)),
        MonotonicClock(),
        random.Random(1),
        check,
        believed=lambda target: target.address == "serving:1",
    )
    check.answers["serving:1"] = "Connection refused"
    monitor.update([target("serving:1", initial="down"), target("gone:1", slot=1, initial="up")])
    await until(lambda: len(changes) == 2)
    await monitor.close()
    assert sorted(changes) == [("gone:1", True), ("serving:1", False)]


async def test_a_reason_is_fit_for_a_terminal_and_bounded(harness: Harness) -> None:
    harness.check.answers["a:1"] = "INTERNAL: \x1b[31m\n" + "x" * 9000
    harness.monitor.update([target("a:1")])
    await until(lambda: harness.changes)
    reason = harness.changes[0][2]
    assert reason.startswith("INTERNAL: ?[31m?xxx")
    assert len(reason) <= 500


async def test_update_adds_removes_and_keeps(harness: Harness) -> None:
    harness.check.answers = {"a:1": "ill", "b:1": "ill"}
    harness.monitor.update([target("a:1"), target("b:1", slot=1)])
    await until(lambda: len(harness.changes) == 2)
    harness.monitor.update([target("a:1"), target("c:1", slot=2)])
    assert set(harness.monitor.status()["pool"]) == {"a:1", "c:1"}
    assert harness.state("a:1")["state"] == "down"
    runs = harness.check.runs["b:1"]
    checks = harness.state("a:1")["checks"]
    await until(lambda: harness.state("a:1")["checks"] > checks + 3)
    assert harness.check.runs["b:1"] == runs
    assert len(harness.changes) == 2


async def test_new_settings_keep_the_state(harness: Harness) -> None:
    harness.monitor.update([target("a:1")])
    await until(lambda: harness.check.runs["a:1"])
    harness.check.answers["a:1"] = "ill"
    await until(lambda: harness.changes)
    harness.check.answers["a:1"] = None
    harness.monitor.update([target("a:1", rise=3)])
    assert harness.state("a:1")["state"] == "down"
    await until(lambda: len(harness.changes) == 2)
    assert harness.changes[1] == ("a:1", True, "3 checks passed")


async def test_another_slot_is_another_endpoint(harness: Harness) -> None:
    harness.check.answers["a:1"] = "ill"
    harness.monitor.update([target("a:1", slot=4)])
    await until(lambda: harness.changes)
    harness.monitor.update([target("a:1", slot=5)])
    assert harness.state("a:1")["state"] == "up"
    await until(lambda: len(harness.changes) == 2)


async def test_checks_of_one_endpoint_never_overlap(harness: Harness) -> None:
    harness.check.gate = asyncio.Event()
    harness.monitor.update([target("a:1")])
    await until(lambda: harness.check.running["a:1"])
    await asyncio.sleep(0.1)  # ten intervals
    assert harness.check.runs["a:1"] == 1
    harness.check.gate.set()
    await until(lambda: harness.check.runs["a:1"] > 5)
    assert harness.check.most == 1


async def test_a_stalled_check_fails_with_the_timeout_as_reason(harness: Harness) -> None:
    harness.check.gate = asyncio.Event()
    harness.monitor.update([target("a:1", timeout="20ms", fall=1)])
    await until(lambda: harness.changes)
    assert harness.changes == [("a:1", False, "no answer within 0.02s")]


async def test_a_defect_of_a_check_is_a_failure_with_a_reason(harness: Harness) -> None:
    harness.check.answers["a:1"] = ZeroDivisionError("oops")
    harness.monitor.update([target("a:1")])
    await until(lambda: harness.changes)
    assert harness.changes == [("a:1", False, "ZeroDivisionError: oops")]


async def test_a_defect_of_the_listener_does_not_stop_the_checks(caplog: pytest.LogCaptureFixture) -> None:
    check = Scripted()

    def broken(target: Target, up: bool, reason: str) -> None:
        raise RuntimeError("listener")

    monitor = HealthMonitor(broken, MonotonicClock(), random.Random(1), check)
    monitor.update([target("a:1", initial="down")])
    await until(lambda: monitor.status()["pool"]["a:1"]["state"] == "up")
    runs = check.runs["a:1"]
    await until(lambda: check.runs["a:1"] > runs + 3)
    await monitor.close()
    assert "was not handled" in caplog.text


def test_the_interval_follows_the_state() -> None:
    health = HealthConfig(type="tcp", interval="4s", fast_interval="1s", down_interval="30s", rise=2, fall=2)
    plain = HealthConfig(type="tcp", interval="4s", rise=2, fall=2)
    machine = RiseFall(2, 2, State.UP, 0)
    seen = []
    for ok in (True, False, True, False, False, False, True, False, True, True):
        machine.observe(ok, 0)
        seen.append(interval_of(health, machine) // 1_000_000_000)
        assert interval_of(plain, machine) == 4_000_000_000
    #               good  bad  good  bad down bad good bad good up
    assert seen == [4, 1, 4, 1, 30, 30, 1, 30, 1, 4]


async def test_checks_come_faster_while_an_endpoint_changes(harness: Harness) -> None:
    harness.check.answers["a:1"] = "ill"
    harness.monitor.update(
        [
            target(
                "a:1",
                interval="1h",
                fast_interval="10ms",
                initial="down",
                jitter=0,
                rise=5,
                fall=5,
                down_interval="10ms",
            )
        ]
    )
    await until(lambda: harness.check.runs["a:1"] > 3)
    harness.check.answers["a:1"] = None
    await until(lambda: harness.changes)
    runs = harness.check.runs["a:1"]
    await asyncio.sleep(0.1)
    assert harness.check.runs["a:1"] == runs, "steady again: the next check is an hour away"


async def test_models_are_told_after_good_checks_and_before_the_endpoint_comes_up() -> None:
    told: list[Any] = []
    check = Scripted()
    check.models = {"m": False}
    monitor = HealthMonitor(
        lambda t, up, _: told.append(up),
        MonotonicClock(),
        random.Random(1),
        check,
        lambda t, m, begun: told.append(dict(m)),
    )
    monitor.update([target("a:1", initial="down", rise=2)])
    await until(lambda: True in told)
    assert told[: told.index(True) + 1] == [{"m": False}, {"m": False}, True]
    check.answers["a:1"] = "ill"
    await until(lambda: False in told)
    models = told.count({"m": False})
    runs = check.runs["a:1"]
    await until(lambda: check.runs["a:1"] > runs + 3)
    assert told.count({"m": False}) == models
    await monitor.close()


async def test_a_port_of_its_own_is_asked(harness: Harness) -> None:
    harness.monitor.update([target("127.0.0.1:8001", port=8000), target("[::1]:8001", 1, port=8000)])
    await until(lambda: harness.check.runs["127.0.0.1:8000"] and harness.check.runs["[::1]:8000"])
    assert set(harness.monitor.status()["pool"]) == {"127.0.0.1:8001", "[::1]:8001"}


async def test_close_ends_running_checks_and_may_be_called_again() -> None:
    harness = Harness()
    harness.check.gate = asyncio.Event()
    harness.monitor.update([target(f"a:{i}", slot=i) for i in range(1, 50)])
    await until(lambda: sum(harness.check.running.values()) == 49)
    await harness.monitor.close()
    assert sum(harness.check.running.values()) == 0
    assert harness.monitor.status() == {}
    await harness.monitor.close()


async def watch_real_servers(folder: Path) -> None:
    changes: list[tuple[str, bool]] = []
    monitor = HealthMonitor(lambda t, up, _: changes.append((t.pool, up)), MonotonicClock(), random.Random(2))

    async with grpc_server(socket.AF_UNIX, folder, {"": SERVING}) as (address, servicer):
        everything = [
            Target(kind, address, i, HealthConfig(type=kind, initial="down", **FAST))
            for i, kind in enumerate(("grpc", "tcp"))
        ]
        monitor.update(everything)
        await until(lambda: len(changes) == 2)
        before = len(os.listdir("/proc/self/fd"))
        assert servicer
        await servicer.set("", NOT_SERVING)
        await until(lambda: len(changes) == 3)
        await servicer.set("", SERVING)
        await until(lambda: len(changes) == 4)
        assert changes[2:] == [("grpc", False), ("grpc", True)]
        await until(lambda: len(os.listdir("/proc/self/fd")) <= before)
    await until(lambda: len(changes) == 6)
    assert set(changes[4:]) == {("grpc", False), ("tcp", False)}
    await monitor.close()


def test_with_real_servers_on_uvloop(tmp_path: Path) -> None:
    uvloop.run(asyncio.wait_for(watch_real_servers(tmp_path), 60))


async def test_a_check_that_could_not_be_made_says_nothing_of_the_endpoint(caplog: pytest.LogCaptureFixture) -> None:
    """As when the daemon has no descriptor left: with the endpoints down, nobody would be served at all."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    changes: list[bool] = []
    with socket.create_server(("127.0.0.1", 0), backlog=1000) as server, caplog.at_level(logging.ERROR, "tidegate"):
        watched = target(f"127.0.0.1:{server.getsockname()[1]}", rise=1)
        monitor = HealthMonitor(lambda _, up, __: changes.append(up), MonotonicClock())
        monitor.update([watched])
        status = lambda: monitor.status()["pool"][watched.address]  # noqa: E731
        await until(lambda: status()["checks"])
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        try:
            await until(lambda: "Too many open files" in status()["last"]["reason"])
            checks = status()["checks"]
            tried = {status()["last"]["at"]}
            # More of them than make an endpoint that fails a check be down.
            await until(lambda: tried.add(status()["last"]["at"]) or len(tried) > 5)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert (status()["checks"], status()["state"]) == (checks, "up")
        await until(lambda: status()["checks"] > checks)
        assert changes == []
        assert caplog.text.count("health checks cannot be made") == 1
        await monitor.close()


class Served:
    """Requests that an endpoint answers while its checks are not answered."""

    def __init__(self, check: Scripted) -> None:
        self.requests = 0
        self.more = 1
        self.changes: list[bool] = []
        self.monitor = HealthMonitor(
            lambda target, up, reason: self.changes.append(up), MonotonicClock(), random.Random(1), check,
            answered=self.count,
        )  # fmt: skip

    def count(self, target: Target) -> int:
        self.requests += self.more
        return self.requests

    @property
    def row(self) -> dict[str, Any]:
        return self.monitor.status()["pool"]["a:1"]


async def test_a_check_that_times_out_does_not_count_while_requests_are_answered(
    caplog: pytest.LogCaptureFixture,
) -> None:
    check = Scripted()
    served = Served(check)
    served.monitor.update([target("a:1", timeout="5ms", fall=2)])
    await until(lambda: served.row["checks"])
    check.gate = asyncio.Event()
    await until(lambda: served.row["overruled"] > 5)
    assert served.changes == []
    assert served.row["state"] == "up"
    assert served.row["last"]["ok"] is False
    assert re.fullmatch(
        r"no answer within 0\.005s, but \d requests were answered: not counted", served.row["last"]["reason"]
    )
    said = [r.getMessage() for r in caplog.records if "stays up" in r.getMessage()]
    assert len(said) == 1, "once for all of them"
    assert said[0].startswith("pool pool: endpoint a:1 stays up: its check had no answer within 0.005s, but ")
    served.more = 0  # nobody is answered any more: now it counts
    await until(lambda: served.changes == [False])
    assert served.monitor.doubtful("pool", "a:1", 0)
    served.more = 1
    overruled = served.row["overruled"]
    checks = served.row["checks"]
    await until(lambda: served.row["checks"] > checks + 3)
    assert served.row["overruled"] == overruled, "answers do not bring it up"
    check.gate = None
    await until(lambda: served.changes == [False, True])
    await served.monitor.close()


@pytest.mark.parametrize("wrong", ["Connection refused", "status 503"])
async def test_a_wrong_answer_counts_whatever_requests_say(wrong: str) -> None:
    check = Scripted()
    served = Served(check)
    check.answers["a:1"] = wrong
    served.monitor.update([target("a:1")])
    await until(lambda: served.changes == [False])
    assert served.row["overruled"] == 0
    assert not served.monitor.doubtful("pool", "a:1", 0)
    await served.monitor.close()
