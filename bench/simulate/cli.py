"""`tidegate bench simulate`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.errors import BenchError
from bench.simulate.daemon import read_file
from bench.simulate.result import Result
from bench.simulate.run import simulate
from bench.simulate.scenario import Scenario
from bench.simulate.show import document, show, show_endpoints
from lb.errors import ConfigError

DEFAULT = "default"


def run(
    scenarios: Sequence[Scenario],
    policies: Sequence[str],
    *,
    seconds: float | None,
    seed: int,
    runs: int,
    workers: int,
    pool: str,
    route: str,
    file: Path | None,
    save: Path | None,
    endpoints: bool,
    console: Console,
) -> None:
    """Each scenario with each policy, `runs` times by seeds from `seed` on: a table for each, all of it into `save`.
    Raises BenchError."""
    everything: list[dict[str, Any]] = []
    try:
        config = read_file(file) if file is not None else None
        for scenario in scenarios:
            named: list[tuple[str, list[Result]]] = []
            for policy in policies:
                text = pool_of(policy, pool)
                named.append(
                    (
                        policy,
                        [
                            simulate(scenario, text, seconds, seed + i, workers, route=route, config=config)
                            for i in range(runs)
                        ],
                    )
                )
            show(named, console)
            if endpoints:
                show_endpoints(named, console)
            everything += document(named)
    except ConfigError as error:
        raise BenchError(str(error)) from None
    if save is not None:
        save.write_text(json.dumps(everything, indent=1))


def pool_of(policy: str, pool: str) -> str:
    """YAML of a pool with this policy (a name, a mapping, or DEFAULT) and the keys of `pool`."""
    return pool if policy == DEFAULT else f"policy: {policy}\n{pool}"
