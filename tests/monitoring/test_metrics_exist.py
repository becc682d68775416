"""Every metric and label that a rule or the board asks for is one that the daemon really has."""

from __future__ import annotations

import json
import re
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from authority import Authority
from daemons import Start, pytest_runtest_makereport, start
from prometheus_client.parser import text_string_to_metric_families

from lb.telemetry import daemon as daemon_metrics
from lb.telemetry import pools as pool_metrics

__all__ = ["pytest_runtest_makereport", "start"]
ROOT = Path(__file__).resolve().parents[2]
BOARD = ROOT / "monitoring" / "grafana" / "tidegate.json"
RULES = ROOT / "monitoring" / "prometheus" / "tidegate.rules.yml"
ADDED = {"job", "instance"}  # by Prometheus
# What Grafana's import needs: its dashboard JSON model, schemaVersion 39.
TARGET = {
    "type": "object",
    "required": ["refId", "expr", "datasource", "legendFormat"],
    "properties": {"refId": {"pattern": "^[A-Z]$"}, "expr": {"type": "string", "minLength": 1}},
    "additionalProperties": {"type": ["object", "string"]},
}
PANEL = {
    "type": "object",
    "required": ["id", "title", "type", "gridPos"],
    "properties": {
        "id": {"type": "integer", "minimum": 1},
        "title": {"type": "string", "minLength": 1},
        "type": {"enum": ["row", "stat", "timeseries"]},
        "gridPos": {
            "type": "object",
            "required": ["x", "y", "w", "h"],
            "properties": {
                "x": {"type": "integer", "minimum": 0, "maximum": 23},
                "y": {"type": "integer", "minimum": 0},
                "w": {"type": "integer", "minimum": 1, "maximum": 24},
                "h": {"type": "integer", "minimum": 1},
            },
            "additionalProperties": False,
        },
        "targets": {"type": "array", "minItems": 1, "items": TARGET},
    },
    "if": {"properties": {"type": {"const": "row"}}},
    "else": {"required": ["targets", "datasource", "fieldConfig", "options"]},
}
SCHEMA = {
    "type": "object",
    "required": ["uid", "title", "schemaVersion", "panels", "templating", "time", "refresh"],
    "properties": {
        "uid": {"type": "string", "pattern": "^[a-zA-Z0-9_-]{1,40}$"},
        "schemaVersion": {"type": "integer", "minimum": 36},
        "panels": {"type": "array", "minItems": 10, "items": PANEL},
        "templating": {
            "type": "object",
            "properties": {
                "list": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["name", "type", "query"],
                        "properties": {"type": {"enum": ["datasource", "query"]}},
                    },
                }
            },
        },
    },
}


def board() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(BOARD.read_text())
    return found


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def expressions() -> Iterator[str]:
    yield from (rule["expr"] for rule in rules())
    yield from (target["expr"] for panel in board()["panels"] for target in panel.get("targets", ()))


def seldom() -> dict[str, set[str]]:
    """Metrics of what a test cannot have with little effort: a cache tier, an engine, a pool at zero."""
    engine = {"name": "p", "managed": None, "endpoints": [], "engine": {"engine": "ray", "state": "current"}}
    asleep = {
        **engine,
        "engine": None,
        "managed": {"on_demand": {"asleep": True, "wakes": 1}, "replicas": [], "next": [], "leaving": [], "wanted": 0,
                    "restarts": 0},
    }  # fmt: skip
    tier = {
        "processes": {"0": dict.fromkeys(
            ("hits", "misses", "invalid", "timeouts", "errors", "skipped", "stored", "dropped", "opened"), 1
        ) | {"state": "closed"}},
        "purges": 0, "invalidations": 0, "pending_purges": 0,
    }  # fmt: skip
    families = [
        *pool_metrics._engines({"pools": [engine]}),
        *pool_metrics._managed({"pools": [asleep]}),
        *daemon_metrics._tier(tier),
    ]
    return {sample.name: set(sample.labels) for family in families for sample in family.samples}


