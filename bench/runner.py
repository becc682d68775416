"""The order of runs: every proxy once, then all again, so that whatever drifts on the machine touches all alike."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from bench import machine
from bench.bed import Timing, lay
from bench.errors import BenchError, Cannot
from bench.machine import Cores
from bench.peers import OURS, PROXIES, Proxy
from bench.peers.base import version_of
from bench.processes import require
from bench.results import Outcome, Results, Sample, Subject
from bench.scenarios import Scenario

Progress = Callable[[Scenario, str, int, Sample | str], None]


def run(
    scenarios: Sequence[Scenario], peers: Sequence[str], rounds: int, timing: Timing, progress: Progress
) -> Results:
    """Measures Tidegate and `peers` in `scenarios`; `progress` is told each sample, or the reason there is none.

    Raises BenchError if nothing can be measured at all. A proxy that fails in a scenario is recorded and dropped there.
    """
    require("taskset", "util-linux")
    wrk = version_of([require("wrk", "wrk"), "-v"], r"wrk \S*?([\d.][\w.-]*)") or "unknown"
    require("nginx", "nginx-light")  # the server behind the proxies
    cores = machine.split_cores()
    connections = machine.connection_limit(machine.raise_descriptor_limit())
    began = time.monotonic()
    known = {name: PROXIES[name].version() for name in (OURS, *peers)}
    versions = {name: version for name, version in known.items() if version is not None}
    results = Results(
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        commit=commit(),
        machine=machine.describe(cores),
        versions={**versions, "wrk": wrk},
        options={"runs": rounds, **asdict(timing), "scenarios": [s.name for s in scenarios], "peers": list(peers)},
        skipped={n: f"not installed (apt-get install {PROXIES[n].package})" for n in known.keys() - versions.keys()},
    )
    with on_load_cores(cores):
        for scenario in scenarios:
            outcome = Outcome(
                scenario.name,
                {name: Subject() for name in versions},
                title=scenario.title,
                metrics=scenario.metrics,
                limit=scenario.limit,
                note=scenario.note,
            )
            results.outcomes.append(outcome)
            for number in range(1, min(rounds, scenario.max_rounds) + 1):
                for name, subject in outcome.subjects.items():
                    if not (subject.cannot or subject.failed):
                        found = once(scenario, PROXIES[name], subject, number, cores, timing, connections)
                        progress(scenario, name, number, found)
    results.seconds = time.monotonic() - began
    return results


def once(
    scenario: Scenario, proxy: Proxy, subject: Subject, number: int, cores: Cores, timing: Timing, connections: int
) -> Sample | str:
    """One run of one proxy, entered into `subject`; returns the sample, or why there is none."""
    server = scenario.servers[proxy.upstream(scenario.job)]
    try:
        with lay(proxy, scenario.job, server, cores, timing, connections) as bed:
            subject.config = bed.config
            sample = scenario.measure(bed)
    except Cannot as reason:
        subject.cannot = str(reason)
        return f"cannot: {reason}"
    except BenchError as error:
        subject.failed = str(error)
        return f"failed: {error}"
    sample.round = number
    subject.samples.append(sample)
    return sample


@contextmanager
def on_load_cores(cores: Cores) -> Iterator[None]:
    """Keeps this program itself off the proxy's core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores.load)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def commit() -> str:
    """The checked-out revision, with `-dirty` for changes; "" where the source is no repository."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
