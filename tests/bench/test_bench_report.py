"""Results to tables: what is compared with what, and what is said about doubtful runs."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from bench import results as store
from bench.bed import warnings
from bench.errors import BenchError
from bench.machine import Cores
from bench.report import best_peer, markdown, show, verdict
from bench.results import Outcome, Results, Sample, Subject
from bench.scenarios import SCENARIOS


def subject(*cpu: float, **other: str) -> Subject:
    return Subject(
        config="c",
        samples=[
            Sample({"cpu_us": c, "rps": 1e6 / c, "p50_us": 1.0, "p99_us": 2.0}, round=i + 1) for i, c in enumerate(cpu)
        ],
        **other,
    )


def results(*outcomes: Outcome) -> Results:
    return Results(
        started="2030-01-02T03:04:05+00:00",
        commit="abc",
        machine={"cpu": "a CPU", "cpus": 2, "architecture": "x", "system": "s", "kernel": "k", "proxy_core": 0}
        | {"load_cores": [1], "work_file_system": "tmpfs"},
        versions={"tidegate": "1"},
        options={"runs": 2, "duration": 2, "warmup": 1},
        outcomes=list(outcomes),
    )


def test_headline_is_the_ratio_to_the_best_of_the_named_peers() -> None:
    outcome = Outcome(
        "http1", {"tidegate": subject(9.0, 11.0), "haproxy": subject(20.0, 20.0), "nginx": subject(10.0, 10.0)}
    )
    scenario = SCENARIOS["http1"]
    assert best_peer(outcome, scenario.headline) == "nginx"
    assert best_peer(outcome, scenario.headline, ("haproxy",)) == "haproxy"
    found = verdict(scenario, outcome)
    assert found.text == "1.00 (0.90 to 1.10) x nginx"
    assert found.met is True
    outcome.subjects["tidegate"] = subject(10.1, 10.1)
    assert verdict(scenario, outcome).met is False


def test_nothing_is_claimed_without_both_sides() -> None:
    scenario = SCENARIOS["cached-post"]
    for subjects in (
        {"tidegate": subject(1.0), "haproxy": subject(9.0)},
        {"tidegate": subject(1.0), "nginx": Subject(failed="it broke")},
        {"tidegate": Subject(failed="it broke"), "nginx": subject(1.0)},
        {"nginx": subject(1.0)},
    ):
        assert verdict(scenario, Outcome("cached-post", subjects)).met is None


def test_an_absolute_limit_needs_no_peer() -> None:
    outcome = Outcome("idle", {"tidegate": Subject(samples=[Sample({"pss_bytes": 8193.0, "rss_bytes": 1.0}, round=1)])})
    assert verdict(SCENARIOS["idle"], outcome).met is False


def test_tables_say_what_failed_what_cannot_and_what_is_doubtful() -> None:
    doubtful = subject(1.0, 2.0)
    doubtful.samples[1].warnings.append("other programs were busy on these cores")
    peers = {"haproxy": Subject(cannot="no POST"), "nginx": Subject(failed="boom")}
    found = results(Outcome("cached-post", {"tidegate": doubtful, **peers}))
    found.machine["work_file_system"] = "ext4"
    out = io.StringIO()
    show(found, Console(file=out, width=200))
    for text in (out.getvalue(), markdown(found)):
        assert "haproxy cannot: no POST" in text
        assert "nginx failed after 0 runs: boom" in text
        assert "tidegate, run 2: other programs were busy" in text
        assert "on ext4, not in memory" in text
        assert "a CPU" in text
        assert "belong to this machine" in text


def test_results_survive_the_file(tmp_path: Path) -> None:
    found = results(Outcome("http1", {"tidegate": subject(1.0, 2.0), "haproxy": Subject(cannot="x")}))
    path = store.save(found, tmp_path)
    assert store.load(path) == found
    assert store.newest(tmp_path) == path


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="no results"):
        store.newest(tmp_path)
    for text in ("", "[]", "{}", '{"format": 99}', '{"format": 1}'):
        (path := tmp_path / "x.json").write_text(text)
        with pytest.raises(BenchError, match=r"x\.json"):
            store.load(path)


@pytest.mark.parametrize(
    ("cores", "proxy", "server", "load", "others", "said"),
    [
        (Cores(0, (1,)), 60, 40, 58, 0, "the load's cores"),
        (Cores(0, (1,)), 99, 40, 58, 0, None),  # both are full: the proxy was at its limit too
        (Cores(0, (1,)), 60, 30, 30, 6, "other programs"),
        (Cores(0, (1, 2, 3, 4)), 60, 20, 192, 0, "the load generator"),
        (Cores(0, (1, 2, 3, 4)), 60, 192, 20, 0, "the server"),
        (Cores(0, (1, 2, 3, 4)), 60, 100, 100, 0, None),
    ],
)
def test_doubtful_runs(cores: Cores, proxy: int, server: int, load: int, others: int, said: str | None) -> None:
    found = warnings(cores, 100, proxy, server, load, others, {})
    assert (said is None and not found) or (said is not None and len(found) == 1 and said in found[0])


def test_failed_requests_are_told() -> None:
    assert warnings(Cores(0, (1,)), 100, 50, 0, 0, 0, {"status": 3}) == ["failed requests: 3 status"]
