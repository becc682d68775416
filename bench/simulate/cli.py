"""`tidegate bench simulate`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from rich.console import Console

from bench.errors import BenchError
from bench.simulate.daemon import mapping, read_file
from bench.simulate.run import simulate
from bench.simulate.scenario import Scenario, scaled
from bench.simulate.show import Figures, document, figures, regrets, show, show_endpoints, show_regrets
from lb.config.schema.file import Config
from lb.errors import ConfigError

DEFAULT = "default"


@dataclass(frozen=True)
class Options:
    """Of all runs alike: seconds to measure (None: the scenario's), the first seed, runs of each, workers of a daemon,
    what the file says of pool and route besides, a whole file instead, a factor of the scenario's rate, whether servers
    report their load."""

    seconds: float | None = None
    seed: int = 1
    runs: int = 1
    workers: int = 1
    pool: str = ""
    route: str = ""
    file: Path | None = None
    load: float = 1.0
    reports: bool = False


@dataclass(frozen=True)
class _Run:
    scenario: Scenario
    policy: str
    seed: int
    options: Options
    config: Config | None


def run(
    scenarios: Sequence[Scenario],
    policies: Sequence[str],
    options: Options,
    *,
    save: Path | None,
    plots: Path | None,
    endpoints: bool,
    console: Console,
) -> None:
    """Each scenario with each policy: a table for each scenario, all of it into `save`, pictures into the folder
    `plots`. Raises BenchError."""
    everything: list[Figures] = []
    try:
        config = read_file(options.file) if options.file is not None else None
        todo = [
            _Run(
                replace(scaled(scenario, options.load), reports=options.reports),
                policy,
                options.seed + number,
                options,
                config,
            )
            for scenario in scenarios
            for policy in policies
            for number in range(options.runs)
        ]
        for _, found in groupby(_done(todo), lambda one: one.scenario):
            runs = list(found)
            show(runs, console)
            if endpoints:
                show_endpoints(runs, console)
            everything += runs
        if len(policies) > 1 and len(scenarios) > 1:
            deadlines = {one.name: any(kind.deadline_ms for kind in one.kinds) for one in scenarios}
            show_regrets(regrets(everything, deadlines), console)
    except ConfigError as error:
        raise BenchError(str(error)) from None
    if save is not None:
        save.write_text(json.dumps(document(everything), indent=1))
    if plots is not None:
        from bench.simulate.plots import write

        for path in write(everything, plots):
            console.print(str(path), soft_wrap=True)


def pool_of(policy: str, pool: str) -> str:
    """YAML of a pool with this policy (a name, a mapping, or DEFAULT) and the keys of `pool`."""
    return pool if policy == DEFAULT else json.dumps({**mapping(f"policy: {policy}"), **mapping(pool)})


def _done(todo: Sequence[_Run]) -> Iterator[Figures]:
    """In the order of `todo`, on all usable CPUs."""
    jobs = min(len(todo), len(os.sched_getaffinity(0)))
    if jobs < 2:
        yield from map(_one, todo)
        return
    with ProcessPoolExecutor(jobs) as pool:
        yield from pool.map(_one, todo)


def _one(one: _Run) -> Figures:
    options = one.options
    result = simulate(
        one.scenario, pool_of(one.policy, options.pool), options.seconds, one.seed, options.workers,
        route=options.route, config=one.config,
    )  # fmt: skip
    return figures(result, one.policy)