@pytest.fixture
def shown(start: Start, tmp_path: Path) -> dict[str, set[str]]:
    """The metrics of a real daemon by name, with their labels."""
    certificate, key = Authority().issue("localhost").write(tmp_path)
    (tmp_path / "endpoints.yaml").write_text("[]")
    daemon = start(
        {
            "cache": {},
            "jobs": {"path": str(tmp_path / "jobs.db")},
            "listeners": {
                "web": {
                    "bind": "127.0.0.1:0", "protocol": "https", "routes": [{"name": "r", "pool": "p", "jobs": True}],
                    "tls": {"certificates": [{"cert": certificate, "key": key}]},
                }
            },
            "pools": {
                "p": {"protocol": "http", "endpoints": ["127.0.0.1:9"], "outlier": {}},
                "found": {"protocol": "http", "discover": {"file": {"path": str(tmp_path / "endpoints.yaml")}}},
            },
        }
    )  # fmt: skip
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with pytest.raises(urllib.error.HTTPError):  # nobody is there; the daemon counts an inference nevertheless
        urllib.request.urlopen(
            f"https://127.0.0.1:{daemon.port()}/v2/models/m/infer", b"{}", timeout=20, context=context
        )
    code, page = daemon.admin("/metrics")
    assert code == 200
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(page.decode()):
        if not family.samples and family.type != "histogram":  # its label names are not known
            found.setdefault(family.name + ("_total" if family.type == "counter" else ""), set())
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def test_every_metric_and_label_exists(shown: dict[str, set[str]]) -> None:
    known = seldom() | shown
    labels = {"job", "instance", "route", "pool", "endpoint", "model"}
    known |= {rule["record"]: labels for rule in rules() if "record" in rule}
    missing = set()
    for expression in expressions():
        for name, labels in re.findall(r"\b(tidegate[a-z0-9_:]+)(?:\{([^}]*)\})?", expression):
            if name not in known:
                missing.add(name)
                continue
            asked = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", labels)) - ADDED
            if known[name] and not asked <= known[name]:
                missing.add(f"{name}{sorted(asked - known[name])}")
    assert not missing


def test_grouped_labels_exist(shown: dict[str, set[str]]) -> None:
    known = seldom() | shown
    for expression in expressions():
        for by, name in re.findall(r"by \(([\w, ]+)\) \((?:rate|increase)\((\w+)", expression):
            base = name if name in known else name.removesuffix("_bucket")
            if known.get(base):
                assert {label.strip() for label in by.split(",")} - ADDED - {"le"} <= known[base], expression


def test_the_board_has_the_form_that_grafana_reads() -> None:
    found = board()
    jsonschema.validate(found, SCHEMA)
    numbers = [panel["id"] for panel in found["panels"]]
    assert len(set(numbers)) == len(numbers)
    taken: set[tuple[int, int]] = set()
    for panel in found["panels"]:
        grid = panel["gridPos"]
        assert grid["x"] + grid["w"] <= 24
        cells = {
            (x, y) for x in range(grid["x"], grid["x"] + grid["w"]) for y in range(grid["y"], grid["y"] + grid["h"])
        }
        assert not cells & taken, f"{panel['title']} lies on another panel"
        taken |= cells
    names = {variable["name"] for variable in found["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z]+)", json.dumps(found["panels"])))
    assert used <= names


def test_promtool_takes_every_expression_of_the_board(tmp_path: Path) -> None:
    found = [target["expr"] for panel in board()["panels"] for target in panel.get("targets", ())]
    plain = [e.replace("$__rate_interval", "5m") for e in found]
    groups = [{"name": "board", "rules": [{"record": f"board:{i}", "expr": e} for i, e in enumerate(plain)]}]
    file = tmp_path / "board.yml"
    file.write_text(yaml.safe_dump({"groups": groups}))
    done = subprocess.run(["promtool", "check", "rules", file], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_board_is_what_its_tool_writes() -> None:
    subprocess.run([sys.executable, ROOT / "tools" / "board.py", "--check"], check=True, timeout=60)
