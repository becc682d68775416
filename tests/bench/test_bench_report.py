"""Results to tables: what is compared with what, where we lose, and what is said about doubtful runs."""

import io
import json
import re
from pathlib import Path

import pytest
from bench_sample import ATTACK, LOAD_METRICS, load_outcome, sample_results
from rich.console import Console

from bench import results as store
from bench.bed import Usage, warnings
from bench.errors import BenchError
from bench.machine import Cores
from bench.report import markdown, show, words
from bench.report.analysis import best_peer, summary, verdict, verdicts, versus
from bench.report.notes import confidence, losses
from bench.report.page import html
from bench.results import Limit, Metric, Outcome, Results, Sample, Subject
from bench.stats import Ranking, interval

CPU = LOAD_METRICS[0]


def subject(*cpu: float, **other: str) -> Subject:
    samples = [
        Sample({"cpu_us": c, "rps": 1e6 / c, "p99_us": 2.0, "failed": 0.0}, round=i + 1) for i, c in enumerate(cpu)
    ]
    return Subject(config="c", samples=samples, **other)


def outcome(*limits: Limit, **subjects: Subject) -> Outcome:
    return Outcome("x", subjects=subjects, title="t", metrics=LOAD_METRICS, limits=limits)


def results(*outcomes: Outcome) -> Results:
    found = sample_results()
    found.outcomes = list(outcomes)
    return found


def shown(found: Results, width: int = 100) -> str:
    out = io.StringIO()
    show(found, Console(file=out, width=width))
    return out.getvalue()


def test_a_figure_that_no_run_has_is_said_to_be_missing() -> None:
    """A proxy that answered nothing has no latencies; its other figures are shown."""
    silent = Subject(config="c", samples=[Sample({"rps": 0.0, "cpu_us": 3.0, "failed": 9.0}, round=1)])
    found = results(outcome(Limit(1.0, ("haproxy",), "p99_us"), tidegate=subject(2.0), haproxy=silent))
    for text in (shown(found), markdown(found), html(found)):
        assert "none" in text
    assert verdicts(found.outcomes[0])[0].peer is None


def test_headline_is_the_ratio_to_the_best_peer() -> None:
    found = outcome(
        Limit(1.0, ("haproxy",)), tidegate=subject(9.0, 11.0), haproxy=subject(20.0, 20.0), nginx=subject(10.0, 10.0)
    )
    assert best_peer(found, CPU) == "nginx"
    assert best_peer(found, CPU, ("haproxy",)) == "haproxy"
    assert best_peer(found, LOAD_METRICS[1]) == "nginx"  # more requests/s are better
    (line,) = summary(results(found))
    assert line.peer == "nginx"
    assert line.versus is not None
    assert line.versus.ranking is Ranking.EVEN
    low, high = interval([0.9, 1.1])
    assert words.full_ratio(line.versus) == f"1.00x ({words.times(low)} to {words.times(high)})"
    # The limit is against the peers that it names.
    assert line.verdict is not None
    assert line.verdict.met is True
    assert words.against_limit(line.verdict) == "CPU µs/request at most 1x haproxy: met (0.50x haproxy)"


def test_limits_against_a_peer_against_a_value_and_none() -> None:
    missed = verdict(outcome(Limit(1.0, ("nginx",)), tidegate=subject(10.1, 10.1), nginx=subject(10.0, 10.0)))
    assert missed is not None
    assert missed.met is False
    absolute = verdict(outcome(Limit(8192), tidegate=subject(8193.0)))
    assert absolute is not None
    assert absolute.met is False
    assert verdict(outcome(tidegate=subject(1.0))) is None


def test_of_several_limits_the_one_in_most_need_is_told() -> None:
    limits = Limit(0.5, ("haproxy",)), Limit(0.25, ("nginx",)), Limit(0.5, ("envoy",))
    ours = {"tidegate": subject(3.0, 3.0), "haproxy": subject(10.0, 10.0), "nginx": subject(10.0, 10.0)}
    found = outcome(*limits, **ours)
    assert [one.met for one in verdicts(found)] == [True, False, None]
    missed = verdict(found)
    assert missed is not None
    assert missed.peer == "nginx"
    unknown = verdict(outcome(limits[0], limits[2], **ours))
    assert unknown is not None
    assert unknown.met is None
    assert "limit: CPU µs/request at most 0.25x nginx: missed (0.30x nginx)" in "\n".join(losses(results(found)))


