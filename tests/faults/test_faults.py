"""One of four model servers dies, freezes, stalls, slows down, errs, resets or flaps under load: nobody notices.

The figures of docs/reliability.md are what `pytest tests/faults -rP` prints.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from daemon import Daemon, eventually
from fault_site import FAULT, Victim, config, load, victims

from bench.emulator.control import ClearNow, FailNow, SlowNow, StallNow

Start = Callable[[dict[str, Any]], Daemon]
Break = Callable[[Victim], None]

POOL: dict[str, Any] = {
    "policy": "least_request",
    "outlier": {"consecutive_5xx": 5, "base_ejection_time": "500ms", "interval": "500ms"},
}
ROUTE: dict[str, Any] = {
    "retry": {
        "attempts": 3,
        "on": ["connect", "reset", "5xx", "timeout", "unavailable"],
        "per_attempt_timeout": "150ms",
        "budget": 50,
    }
}
HEDGE: dict[str, Any] = {"after": "20ms", "budget": 50}
MOST_MS = 2200.0  # that an answer may take: nobody waits for the end of a fault, which lasts longer


def killed(victim: Victim) -> None:
    victim.kill()
    time.sleep(FAULT[1])
    victim.start()


def flapping(victim: Victim) -> None:
    for _ in range(4):
        victim.kill()
        time.sleep(0.1)
        victim.start()
        time.sleep(0.2)


def frozen(victim: Victim) -> None:
    """Its kernel goes on taking connections and bytes, the process does nothing with them."""
    victim.send(signal.SIGSTOP)
    time.sleep(FAULT[1])
    victim.send(signal.SIGCONT)


def stalling(victim: Victim) -> None:
    victim.control.plan(StallNow())
    time.sleep(FAULT[1])
    victim.control.plan(ClearNow())


def slow(victim: Victim) -> None:
    victim.control.plan(SlowNow(20))
    time.sleep(FAULT[1])
    victim.control.plan(ClearNow())


def erring(victim: Victim) -> None:
    victim.control.plan(FailNow(how="unavailable"))
    time.sleep(FAULT[1])
    victim.control.plan(ClearNow())


def resetting(victim: Victim) -> None:
    victim.control.plan(FailNow(how="reset"))
    time.sleep(FAULT[1])
    victim.control.plan(ClearNow())


def all_up(daemon: Daemon) -> bool:
    return all(e["health"] == "up" for pool in daemon.status()["pools"] for e in pool["endpoints"])


@pytest.mark.parametrize(
    ("fault", "hedged"),
    [(fault, False) for fault in (killed, flapping, frozen, stalling, slow, erring, resetting)]
    + [(fault, True) for fault in (frozen, slow)],
)
def test_clients_notice_nothing(fault: Break, hedged: bool, start: Start, tmp_path: Path) -> None:
    with victims(tmp_path, 4) as servers:
        daemon = start(config(servers, POOL, {**ROUTE, "hedge": HEDGE} if hedged else ROUTE))
        eventually(lambda: all_up(daemon), "all endpoints")

        def during() -> None:
            time.sleep(FAULT[0])
            fault(servers[1])

        found = load(tmp_path, daemon.port(), during)
        for kind, clients in found.items():
            what = f"{fault.__name__}{', hedged' if hedged else ''} | {kind}"
            noticed = sum(clients.noticed.values())
            print(f"| {what} | {clients.answers:,} | {noticed} | {clients.p99:.0f} | {clients.worst:.0f} |")
        assert {kind: clients.noticed for kind, clients in found.items()} == {kind: {} for kind in found}
        assert max(clients.worst for clients in found.values()) < MOST_MS
        eventually(lambda: all_up(daemon), "its return")
        eventually(lambda: daemon.in_flight() == 0, "the end of all exchanges")
