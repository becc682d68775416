"""Heartbeats of workers, with time as an argument."""

from __future__ import annotations

import signal
from dataclasses import dataclass, field
from typing import cast

from lb.clock import ManualClock
from lb.control.fleet import Fleet, FleetSettings
from lb.control.process import WorkerProcess, describe_exit

SECOND = 1_000_000_000


@dataclass
class Process:
    pid: int = 7
    kills: list[int] = field(default_factory=list)

    def kill(self) -> None:
        self.kills.append(self.pid)


@dataclass
class Segment:
    fd: int = -1

    def clear_worker(self, worker: int) -> list[tuple[int, int, int]]:
        return []

    def forget(self, lost: list[tuple[int, int]]) -> None: ...


async def test_a_silent_worker_stops_the_watchdog_and_is_killed_once() -> None:
    fleet = Fleet(2, Segment(), FleetSettings(hang_timeout=20 * SECOND), ManualClock(), lambda: -1)
    process = Process()
    fleet.members[0].process = cast(WorkerProcess, process)
    fleet.members[0].state = "running"
    assert fleet.check_beats(9 * SECOND)
    assert not fleet.check_beats(10 * SECOND)
    assert process.kills == []
    assert not fleet.check_beats(20 * SECOND)
    assert not fleet.check_beats(21 * SECOND)
    assert process.kills == [7]


async def test_a_starting_worker_has_longer_and_an_absent_one_is_not_waited_for() -> None:
    settings = FleetSettings(hang_timeout=1 * SECOND, start_timeout=60 * SECOND)
    fleet = Fleet(2, Segment(), settings, ManualClock(), lambda: -1)
    process = Process()
    fleet.members[0].process = cast(WorkerProcess, process)
    fleet.members[0].state = "starting"
    assert fleet.check_beats(29 * SECOND)
    fleet.check_beats(60 * SECOND)
    assert process.kills == [7]
    fleet.members[0].process = None
    assert fleet.check_beats(1000 * SECOND)


def test_exits_are_described() -> None:
    assert describe_exit(3) == "exit code 3"
    assert describe_exit(-signal.SIGKILL) == "signal SIGKILL"
    assert describe_exit(-4711) == "signal 4711"