def test_a_limit_of_a_metric_of_which_more_is_better_is_the_least() -> None:
    rates = {"tidegate": subject(10.0, 10.0), "haproxy": subject(9.0, 9.0), "nginx": subject(20.0, 20.0)}
    found = outcome(
        Limit(0.95, ("haproxy", "nginx"), "rps"),  # the best is the quicker one: 0.90 of it
        Limit(0.9, ("haproxy",), "rps"),
        Limit(100_001, metric="rps"),
        Limit(99_999, metric="rps"),
        **rates,
    )
    assert [one.peer for one in verdicts(found)] == ["haproxy", "haproxy", None, None]
    assert [words.against_limit(one) for one in verdicts(found)] == [
        "requests/s at least 0.95x haproxy or nginx: missed (0.90x haproxy)",
        "requests/s at least 0.9x haproxy: met (0.90x haproxy)",
        "requests/s at least 100,001: missed (100,000)",
        "requests/s at least 99,999: met (100,000)",
    ]
    missed = verdict(found)
    assert missed is not None
    assert missed.limit.bound == 0.95


@pytest.mark.parametrize(("failed", "met"), [(0.0, True), (1.0, False)])
def test_none_at_all_can_be_the_limit(failed: float, met: bool) -> None:
    found = outcome(Limit(0.5, ("nginx",)), Limit(0, metric="failed"), tidegate=subject(1.0), nginx=subject(1.9))
    found.subjects["tidegate"].samples[0].values["failed"] = failed
    assert [one.met for one in verdicts(found)] == [False, met]
    worst = verdict(found)
    assert worst is not None
    # Any failure is infinitely more than none, and a limit that is missed goes before one that is just kept.
    assert worst.metric.key == ("cpu_us" if met else "failed")


def test_a_limit_that_is_missed_goes_before_one_that_was_not_measured() -> None:
    ours = {"tidegate": subject(2.0), "nginx": subject(1.0)}
    order = (Limit(3.0, ("nginx",)), Limit(1.0, ("envoy",)), Limit(0, metric="failed"), Limit(1.5, ("nginx",)))
    worst = [verdict(outcome(*order[: n + 1], **ours)) for n in range(len(order))]
    assert [one and one.limit for one in worst] == [order[0], order[1], order[1], order[3]]


def test_a_rate_that_was_the_loads_is_held_against_no_limit() -> None:
    found = outcome(Limit(2.0, ("nginx",), "rps"), tidegate=subject(1.0, 1.0), nginx=subject(1.0, 1.0))
    assert [one.met for one in verdicts(found)] == [False]
    found.subjects["nginx"].samples[0].warnings.append(f"saturated the load's cores: {store.LOADS_RATE}")
    assert [one.met for one in verdicts(found)] == [None]


def test_every_report_names_the_metric_of_a_limit_that_is_not_the_headline() -> None:
    found = results(
        outcome(Limit(3.0, ("nginx",)), Limit(0.9, ("nginx",), "p99_us"), tidegate=subject(2.0), nginx=subject(1.0)),
        outcome(Limit(3.0, ("nginx",)), Limit(9.0, ("nginx",), "p99_us"), tidegate=subject(2.0), nginx=subject(1.0)),
    )
    said = "p99 µs at most 0.9x nginx: missed (1.00x nginx)"
    terminal, document, page = shown(found), markdown(found), html(found)
    # The first scenario's row tells the limit of another metric, the second's that of the headline.
    rows = terminal.partition("x: t")[0]
    assert re.search(r"missed +\n.* p99 µs +\n.* met *\n", rows), rows
    assert rows.count("p99 µs") == 1
    assert "| **missed** (p99 µs at most 0.9x nginx) |" in document
    assert "| met (at most 3x nginx) |" in document
    assert "<small>p99 µs at most 0.9x nginx</small>" in page
    assert "<small>at most 3x nginx</small>" in page
    for text in (terminal, document, page):
        assert text.count(said) == 2  # in the scenario, and where Tidegate loses


