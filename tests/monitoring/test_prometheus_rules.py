"""The rules for Prometheus: promtool checks and tests them, and every problem of the dashboard has an alert."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import yaml

from lb.control.watch.problems import CONDITIONS

FOLDER = Path(__file__).resolve().parents[2] / "monitoring" / "prometheus"
NO_METRIC = {"open_files_short"}


def promtool(*arguments: str) -> str:
    done = subprocess.run(
        ["promtool", *arguments], cwd=FOLDER, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load((FOLDER / "tidegate.rules.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"] if "alert" in rule]


def test_promtool_takes_the_rules() -> None:
    assert "SUCCESS" in promtool("check", "rules", "tidegate.rules.yml")


def test_promtool_runs_their_tests() -> None:
    assert "SUCCESS" in promtool("test", "rules", "tidegate.rules.test.yml")


def test_every_alert_is_seen_firing_and_at_rest() -> None:
    tests = yaml.safe_load((FOLDER / "tidegate.rules.test.yml").read_text())["tests"]
    asked = [row for test in tests for row in test["alert_rule_test"]]
    fired = {row["alertname"] for row in asked if row["exp_alerts"]}
    assert fired == {rule["alert"] for rule in alerts()}
    assert all(alert["exp_annotations"] for row in asked for alert in row["exp_alerts"])


def test_every_problem_of_the_dashboard_has_an_alert() -> None:
    names = {rule["alert"] for rule in alerts()}
    wanted = {f"Tidegate{name.title().replace('_', '')}" for name in set(CONDITIONS) - NO_METRIC}
    assert wanted <= names
    assert all(rule["labels"]["severity"] in ("critical", "warning") for rule in alerts())
