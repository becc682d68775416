"""The order of runs: every proxy once, then all again, so that whatever drifts on the machine touches all alike."""

from __future__ import annotations

import logging
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
from bench.generator import Generator
from bench.machine import Cores
from bench.peers import OURS, PROXIES
from bench.processes import require
from bench.results import Outcome, Results, Sample, Subject
from bench.scenarios import Scenario

log = logging.getLogger("tidegate.bench")

Progress = Callable[[Scenario, str, int, Sample | str], None]


def run(
    scenarios: Sequence[Scenario], peers: Sequence[str], rounds: int, timing: Timing, progress: Progress
) -> Results:
    """Measures Tidegate and `peers` in `scenarios`; `progress` is told each sample, or the reason there is none.

    Raises BenchError if nothing can be measured at all. A proxy that fails in a scenario is recorded and dropped there.
    """
    require("taskset", "util-linux")
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
        versions={**versions, **_generators(scenarios)},
        options={"runs": rounds, **asdict(timing), "scenarios": [s.name for s in scenarios], "peers": list(peers)},
        skipped={n: f"not installed ({PROXIES[n].install})" for n in known.keys() - versions.keys()},
    )
    with on_load_cores(cores):
        for scenario in scenarios:
            outcome = scenario.outcome(versions)
            results.outcomes.append(outcome)
            _rounds(scenario, outcome, min(rounds, scenario.max_rounds), cores, timing, connections, progress)
    results.seconds = time.monotonic() - began
    return results


def _rounds(
    scenario: Scenario,
    outcome: Outcome,
    rounds: int,
    cores: Cores,
    timing: Timing,
    connections: int,
    progress: Progress,
) -> None:
    for number in range(1, rounds + 1):
        for name, subject in outcome.subjects.items():
            if not (subject.cannot or subject.failed):
                found = once(scenario, name, subject, number, cores, timing, connections)
                progress(scenario, name, number, found)


def once(
    scenario: Scenario, name: str, subject: Subject, number: int, cores: Cores, timing: Timing, connections: int
) -> Sample | str:
    """One run of one row, entered into `subject`; returns the sample, or why there is none."""
    try:
        row = scenario.row(name)
        proxy, task = PROXIES[row.proxy], row.task
        server = None if task.serve else scenario.server_for(proxy.upstream(task))
        with lay(proxy, task, server, cores, timing, connections, number) as bed:
            subject.config = bed.config
            sample = scenario.measure(bed)
    except Cannot as reason:
        subject.cannot = str(reason)
        return f"cannot: {reason}"
    except BenchError as error:
        subject.failed = str(error)
        return f"failed: {error}"
    except Exception as error:  # a fault of the bench's own must not cost the half hour measured before
        log.exception("%s, %s: the bench failed", scenario.name, name)
        subject.failed = f"a fault of the bench: {error!r}"
        return f"failed: {subject.failed}"
    sample.round = number
    subject.samples.append(sample)
    return sample


def _generators(scenarios: Sequence[Scenario]) -> dict[str, str]:
    """The versions of the load generators. Raises BenchError for one that is missing."""
    needed: dict[str, Generator] = {g.name: g for scenario in scenarios for g in scenario.generators}
    versions = {name: generator.version() for name, generator in needed.items()}
    if missing := [name for name, version in versions.items() if version is None]:
        raise BenchError(f"a load generator is missing: {', '.join(missing)}; `make bench` installs what is needed")
    return {name: version for name, version in versions.items() if version is not None}


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
