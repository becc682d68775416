"""`python -m bench model-servers`: the servers in turn, round by round, and what was promised of ours."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from bench import machine
from bench.machine import Cores
from bench.model_servers.measure import Figures, Server, bare, measure, naive, other, ours
from bench.model_servers.models import MODELS
from bench.model_servers.others.environments import make, missing, versions
from bench.model_servers.others.servers import OTHERS

TIDEGATE, UNMERGED, NAIVE, BARE = "tidegate", "tidegate, --max-batch 1", "grpc.aio", "ONNX Runtime alone"
SERVERS = (Server(TIDEGATE, ours()), Server(UNMERGED, ours("--max-batch", "1")), Server(NAIVE, naive))
FEW, MANY = 8, 32  # clients


@dataclass(frozen=True)
class Promise:
    """`value` of the medians must be at least, or at most, the bound."""

    text: str
    value: Callable[[Medians], float]
    bound: float
    at_least: bool


class Medians:
    """Of all rounds: rates and figures by model, server and clients."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, str, int], list[Figures]] = {}

    def add(self, model: str, server: str, clients: int, figures: Figures) -> None:
        self.found.setdefault((model, server, clients), []).append(figures)

    def of(self, model: str, server: str, clients: int) -> Figures:
        runs = self.found[model, server, clients]
        return Figures(
            median(one.rate for one in runs),
            median(one.cpu_us for one in runs),
            median(one.p50_us for one in runs),
            median(one.p99_us for one in runs),
        )

    def times(self, model: str, server: str, other: str) -> float:
        """The median of the ratios of rates, round by round: a machine's speed drifts."""
        pairs = zip(self.found[model, server, FEW], self.found[model, other, FEW], strict=True)
        return median(one.rate / two.rate for one, two in pairs)


PROMISES = (
    Promise("tiny: times grpc.aio", lambda m: m.times("tiny", TIDEGATE, NAIVE), 20, True),
    Promise("tiny: CPU µs of an unmerged inference", lambda m: m.of("tiny", UNMERGED, FEW).cpu_us, 12, False),
    Promise("light: times grpc.aio", lambda m: m.times("light", TIDEGATE, NAIVE), 5, True),
    Promise("light: of ONNX Runtime alone", lambda m: m.times("light", TIDEGATE, BARE), 0.8, True),
    Promise("direction: of ONNX Runtime alone", lambda m: m.times("direction", TIDEGATE, BARE), 0.95, True),
    Promise("light: p99 of p50, 32 clients", lambda m: _spread(m.of("light", TIDEGATE, MANY)), 1.5, False),
    Promise("tiny: p99 of p50, 32 clients", lambda m: _spread(m.of("tiny", TIDEGATE, MANY)), 1.5, False),
)


def _spread(figures: Figures) -> float:
    return figures.p99_us / figures.p50_us


def run(rounds: int, seconds: float, environments: Path, install: bool, console: Console) -> bool:
    """Whether all promises were kept. Raises BenchError."""
    cores = machine.split_cores()
    medians = Medians()
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        for model in MODELS.values():
            model.write(models)
        others = _others(models, environments, install, console)
        for number in range(1, rounds + 1):
            for name in MODELS:
                _round(models, name, (*SERVERS, *others), cores, seconds, medians)
            console.print(f"round {number} of {rounds}", style="dim")
    console.print(_table(medians))
    kept = [_show(promise, medians, console) for promise in PROMISES]
    return all(kept)


def _others(models: Path, environments: Path, install: bool, console: Console) -> list[Server]:
    """Those of the other makers' servers that are there, each with a folder of its own beside `models`. The console
    has their versions, and why one is absent."""
    found = []
    for each in OTHERS:
        if install:
            make(environments, each.environment)
        if lacking := missing(environments, each.environment):
            place = environments / each.environment.name
            console.print(f"{each.name} is absent: {lacking} is not in {place}; --install puts it there")
            continue
        packages = ", ".join(" ".join(pair) for pair in versions(environments, each.environment).items())
        console.print(f"{each.name}: {packages}", style="dim")
        folder = models.with_name(each.environment.name)
        each.prepare(models, folder)
        found.append(Server(each.name, other(each, environments, folder)))
    return found


def _round(models: Path, name: str, servers: Sequence[Server], cores: Cores, seconds: float, medians: Medians) -> None:
    model = MODELS[name]
    for server in servers:
        medians.add(name, server.name, FEW, measure(server, models, model, cores, FEW, seconds))
    medians.add(name, TIDEGATE, MANY, measure(SERVERS[0], models, model, cores, MANY, seconds))
    rate = bare(models, model, cores, seconds)
    medians.add(name, BARE, FEW, Figures(rate, 1e6 / rate, 1e6 / rate, 1e6 / rate))


def _table(medians: Medians) -> Table:
    table = Table(title="One core for the server, gRPC, one call at a time on each connection; medians")
    for heading in ("model", "server", "clients", "inferences/s", "CPU µs each", "p50 µs", "p99 µs"):
        table.add_column(heading, justify="left" if heading in ("model", "server") else "right")
    for model, server, clients in medians.found:
        one = medians.of(model, server, clients)
        figures = (f"{one.rate:,.0f}", f"{one.cpu_us:.1f}", f"{one.p50_us:,.0f}", f"{one.p99_us:,.0f}")
        table.add_row(f"{model}: {MODELS[model].title}", server, "" if server == BARE else str(clients), *figures)
    return table


def _show(promise: Promise, medians: Medians, console: Console) -> bool:
    value = promise.value(medians)
    kept = value >= promise.bound if promise.at_least else value <= promise.bound
    sign = "≥" if promise.at_least else "≤"
    console.print(f"{'kept  ' if kept else 'missed'} {promise.text}: {value:.2f} ({sign} {promise.bound:g})")
    return kept
