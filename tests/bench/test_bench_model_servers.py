"""Model servers side by side: each run asks a real server, and a server that answers wrongly has no figures."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from rich.console import Console

from bench import machine
from bench.errors import BenchError
from bench.model_servers import cli
from bench.model_servers.measure import Figures, Server, bare, measure
from bench.model_servers.models import MODELS


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for model in MODELS.values():
        model.write(folder)
    return folder


@pytest.mark.parametrize("server", cli.SERVERS, ids=lambda server: server.name)
@pytest.mark.parametrize("model", MODELS)
def test_each_server_is_measured(models: Path, server: Server, model: str) -> None:
    found = measure(server, models, MODELS[model], machine.split_cores(), 2, 0.5)
    assert found.rate > 10
    assert found.cpu_us > 0
    assert 0 < found.p50_us <= found.p99_us


def test_onnx_runtime_alone(models: Path) -> None:
    assert bare(models, MODELS["tiny"], machine.split_cores(), 0.2) > 100


def test_a_server_that_ends_has_no_figures(models: Path) -> None:
    server = Server("broken", lambda models, port: [sys.executable, "-c", "raise SystemExit('no such thing')"])
    with pytest.raises(BenchError, match="broken: it ended: no such thing"):
        measure(server, models, MODELS["tiny"], machine.split_cores(), 1, 0.1)


def test_promises_are_judged_by_the_medians_of_rounds() -> None:
    medians = cli.Medians()
    for model in MODELS:
        for server, rate in ((cli.TIDEGATE, 100.0), (cli.UNMERGED, 90.0), (cli.NAIVE, 4.0), (cli.BARE, 110.0)):
            for drift in (1.0, 0.5, 2.0):
                medians.add(model, server, cli.FEW, Figures(rate * drift, 10.0, 50.0, 60.0))
        medians.add(model, cli.TIDEGATE, cli.MANY, Figures(100.0, 10.0, 50.0, 100.0))
    console = Console(record=True, width=200)
    kept = [cli._show(promise, medians, console) for promise in cli.PROMISES]
    assert kept == [True, True, True, True, False, False, False]
    text = console.export_text()
    assert "missed direction: of ONNX Runtime alone: 0.91 (≥ 0.95)" in text
    assert "kept   tiny: times grpc.aio: 25.00 (≥ 20)" in text
    assert "missed tiny: p99 of p50, 32 clients: 2.00 (≤ 1.5)" in text
