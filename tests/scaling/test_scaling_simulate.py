"""Rules on traces: the command, what it prints and draws, and that one seed gives one result."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from lb.cli.app import main
from lb.config.units import MILLISECOND, SECOND
from lb.scaling.registry import RULES
from lb.scaling.scaler import Decision, Look
from lb.scaling.simulate.cli import rule as rule_of
from lb.scaling.simulate.run import Setup, simulate
from lb.scaling.simulate.trace import read

SETUP = Setup(20 * MILLISECOND, 1, 5 * SECOND, 200 * MILLISECOND, 1, 50)


class Planned:
    """A rule that does as it was told, by second, and keeps what it saw."""

    name = "planned"
    interval = SECOND

    def __init__(self, plan: Mapping[int, int]) -> None:
        self._plan = plan
        self.looks: list[Look] = []

    def see(self, look: Look) -> None:
        self.looks.append(look)

    def decide(self, now: int) -> Decision:
        replicas = self._plan.get(now // SECOND, self.looks[-1].wanted)
        return Decision(replicas, replicas, "as planned")

    def learned(self) -> Mapping[str, Any]:
        return {}

    def memory(self) -> bytes:
        return b""

    def restore(self, memory: bytes) -> None:
        pass


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "trace.csv"
    counts = [40] * 60 + [400] * 60 + [40] * 60
    path.write_text("second,requests\n" + "".join(f"{i},{n}\n" for i, n in enumerate(counts)))
    return path


def test_changes_peak_and_replica_seconds_are_those_of_the_rule(trace: Path) -> None:
    rule = Planned({10: 4, 20: 12, 150: 2})
    result = simulate(read(trace), SETUP, rule)
    assert result.requests == 40 * 120 + 400 * 60
    assert (result.changes, result.peak) == (3, 12)
    assert result.replica_seconds == pytest.approx(10 * 1 + 10 * 4 + 130 * 12 + 30 * 2, abs=0.5)
    assert result.violations == 0
    assert len(rule.looks) == 180


def test_looks_are_those_of_a_daemon(trace: Path) -> None:
    rule = Planned({10: 4})
    simulate(read(trace), SETUP, rule)
    before, while_starting, after = rule.looks[9], rule.looks[12], rule.looks[15]
    assert (before.wanted, before.ready, before.start_time) == (1, 1, None)
    assert (while_starting.wanted, while_starting.ready, while_starting.start_time) == (4, 1, None)
    assert (after.wanted, after.ready, after.start_time) == (4, 4, 5 * SECOND)
    assert while_starting.readings["cpu"].unready == 3
    assert before.traffic is not None
    assert before.traffic.arrived == 40
    assert before.traffic.in_flight == pytest.approx(0.8, abs=0.2)
    assert before.readings["cpu"].values[0] == pytest.approx(80, abs=20)
    overloaded = rule.looks[70].traffic
    assert overloaded is not None
    assert overloaded.in_flight == pytest.approx(4)
    assert overloaded.waiting > 1000
    assert overloaded.served / overloaded.answered == pytest.approx(20 * MILLISECOND)


def test_replicas_too_few_make_requests_late(trace: Path) -> None:
    result = simulate(read(trace), SETUP, Planned({}))
    # One replica answers 50/s: all of the 400/s that come after the first quarter second, and those behind them.
    assert 400 * 59 < result.violations < 400 * 60 + 40 * 60
    assert result.replica_seconds == 180


def test_a_pool_that_may_have_no_replica(tmp_path: Path) -> None:
    """As in the daemon: the next request wakes it at once, and it sleeps after the time without any."""
    path = tmp_path / "trace.csv"
    path.write_text("second,requests\n" + "".join(f"{i},{n}\n" for i, n in enumerate([0] * 20 + [10] * 20 + [0] * 80)))
    rule = Planned({45: 0, 100: 3})
    result = simulate(read(path), replace(SETUP, minimum=0, idle=30 * SECOND), rule)
    # Those that come while it starts, for 5 s, are late; those behind them in its queue for less than 2 s more.
    assert 47 <= result.violations <= 70
    assert (result.changes, result.peak) == (2, 1)
    assert result.replica_seconds == pytest.approx(20 + 30, abs=1.5)
    assert [(rule.looks[i].wanted, rule.looks[i].minimum) for i in (0, 25, 50, 75, 110)] == [
        (0, 0), (1, 1), (1, 1), (0, 0), (0, 0),
    ]  # fmt: skip


@pytest.mark.parametrize("name", [*RULES])
def test_every_rule_answers_from_zero(trace: Path, name: str) -> None:
    setup = replace(SETUP, minimum=0)
    result = simulate(read(trace), setup, rule_of(name, setup))
    assert result.peak >= 1
    assert result.violations < result.requests


def test_a_trace_without_requests(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("minute,requests\n0,0\n1,0\n")
    result = simulate(read(path), SETUP, Planned({}))
    assert (result.requests, result.violations, result.replica_seconds) == (0, 0, 120)


def command(trace: Path, *more: str) -> list[str]:
    return [
        "scaling", "simulate", "--trace", str(trace), "--service-time", "20ms", "--concurrency", "1",
        "--start-time", "5s", "--slo", "200ms", "--min", "1", "--max", "50", "--seed", "1", *more,
    ]  # fmt: skip


def test_the_command_prints_json_by_rule_the_same_for_one_seed(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed = []
    for seed in ("1", "1", "2"):
        assert main(command(trace, "--rules", "hpa,kpa,target_tracking,step,ray", "--json", "--seed", seed)) == 0
        printed.append(json.loads(capsys.readouterr().out))
    assert list(printed[0]) == ["hpa", "kpa", "target_tracking", "step", "ray"]
    for figures in printed[0].values():
        assert list(figures) == ["requests", "violations", "replica_seconds", "changes", "peak"]
        assert figures["requests"] == 28_800
    assert printed[0] == printed[1]
    assert printed[0] != printed[2]


def file_of(tmp_path: Path, **pool: Any) -> str:
    path = tmp_path / "tidegate.yaml"
    web = {"bind": "127.0.0.1:0", "protocol": "http", "routes": [{"pool": "small"}]}
    path.write_text(json.dumps({"listeners": {"web": web}, "pools": {"small": {"protocol": "oip", **pool}}}))
    return str(path)


def test_the_rules_of_a_file_are_compared_within_their_limits(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    serve = {"models": "/srv/models", "min": 2, "max": 3}
    path = file_of(tmp_path, serve=serve, scaling={"kpa": {"container_concurrency": 1}})
    assert main(command(trace, "--rules", "kpa", "--config", path, "--json")) == 0
    printed = json.loads(capsys.readouterr().out)
    assert list(printed) == ["pool small", "kpa"]
    assert printed["pool small"]["peak"] == 3
    assert printed["pool small"]["violations"] > printed["kpa"]["violations"]


def test_a_pool_of_an_engine_and_one_by_a_signal_that_is_not_simulated(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = {"external": {}, "min": 1, "max": 2}
    path = file_of(tmp_path, engine=engine, discover={"dns": {"name": "chat", "port": 80}}, scaling={"kpa": {}})
    assert main(command(trace, "--rules", "kpa", "--config", path, "--json")) == 0
    assert json.loads(capsys.readouterr().out)["pool small"]["peak"] == 2
    serve = {"models": "/srv/models", "max": 3}
    path = file_of(tmp_path, serve=serve, scaling={"metrics": [{"type": "memory", "target": "1GiB"}]})
    assert main(command(trace, "--rules", "kpa", "--config", path, "--json")) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert f"pool small of {path} is left out: it goes by memory, and the simulation has in_flight, cpu" in shown.err
    assert f"no pool of {path} has `scaling` that can be simulated" in shown.err


def test_schedules_of_a_file_count_from_the_begin_of_the_trace(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    floor = {"cron": "1 8 * * *", "timezone": "Europe/Berlin", "duration": "1m", "min": 7}
    scaling = {"step": {"alarms": [{"type": "cpu", "threshold": 1e6, "steps": [{"adjustment": 1}]}]}}
    path = file_of(tmp_path, serve={"models": "/srv/models", "max": 9}, scaling={**scaling, "schedules": [floor]})
    arguments = command(trace, "--rules", "step", "--config", path, "--json")
    assert main(arguments) == 1
    assert f"pool small of {path} has schedules: say with --begin when the trace begins" in capsys.readouterr().err
    peaks = []
    for begin in ("2026-12-01T08:00+01:00", "2026-12-01 07:00", "2026-12-01"):
        assert main([*arguments, "--begin", begin]) == 0
        peaks.append(json.loads(capsys.readouterr().out)["pool small"]["peak"])
    assert peaks == [7, 7, 1]


def test_a_file_without_a_rule_is_told(trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = file_of(tmp_path, endpoints=["127.0.0.1:9"])
    assert main(command(trace, "--config", path)) != 0
    assert "has `scaling` that can be simulated" in capsys.readouterr().err


def test_the_command_prints_a_table(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(trace, "--rules", "kpa", "--scale", "0.5", "--service", "exponential")) == 0
    out = capsys.readouterr().out
    assert "replica seconds" in out
    assert "14,400" in out


def test_the_page_and_the_drawing_are_self_contained(trace: Path, tmp_path: Path) -> None:
    page, drawing = tmp_path / "page.html", tmp_path / "drawing.svg"
    for path in (page, drawing):  # of all rules, some of which look more often than once a second
        assert main(command(trace, "--json", "--page", str(path))) == 0
    root = ET.fromstring(drawing.read_text())
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    lines = [path for path in root.iter("{http://www.w3.org/2000/svg}path") if "line" in path.get("class", "")]
    assert len(lines) == 3 * len(RULES)  # in the legend, of replicas, of late requests
    text = page.read_text()
    assert "prefers-color-scheme:dark" in text
    assert "<table>" in text
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    assert "tidegate scaling simulate --trace" in text


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--rules", "nonsense"], "no such rule: 'nonsense'"),
        (["--scale", "0"], "0 is not more than 0"),
        (["--slo", "5"], "--slo"),
        (["--concurrency", "0"], "0 is less than 1"),
        (["--concurrency", "1000000"], "1000000 is more than 100000"),
        (["--seed", "99999999999999999999"], "99999999999999999999 is more than 18446744073709551615"),
        (["--service-time", "0s"], "0s is not more than 0"),
        (["--slo", "0s"], "0s is not between 1ms and 1h"),
        (["--slo", "2h"], "2h is not between 1ms and 1h"),
        (["--begin", "soon"], "'soon' is no date"),
        (["--page", "page.png"], "page.png ends neither in .html nor in .svg"),
        (["--scale", "1e300"], "requests at second 0; 100000000 in one bin are the most"),
        (["--min", "51"], "--min 51 is more than --max 50"),
        (["--page", "/nowhere/page.html"], "/nowhere/page.html: cannot be written"),
        (["--where", "x=1"], "no column 'x'"),
    ],
)
def test_what_cannot_be_done_is_told(
    trace: Path, more: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(trace, "--rules", "kpa", *more)) != 0
    shown = capsys.readouterr().err
    assert told in shown
    assert "internal error" not in shown
