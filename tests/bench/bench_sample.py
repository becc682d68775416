"""A believable result of the suite, made by code: every kind of scenario, subject and raw sample that there is."""

from __future__ import annotations

import copy
import functools
import math
import random
from collections.abc import Callable
from typing import Any

from hdrh.histogram import HdrHistogram

from bench.results import Limit, Metric, Outcome, Results, Sample, Subject

LOAD_METRICS = (
    Metric("cpu_us", "CPU µs/request", "lower", 2),
    Metric("rps", "requests/s", "higher"),
    Metric("p99_us", "p99 µs", "lower"),
    Metric("failed", "failed requests", "lower", ratio=False),
)
ATTACK = "<script>alert('boom')</script> | *bold* & \"quoted\""


def encoded(values: list[int]) -> str:
    """An HDR histogram of latencies in µs, in the form that a result keeps."""
    histogram = HdrHistogram(1, 3_600_000_000, 3)
    for value in values:
        histogram.record_value(value)
    text: bytes = histogram.encode()
    return text.decode()


def latencies(middle: float, count: int, seed: int, stall: int = 0) -> list[int]:
    """Lognormal around `middle` µs; one in a hundred waits up to `stall` µs more."""
    rng = random.Random(seed)
    values = [max(1, int(rng.lognormvariate(math.log(middle), 0.4))) for _ in range(count)]
    return [v + rng.randrange(stall) if stall and rng.random() < 0.01 else v for v in values]


def raw(middle: float, seed: int, stall: int = 0) -> dict[str, Any]:
    sweep = []
    for share in (0.2, 0.4, 0.6, 0.8, 0.95):
        values = latencies(middle / (1.02 - share), 400, seed, stall)
        failed = 40 if share > 0.9 and stall else 0
        sweep.append({"rate": 20_000 * share, "latency": encoded(values), "failed": failed, "sent": 400})
    return {"latency": encoded(latencies(middle, 2000, seed, stall)), "rate": 8000.0, "sweep": sweep}


def series(lag: float, seed: int) -> dict[str, Any]:
    """A step of load at 4 s that a server count follows `lag` seconds later."""
    rng = random.Random(seed)
    bins = 120
    sent = [60 if i < 40 else 240 for i in range(bins)]
    short = [40 <= i < 40 + lag * 10 for i in range(bins)]
    failed = [int(90 * rng.uniform(0.8, 1.2)) if s else 0 for s in short]
    return {
        "series": {
            "bin_s": 0.1,
            "sent": sent,
            "completed": [int((a - b) * rng.uniform(0.95, 1.0)) for a, b in zip(sent, failed, strict=True)],
            "failed": failed,
            "max_us": [int(rng.uniform(8e3, 1.6e4) * (40 if s else 1)) for s in short],
            "servers": [1 if i < 40 else min(6, 1 + int((i - 40) / (lag * 3 + 1))) for i in range(bins)],
        }
    }


def subject(
    name: str, cpu: float, runs: int = 5, more: Callable[[int], dict[str, Any]] | None = None, **other: str
) -> Subject:
    rng = random.Random(name)
    samples = []
    for number in range(1, runs + 1):
        value = cpu * rng.uniform(0.95, 1.05)
        values = {"cpu_us": value, "rps": 9e5 / value, "p99_us": value * 50, "failed": float(rng.randrange(3))}
        samples.append(Sample(values, raw=more(number) if more else {}, round=number))
    return Subject(config=f"# {name}\nlisten <port> & serve\n", samples=samples, **other)


def load_outcome(
    scenario: str, title: str, cpu: dict[str, float], limits: tuple[Limit, ...], runs: int = 5, note: str = ""
) -> Outcome:
    def more(name: str) -> Callable[[int], dict[str, Any]]:
        return lambda number: raw(cpu[name] * 9, number + len(name), 9000 * (name == "nginx"))

    subjects = {name: subject(name, value, runs, more(name)) for name, value in cpu.items()}
    return Outcome(scenario, subjects=subjects, title=title, metrics=LOAD_METRICS, limits=limits, note=note)


def sample_results(runs: int = 5) -> Results:
    """Tidegate is ahead, even and behind; one peer cannot, one failed, one run is doubtful. A copy, free to change."""
    return copy.deepcopy(_sample_results(runs))


@functools.cache
def _sample_results(runs: int) -> Results:
    http1 = load_outcome(
        "proxy-http1",
        "HTTP/1.1 to HTTP/1.1, small JSON answer, 32 connections",
        {"tidegate": 14.9, "haproxy": 18.5, "nginx": 17.0, "envoy": 44.0, "varnish": 31.0},
        (Limit(1.0, ("haproxy", "nginx")),),
        runs,
    )
    http1.subjects["tidegate"].samples[0].warnings.append("other programs were busy on these cores")
    oip = load_outcome(
        "oip-binary-4k",
        "binary inference request, 4 KiB tensor",
        {"tidegate": 23.0, "haproxy": 18.0, "envoy": 40.0},
        (Limit(1.2, ("haproxy",)),),
        runs,
        "Tidegate turns the request into gRPC, the peers pass the same bytes on as HTTP/1.1.",
    )
    oip.subjects["nginx"] = Subject(config="x", failed=ATTACK)
    tcp = load_outcome(
        "tcp-small",
        "TCP relay of small requests",
        {"tidegate": 14.0, "haproxy": 14.1},
        (Limit(1.1, ("haproxy",)), Limit(1.2, ("haproxy", "nginx", "envoy"), "rps"), Limit(0, metric="failed")),
        runs,
    )
    tcp.subjects["varnish"] = Subject(cannot="it speaks HTTP only")
    scale = Outcome(
        "autoscale-trace",
        subjects={
            "tidegate": Subject(samples=[Sample({"lost": 1.2}, raw=series(1, n), round=n) for n in range(1, runs + 1)]),
            "nginx": Subject(samples=[Sample({"lost": 9.0}, raw=series(4, n), round=n) for n in range(1, runs + 1)]),
            "envoy": Subject(cannot="it does not start servers"),
        },
        title="a step in load that needs more model servers",
        metrics=(Metric("lost", "requests lost %", "lower", 1),),
    )
    idle = Outcome(
        "idle-connections",
        subjects={
            name: Subject(samples=[Sample({"pss_bytes": size}, round=1)])
            for name, size in {"tidegate": 1075.0, "haproxy": 1053.0, "nginx": 530.0}.items()
        },
        title="memory of an idle keep-alive connection",
        metrics=(Metric("pss_bytes", "PSS bytes/connection", "lower"),),
        limits=(Limit(8192),),
    )
    return Results(
        started="2030-01-02T03:04:05+00:00",
        commit="0123456789ab",
        machine={
            "cpu": "Example CPU <X>",
            "cpus": 2,
            "proxy_core": 0,
            "load_cores": [1],
            "memory_bytes": 8 << 30,
            "kernel": "6.12",
            "system": "Debian GNU/Linux 13",
            "architecture": "x86_64",
            "work_file_system": "tmpfs",
        },
        versions={"tidegate": "0.1.0", "haproxy": "3.0.11", "nginx": "1.26.3", "envoy": "1.40.0", "varnish": "7.7.0"},
        options={"runs": runs, "duration": 2, "warmup": 1},
        skipped={"traefik": "not installed"},
        outcomes=[http1, oip, tcp, scale, idle],
        seconds=432.0,
    )
