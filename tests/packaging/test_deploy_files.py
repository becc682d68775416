"""Configurations that packages and deploy/ bring: Tidegate takes each, and versions are the program's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

import lb
from lb.config.load import load

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm" / "tidegate"
FILES = (
    ROOT / "debian" / "tidegate.yaml",
    DEPLOY / "container.yaml",
    DEPLOY / "kustomize" / "base" / "tidegate.yaml",
    DEPLOY / "kustomize" / "overlays" / "models" / "tidegate.yaml",
)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_configuration(path: Path) -> None:
    assert load(path, files=False).listeners


def test_the_configuration_of_the_chart(tmp_path: Path) -> None:
    values: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
    path = tmp_path / "tidegate.yaml"
    path.write_text(yaml.safe_dump(values["config"]))
    config = load(path)
    assert {f"0.0.0.0:{port['targetPort']}" for port in values["service"]["ports"]} == {
        bind for one in config.listeners.values() for bind in one.binds
    }


def test_versions() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (lb.__version__, lb.__version__)
    base = yaml.safe_load((DEPLOY / "kustomize" / "base" / "kustomization.yaml").read_text())
    assert base["images"] == [{"name": "tidegate", "newTag": lb.__version__}]
    assert f"tidegate:{lb.__version__} " in (DEPLOY / "Containerfile").read_text()