def test_a_limit_of_a_metric_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match="the scenario x has no metric 'p95_us' for its limit"):
        outcome(Limit(1.0, metric="p95_us"))


@pytest.mark.parametrize(
    "subjects",
    [
        {"tidegate": subject(1.0), "haproxy": subject(9.0)},
        {"tidegate": subject(1.0), "nginx": Subject(failed="it broke")},
        {"tidegate": Subject(failed="it broke"), "nginx": subject(1.0)},
        {"nginx": subject(1.0)},
    ],
)
def test_nothing_is_claimed_without_both_sides(subjects: dict[str, Subject]) -> None:
    found = verdict(outcome(Limit(1.0, ("nginx",)), **subjects))
    assert found is not None
    assert found.met is None
    assert "not measured" in markdown(results(outcome(Limit(1.0, ("nginx",)), **subjects)))
    assert shown(results(outcome(Limit(1.0, ("nginx",)), **subjects)))


def test_a_single_run_has_no_interval_and_no_standing() -> None:
    found = outcome(tidegate=subject(9.0), nginx=subject(10.0))
    compared = versus(found, CPU, "nginx")
    assert compared is not None
    assert compared.ranking is Ranking.ONCE
    assert words.full_ratio(compared) == "0.90x"
    assert "no interval is claimed" in confidence(results(found))
    assert "at 99%" in confidence(sample_results())


def test_where_we_lose_is_complete() -> None:
    found = sample_results()
    said = "\n".join(losses(found))
    for outcome_ in found.outcomes:
        for metric in outcome_.metrics:
            for peer in outcome_.subjects:
                compared = versus(outcome_, metric, peer) if peer != "tidegate" else None
                if compared and compared.ranking is Ranking.BEHIND:
                    assert f"{outcome_.scenario}: {metric.title} ({metric.better} is better): behind" in said
                    assert f"{peer} {words.full_ratio(compared)}" in said
    assert "oip-binary-4k: CPU µs/request (lower is better): behind haproxy" in said
    assert "oip-binary-4k: limit: CPU µs/request at most 1.2x haproxy: missed" in said
    assert "idle-connections: PSS bytes/connection (lower is better): worse in the only run than haproxy 1.02x" in said
    assert "proxy-http1" not in said
    for text in losses(found):
        assert text.split(":")[0] in markdown(found)


def test_losses_name_failures_of_ours_and_counts_without_a_ratio() -> None:
    broken = outcome(tidegate=subject(1.0, failed="it broke"), nginx=subject(1.0))
    assert losses(results(broken)) == ["x: Tidegate failed after 1 run: it broke"]
    assert losses(results(outcome(tidegate=Subject(cannot="no way")))) == ["x: Tidegate cannot: no way"]
    assert losses(results(outcome(nginx=subject(1.0)))) == ["x: Tidegate was not run"]
    lossy = outcome(tidegate=subject(1.0, 1.0), nginx=subject(1.0, 1.0))
    for sample in lossy.subjects["tidegate"].samples:
        sample.values["failed"] = 7.0
    assert losses(results(lossy)) == [
        "x: failed requests (lower is better): behind nginx (7 (7 to 7) against 0 (0 to 0))"
    ]


def test_terminal_fits_100_columns_and_says_standings_in_words() -> None:
    text = shown(sample_results())
    assert max(map(len, text.splitlines())) <= 100
    rows = {line.split()[0]: line for line in text.splitlines() if line.strip()}
    for scenario, word in (("proxy-http1", "ahead"), ("oip-binary-4k", "behind"), ("tcp-small", "even")):
        assert any(scenario in line and word in line for line in text.splitlines()), (scenario, rows)
    assert "\x1b" not in text  # no colour was needed for any of it


def test_terminal_does_not_read_markup_in_what_others_wrote() -> None:
    found = outcome(tidegate=subject(1.0, 2.0), nginx=Subject(failed="[red]boom[/red] [/]"))
    assert "[red]boom[/red] [/]" in shown(results(found))


