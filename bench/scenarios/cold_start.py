"""From nothing to an answer: the proxy and a model server start, and a model server dies and is replaced."""

from __future__ import annotations

import signal
import time

import psutil

from bench.bed import Bed
from bench.errors import BenchError
from bench.peers import Task
from bench.peers.base import Serve
from bench.results import Metric, Sample
from bench.scenarios import onnx_digits
from bench.scenarios.base import Scenario
from bench.scenarios.measures import Expect

SECONDS = 60.0


def measure(bed: Bed) -> Sample:
    check = Expect(onnx_digits.REQUEST, onnx_digits.right, SECONDS)
    check(bed)
    started = (time.monotonic_ns() - bed.started) / 1e9
    kill_model_server(bed)
    killed = time.monotonic_ns()
    check(bed)
    return Sample(values={"start_s": started, "replace_s": (time.monotonic_ns() - killed) / 1e9})


def kill_model_server(bed: Bed) -> None:
    """SIGKILL to the one model server. Raises BenchError if there is not exactly one."""
    try:
        servers = [process for pid in bed.proxy.pids() if "backend" in (process := psutil.Process(pid)).cmdline()]
        if len(servers) != 1:
            raise BenchError(f"there should be one model server, not {len(servers)}")
        (server,) = servers
        server.send_signal(signal.SIGKILL)
    except psutil.NoSuchProcess as gone:
        raise BenchError(f"process {gone.pid} ended before it was killed") from gone
    # One object: the supervisor may reap it at once, and the number mean nothing.
    psutil.wait_procs([server], timeout=5)


SCENARIO = Scenario(
    name="cold-start",
    title="seconds to the first right answer: from the start of everything, and after a model server was killed",
    task=Task("oip", serve=Serve("digits", 1, 1, 8.0)),
    servers={},
    measure=measure,
    metrics=(
        Metric("start_s", "s from start to answer", "lower", 2),
        Metric("replace_s", "s from kill to answer", "lower", 2),
    ),
    generators=(),
    ours_only="starts no model servers",
    max_rounds=3,
)
