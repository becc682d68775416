"""`python -m bench clients`: every client against every server, alone and in pools, and the table of what works."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console

from bench.clients import perf
from bench.clients.rig import KINDS, Kind, Target, alone, behind_a_daemon
from bench.clients.table import ALONE, CLIENTS, PERF, POOLS, Cells, Found
from bench.errors import BenchError
from bench.model_servers.others.environments import Environment, make, missing, python_of, versions

ENVIRONMENT = Environment(
    "clients", ("tritonclient[all]>=2.50", "perf-analyzer>=2.50"), ("tritonclient", "perf-analyzer", "grpcio")
)
_METHODS = Path(__file__).with_name("methods.py")
_LIMIT = 900.0  # seconds for all cases of one client


def run(environments: Path, install: bool, names: Iterable[str], folder: Path, console: Console) -> Found:
    """`folder` gets the files of servers and daemons, and what clients say. Raises BenchError."""
    _provide(environments, ENVIRONMENT, install)
    found = Found({"clients": versions(environments, ENVIRONMENT)}, {})
    for name in names:
        kind = KINDS[name]
        if kind.other is not None:
            _provide(environments, kind.other.environment, install)
            found.versions[name] = versions(environments, kind.other.environment)
        found.cells[name] = {}
        for arrangement in (ALONE, *POOLS):
            place = folder / f"{name}-{arrangement.replace(' ', '-')}"
            place.mkdir()
            found.cells[name][arrangement] = _cells(kind, arrangement, environments, place, console)
    return found


def _provide(environments: Path, wanted: Environment, install: bool) -> None:
    if install:
        make(environments, wanted)
    if lacking := missing(environments, wanted):
        raise BenchError(f"{lacking} is not in {environments / wanted.name}; --install puts it there")


def _cells(kind: Kind, arrangement: str, environments: Path, folder: Path, console: Console) -> Cells:
    if arrangement == ALONE:
        with alone(kind, environments, folder) as target:
            cells = _ask(environments, target, folder)
    else:
        with behind_a_daemon(kind, environments, folder, POOLS[arrangement]) as target:
            cells = _ask(environments, target, folder)
    reasons = [reason for client in cells.values() for reason in client.values()]
    worked = sum(not reason for reason in reasons)
    console.print(f"{kind.name}, {arrangement}: {worked} of {len(reasons)} cells work", style="dim")
    return cells


def _ask(environments: Path, target: Target, folder: Path) -> Cells:
    python = python_of(environments, ENVIRONMENT)
    cells = {client: _methods(python, client, target, folder) for client in CLIENTS}
    cells[PERF] = perf.run(python.with_name("perf_analyzer"), target.http, target.grpc)
    return cells


def _methods(python: Path, client: str, target: Target, folder: Path) -> dict[str, str]:
    """Raises BenchError if the client's process does not come to its end."""
    address = target.grpc if client.startswith("grpc") else target.http
    words = [str(python), str(_METHODS), client, f"127.0.0.1:{address}", f"127.0.0.1:{target.http}"]
    with (folder / f"{client}.log").open("w") as log:
        done = subprocess.run(words, stdout=subprocess.PIPE, stderr=log, text=True, check=False, timeout=_LIMIT)
    if done.returncode:
        raise BenchError(f"the client {client} ended with {done.returncode}: see {log.name}")
    found: dict[str, str] = json.loads(done.stdout)
    return found