def test_reports_say_what_failed_what_cannot_and_what_is_doubtful() -> None:
    found = sample_results()
    found.machine["work_file_system"] = "ext4"
    for text in (shown(found, 250), markdown(found)):
        assert "tcp-small: varnish cannot: it speaks HTTP only" in text
        assert "oip-binary-4k: nginx failed after 0 runs" in text
        assert "tidegate, run 1: other programs were busy" in text
        assert "traefik was skipped: not installed" in text
        assert "on ext4, not in memory" in text
        assert "Example CPU" in text
        assert "belong to this machine" in text
        assert "the peers pass the same bytes on" in text


def test_markdown_tables_are_whole_and_text_is_escaped() -> None:
    text = markdown(sample_results(), "benchmarks/")
    assert ATTACK not in text
    assert "<script>" not in text
    widths: set[int] = set()
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            widths.add(line.replace("\\|", "").count("|"))
            assert len(widths) == 1, line
        else:
            widths.clear()
    assert "![proxy-http1: CPU µs/request](benchmarks/proxy-http1-cpu-us.svg)" in text
    assert "(benchmarks/autoscale-trace-series.svg)" in text
    assert "![" not in markdown(sample_results())


def test_a_scenario_that_is_no_longer_known_is_reported_from_the_file_alone(tmp_path: Path) -> None:
    found = results(load_outcome("gone-since", "of old", {"tidegate": 1.0, "nginx": 2.0}, ()))
    loaded = store.load(store.save(found, tmp_path))
    assert loaded == found
    assert markdown(loaded) == markdown(found)
    assert "gone-since" in shown(loaded)


def test_results_survive_the_file(tmp_path: Path) -> None:
    found = sample_results()
    path = store.save(found, tmp_path)
    assert store.load(path) == found
    assert store.newest(tmp_path) == path


def test_results_from_before_limits_named_a_metric_are_read(tmp_path: Path) -> None:
    path = store.save(results(outcome(Limit(0.7, ("nginx",)), tidegate=subject(1.0), nginx=subject(2.0))), tmp_path)
    data = json.loads(path.read_text())
    data["outcomes"][0]["limits"] = [{"at_most": 0.6, "peers": ["nginx"]}, {"at_most": 0.4, "peers": []}]
    path.write_text(json.dumps(data))
    found = store.load(path).outcomes[0]
    assert found.limits == (Limit(0.6, ("nginx",)), Limit(0.4))
    assert [one.met for one in verdicts(found)] == [True, False]


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="no results"):
        store.newest(tmp_path)
    path = tmp_path / "x.json"
    for text in ("", "[]", "{}", '{"format": 99}', '{"format": 2}'):
        path.write_text(text)
        with pytest.raises(BenchError, match=r"x\.json"):
            store.load(path)
    path.write_text('{"format": 1, "outcomes": []}')
    with pytest.raises(BenchError, match="format"):
        store.load(path)
    bare = results(Outcome("x", title="t", metrics=(Metric("a", "b", "lower"),)))
    data = json.loads(store.save(bare, tmp_path).read_text())
    data["outcomes"][0]["metrics"] = []
    path.write_text(json.dumps(data))
    with pytest.raises(BenchError, match="the scenario x has no metric"):
        store.load(path)
    for limit, said in (({"bound": 1.0, "peers": [], "metric": "b"}, "no metric 'b'"), ({"peers": []}, "bound")):
        data["outcomes"][0] |= {"metrics": [{"key": "a", "title": "b", "better": "lower"}], "limits": [limit]}
        path.write_text(json.dumps(data))
        with pytest.raises(BenchError, match=said):
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
    found = warnings(cores, Usage(100, proxy, server, load, others), {})
    assert (said is None and not found) or (said is not None and len(found) == 1 and said in found[0])


def test_failed_requests_are_told() -> None:
    assert warnings(Cores(0, (1,)), Usage(100, 50, 0, 0, 0), {"status": 3}) == ["failed requests: 3 status"]
