"""A pool's traffic and signals from its counters."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace
from waiting import until

from lb.clock import MonotonicClock
from lb.config.schema.file import SignalConfig
from lb.control.servers.gpus import GpuSignals
from lb.control.servers.polled import Polled
from lb.control.servers.signals import Latencies, Signals, Source, quantile_of
from lb.control.servers.traffic import Counts, EndpointCounts, TrafficMeter
from lb.scaling.gpu import GpuMeter, GpuUnavailable
from lb.scaling.scaler import Traffic
from lb.shared.words import BOUNDS_US

SECOND = 1_000_000_000
MILLISECOND = 1_000_000


BUCKETS = len(BOUNDS_US) + 1


def durations(over: int, bucket: int = 10) -> tuple[int, ...]:
    """So many in one bucket of the histogram; 10 is from 15 to 25 ms."""
    return tuple(over if i == bucket else 0 for i in range(BUCKETS))


def counts(dispatched: int = 0, refused: int = 0, waited: int = 0, waiting: int = 0, **endpoints: Any) -> Counts:
    found = {name: EndpointCounts(durations(over), *row) for name, (over, *row) in endpoints.items()}
    return Counts(dispatched, refused, waited, waiting, found)


def test_the_first_look_knows_of_no_span() -> None:
    meter = TrafficMeter()
    assert meter.look(counts(a=(5, 0, 0, 1)), SECOND) is None
    assert meter.look(counts(a=(5, 0, 0, 1)), SECOND) is None  # nor one at the same moment


def test_what_came_between_two_looks() -> None:
    meter = TrafficMeter()
    meter.look(counts(100, 3, 50, 2, a=(90, 1, 900 * MILLISECOND, 4), b=(5, 0, 50 * MILLISECOND, 0)), SECOND)
    traffic = meter.look(
        counts(140, 5, 80, 6, a=(110, 2, 1100 * MILLISECOND, 2), b=(20, 0, 200 * MILLISECOND, 2)), 3 * SECOND
    )
    assert traffic is not None
    assert (traffic.span, traffic.arrived) == (2 * SECOND, 40 + 2 + 4)  # sent, given up, and four more who wait
    assert (traffic.answered, traffic.failed, traffic.refused) == (34, 1, 2)
    assert (traffic.waited, traffic.served) == (30, 350 * MILLISECOND)
    assert (traffic.in_flight, traffic.waiting) == (4.0, 4.0)


def test_endpoints_come_and_go() -> None:
    meter = TrafficMeter()
    meter.look(counts(10, a=(10, 0, 100, 0), b=(7, 0, 70, 3)), SECOND)
    traffic = meter.look(counts(15, a=(12, 0, 120, 1), c=(3, 1, 30, 0)), 2 * SECOND)
    assert traffic is not None
    assert (traffic.answered, traffic.failed, traffic.served) == (4, 1, 50)
    traffic = meter.look(counts(15, a=(1, 0, 10, 0)), 3 * SECOND)  # another one at the same address
    assert traffic is not None
    assert (traffic.answered, traffic.served) == (1, 10)


def test_nothing_is_known_while_nothing_is_counted() -> None:
    meter = TrafficMeter()
    meter.look(counts(10), SECOND)
    assert meter.look(None, 2 * SECOND) is None
    assert meter.look(counts(20), 3 * SECOND) is None  # since when?
    assert meter.look(counts(21), 4 * SECOND) is not None
    assert meter.look(counts(3), 5 * SECOND) is None  # another pool of the same name


class Pool:
    def __init__(self) -> None:
        self.inflight = {"a": 3, "b": 1}
        self.cpu: Mapping[str, float] = {"a": 50.0}
        self.pids: dict[str, int] = {}
        self.memory: dict[str, float] = {}
        self.reports: dict[str, tuple[float, int]] = {}
        self.waiting = 4
        self.counts: Counts | None = None
        self.whole: Callable[[Traffic], Traffic | None] = lambda own: own
        self.jobs: float | None = None

    def signals(self, *asked: str | dict[str, Any]) -> Signals:
        source = Source(
            lambda a: self.inflight.get(a, 0),
            lambda: self.waiting,
            lambda: self.counts,
            lambda: self.pids,
            lambda: self.cpu,
            lambda: self.memory,
            lambda a: self.reports.get(a, (0.0, 0)),
            whole=lambda own: self.whole(own),
            jobs=lambda: self.jobs,
        )
        wanted = [SignalConfig.model_validate({"type": a} if isinstance(a, str) else a) for a in asked]
        return Signals(source, wanted, MonotonicClock())


def test_readings_of_the_replicas_that_are_ready() -> None:
    pool = Pool()
    traffic, readings = pool.signals("cpu").read(["a", "b"], 1, SECOND)
    assert traffic is None
    assert (readings["in_flight"].values, readings["in_flight"].unready) == ((5.0, 3.0), 1)
    assert (readings["cpu"].values, readings["cpu"].missing) == ((50.0,), 1)
    assert set(readings) == {"in_flight", "cpu"}  # the others are missing, not 0


def test_each_replica_has_its_share_of_the_jobs() -> None:
    pool = Pool()
    signals = pool.signals("jobs")
    assert "jobs" not in signals.read(["a", "b"], 0, SECOND)[1]  # not known is not 0
    pool.jobs = 6.0
    assert signals.read(["a", "b"], 0, 2 * SECOND)[1]["jobs"].values == (3.0, 3.0)


def test_readings_of_the_traffic() -> None:
    pool = Pool()
    signals = pool.signals()
    pool.counts = counts(0, waiting=4)
    signals.read(["a", "b"], 0, SECOND)
    pool.counts = counts(10, waited=2 * SECOND, waiting=4)
    readings = signals.read(["a", "b"], 0, 3 * SECOND)[1]
    assert readings["requests_per_second"].values == (2.5, 2.5)
    assert readings["queue_length"].values == (2.0, 2.0)
    assert readings["queue_wait"].values == pytest.approx((0.2, 0.2))


def test_those_who_wait_for_nobody_wait_longer_and_longer() -> None:
    pool = Pool()
    signals = pool.signals()
    pool.counts = counts(0, waiting=10)
    signals.read(["a"], 0, SECOND)
    pool.counts = counts(0, waiting=20)  # nobody got anywhere
    assert signals.read(["a"], 0, 2 * SECOND)[1]["queue_wait"].values == (1.5,)


def test_a_pool_without_replicas_has_traffic_only() -> None:
    pool = Pool()
    signals = pool.signals()
    pool.counts = counts(0)
    signals.read([], 2, SECOND)
    pool.counts = counts(0, waiting=3)
    traffic, readings = signals.read([], 2, 2 * SECOND)
    assert readings == {}
    assert traffic is not None
    assert traffic.arrived == 3


def test_daemons_that_share_a_pool_have_one_traffic() -> None:
    pool = Pool()
    signals = pool.signals()
    pool.whole = lambda own: replace(own, arrived=own.arrived + 30, waiting=own.waiting + 6)
    pool.counts = counts(0)
    signals.read(["a", "b"], 0, SECOND)
    pool.counts = counts(10)
    traffic, readings = signals.read(["a", "b"], 0, 2 * SECOND)
    assert traffic is not None
    assert (traffic.arrived, traffic.waiting) == (40, 6)
    assert readings["requests_per_second"].values == (20.0, 20.0)
    pool.whole = lambda own: None  # one of them has not been heard of
    traffic, readings = signals.read(["a", "b"], 0, 3 * SECOND)
    assert traffic is None
    assert "requests_per_second" not in readings


def test_what_nobody_asked_for_is_not_read() -> None:
    pool = Pool()
    readings = pool.signals().read(["a"], 0, SECOND)[1]
    assert set(readings) == {"in_flight"}


def test_a_replica_without_a_value_is_missing() -> None:
    pool = Pool()
    pool.memory = {"a": 2.0e9}
    reading = pool.signals("memory").read(["a", "b"], 0, SECOND)[1]["memory"]
    assert (reading.values, reading.missing) == ((2.0e9,), 1)


def test_load_reports_count_while_they_are_fresh() -> None:
    pool = Pool()
    pool.reports = {"a": (0.75, 90 * SECOND), "b": (0.5, 80 * SECOND)}
    reading = pool.signals("utilization").read(["a", "b", "c"], 0, 100 * SECOND)[1]["utilization"]
    assert (reading.values, reading.missing) == ((0.75,), 2)


class TestLatency:
    def test_the_quantile_of_the_last_seconds(self) -> None:
        pool = Pool()
        signals = pool.signals("latency", {"type": "latency", "quantile": 0.5})
        pool.counts = counts(0, a=(0, 0, 0, 0))
        signals.read(["a"], 0, SECOND)
        pool.counts = counts(100, a=(100, 0, 0, 0))
        readings = signals.read(["a"], 0, 2 * SECOND)[1]
        assert readings["latency_p95"].values == pytest.approx((0.0245,))  # from 15 to 25 ms
        assert readings["latency_p50"].values == pytest.approx((0.02,))
        assert signals.read(["a"], 0, 3 * SECOND)[1]["latency_p95"].values == pytest.approx((0.0245,))
        assert signals.read(["a"], 0, 30 * SECOND)[1]["latency_p95"].values == (0.0,)  # nothing to do

    def test_what_nothing_has_come_of_is_missing(self) -> None:
        latencies = Latencies()
        latencies.add((0,) * BUCKETS, SECOND)
        assert latencies.quantile(0.9, Traffic(SECOND, in_flight=2)) is None
        assert latencies.quantile(0.9, Traffic(SECOND, waiting=2)) is None
        assert latencies.quantile(0.9, Traffic(SECOND)) == 0.0
        assert latencies.quantile(0.9, None) is None

    @pytest.mark.parametrize(
        ("rows", "part", "seconds"),
        [
            ({0: 10}, 0.5, 0.00005),
            ({0: 10, 10: 10}, 0.5, 0.0001),
            ({0: 10, 10: 10}, 0.75, 0.02),
            ({BUCKETS - 1: 1}, 0.5, 60.0),  # longer than the last bound
            ({0: 1}, 0.999, 0.0000999),
        ],
    )
    def test_quantiles_of_a_histogram(self, rows: dict[int, int], part: float, seconds: float) -> None:
        assert quantile_of([rows.get(i, 0) for i in range(BUCKETS)], part) == pytest.approx(seconds)


class FakeGpu:
    """As much of pynvml as is used: two devices, busy for 80 and 20 percent."""

    class NVMLError(Exception):
        pass

    def __init__(self) -> None:
        self.processes: dict[int, list[SimpleNamespace]] = {0: [], 1: []}
        self.broken = False

    def nvmlDeviceGetCount(self) -> int:
        if self.broken:
            raise self.NVMLError("GPU is lost")
        return 2

    def nvmlDeviceGetHandleByIndex(self, i: int) -> int:
        return i

    def nvmlDeviceGetUtilizationRates(self, device: int) -> SimpleNamespace:
        return SimpleNamespace(gpu=(80, 20)[device], memory=0)

    def nvmlDeviceGetComputeRunningProcesses(self, device: int) -> list[SimpleNamespace]:
        return self.processes[device]


class TestGpu:
    def test_use_by_process(self) -> None:
        gpu = FakeGpu()
        gpu.processes = {
            0: [SimpleNamespace(pid=7, usedGpuMemory=100), SimpleNamespace(pid=8, usedGpuMemory=None)],
            1: [SimpleNamespace(pid=7, usedGpuMemory=50)],
        }
        assert GpuMeter(lambda: gpu).read({"a": [6, 7], "b": [8], "c": [9]}) == {"a": (50.0, 150), "b": (80.0, 0)}

    def test_a_gpu_that_fails(self) -> None:
        gpu = FakeGpu()
        gpu.broken = True
        meter = GpuMeter(lambda: gpu)
        with pytest.raises(GpuUnavailable, match="GPU is lost"):
            meter.read({"a": [7]})
        gpu.broken = False
        gpu.processes[0] = [SimpleNamespace(pid=7, usedGpuMemory=1)]
        assert meter.read({"a": [7]}) == {"a": (80.0, 1)}

    async def test_a_machine_without_one_is_told_once(self, caplog: pytest.LogCaptureFixture) -> None:
        def load() -> Any:
            raise GpuUnavailable("NVML: Shared Library Not Found")

        clock = MonotonicClock()
        measure = Polled("gpu", GpuSignals(dict, GpuMeter(load)).ask, clock, 10_000_000)
        measure.start()
        await until(lambda: measure.describe(clock.now())["error"] == "NVML: Shared Library Not Found")
        await asyncio.sleep(0.05)
        await measure.stop()
        assert caplog.messages == ["gpu is missing: NVML: Shared Library Not Found"]
        assert measure.value(clock.now()) is None

    async def test_it_is_read_beside_the_loop(self, monkeypatch: pytest.MonkeyPatch) -> None:
        gpu = FakeGpu()
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        gpu.processes[0] = [SimpleNamespace(pid=child.pid, usedGpuMemory=1 << 30)]
        monkeypatch.setattr("lb.control.servers.gpus.GpuMeter", lambda: GpuMeter(lambda: gpu))
        pool, clock = Pool(), MonotonicClock()
        pool.pids = {"a": os.getpid()}
        signals = pool.signals("gpu", "gpu_memory")
        assert "gpu" not in signals.read(["a"], 0, clock.now())[1]
        signals.start()
        await until(lambda: "gpu" in signals.read(["a"], 0, clock.now())[1])
        readings = signals.read(["a", "b"], 0, clock.now())[1]
        assert (readings["gpu"].values, readings["gpu"].missing) == ((80.0,), 1)
        assert readings["gpu_memory"].values == (float(1 << 30),)
        assert signals.describe(clock.now())["gpu"]["error"] is None
        signals.follow([])
        assert signals.describe(clock.now()) == {}
        await signals.stop()
        child.kill()
        child.wait()
