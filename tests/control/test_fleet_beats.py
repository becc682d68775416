"""Heartbeats of workers, with time as an argument."""

from __future__ import annotations

import signal
from dataclasses import dataclass, field
from typing import cast

from lb.clock import ManualClock
from lb.control.workers.fleet import Fleet, FleetSettings
from lb.control.workers.fork_server import describe_exit
from lb.control.workers.process import WorkerProcess

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
    assert all(fleet.check_beats(second * SECOND) for second in range(10))
    assert not any(fleet.check_beats(second * SECOND) for second in range(10, 20))
    assert process.kills == []
    assert not fleet.check_beats(20 * SECOND)
    assert not fleet.check_beats(21 * SECOND)
    assert process.kills == [7]


async def test_what_a_master_that_stood_still_did_not_read_is_no_silence() -> None:
    fleet = Fleet(2, Segment(), FleetSettings(hang_timeout=20 * SECOND), ManualClock(), lambda: -1)
    process = Process()
    for member in fleet.members:
        member.process = cast(WorkerProcess, process)
        member.state = "running"
    fleet.check_beats(1 * SECOND)
    fleet.check_beats(3601 * SECOND)  # the heartbeats of that hour have not been read yet
    assert process.kills == []
    fleet.members[0].last_beat = 3601 * SECOND
    for second in range(3602, 3615):
        fleet.check_beats(second * SECOND)
    assert process.kills == []
    fleet.check_beats(3615 * SECOND)  # of the hour five seconds counted
    assert process.kills == [7]
    assert fleet.members[1].killed


async def test_a_starting_worker_has_longer_and_an_absent_one_is_not_waited_for() -> None:
    settings = FleetSettings(hang_timeout=1 * SECOND, start_timeout=60 * SECOND)
    fleet = Fleet(2, Segment(), settings, ManualClock(), lambda: -1)
    process = Process()
    fleet.members[0].process = cast(WorkerProcess, process)
    fleet.members[0].state = "starting"
    assert all(fleet.check_beats(second * SECOND) for second in range(30))
    for second in range(30, 61):
        fleet.check_beats(second * SECOND)
    assert process.kills == [7]
    fleet.members[0].process = None
    assert fleet.check_beats(1000 * SECOND)


def test_exits_are_described() -> None:
    assert describe_exit(3) == "exit code 3"
    assert describe_exit(-signal.SIGKILL) == "signal SIGKILL"
    assert describe_exit(-4711) == "signal 4711"
    assert describe_exit(None) == "unknown exit status"
