from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from lb.scaling.cpu import MIN_INTERVAL, CpuMeter


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
