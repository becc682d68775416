from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from lb.scaling.cpu import MIN_INTERVAL, CpuMeter, families, resident


@pytest.mark.slow
def test_a_busy_process_is_told_from_an_idle_one_and_a_gone_one_is_left_out() -> None:
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    idle = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    pids = {"busy": busy.pid, "idle": idle.pid}
    meter = CpuMeter()
    try:
        begun = time.monotonic_ns()
        assert meter.read(pids, begun) == {}
        use = {"busy": 0.0}
        deadline = time.monotonic() + 60
        while use.get("busy", 0.0) < 10:
            assert time.monotonic() < deadline
            time.sleep(0.05)
            use = meter.read(pids, time.monotonic_ns())
        assert use["idle"] < use["busy"]
        assert use["busy"] < 150
    finally:
        for process in (busy, idle):
            process.kill()
            process.wait()
    assert meter.read(pids, time.monotonic_ns() + MIN_INTERVAL) == {}


def test_readers_in_between_get_the_last_value() -> None:
    meter = CpuMeter()
    me = {"me": os.getpid()}
    meter.read(me, 0)
    first = meter.read(me, MIN_INTERVAL)
    assert set(first) == {"me"}
    assert meter.read(me, MIN_INTERVAL + 1) == first
    assert meter.read({}, MIN_INTERVAL + 2) == {}
    assert meter.read(me, MIN_INTERVAL + 3) == {}  # forgotten, so it begins anew


CHILD = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "while True: pass"])
print(child.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.slow
def test_what_a_process_has_started_counts_with_it_where_that_is_asked_for() -> None:
    parent = subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE, text=True)
    try:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert families([parent.pid]) == {parent.pid: [parent.pid, child]}
        alone, together = CpuMeter(), CpuMeter(families=True)
        deadline = time.monotonic() + 60
        use = 0.0
        while use < 10:
            assert time.monotonic() < deadline
            time.sleep(0.05)
            use = together.read({"p": parent.pid}, time.monotonic_ns()).get("p", 0.0)
            assert alone.read({"p": parent.pid}, time.monotonic_ns()).get("p", 0.0) < 10
        one, both = resident([parent.pid]), resident([parent.pid, child])
        assert one is not None
        assert both is not None
        assert both > one
    finally:
        os.kill(child, signal.SIGKILL)
        parent.kill()
        parent.communicate()
    assert resident([parent.pid, child]) is None
