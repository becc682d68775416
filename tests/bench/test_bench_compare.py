"""Two results side by side: what counts as agreement, what differs, and what is said."""

import io
from collections.abc import Callable

import pytest
from bench_sample import load_outcome, sample_results
from rich.console import Console

from bench import compare as comparing
from bench.compare import Agreement, compare, differences, disagreements
from bench.results import LOADS_RATE, Results, Sample, Subject


def pair(change: Callable[[Results], None]) -> tuple[Results, Results]:
    a, b = sample_results(), sample_results()
    change(b)
    return a, b


def one(found: list[Agreement], scenario: str, key: str, peer: str) -> Agreement:
    (agreement,) = [f for f in found if (f.scenario, f.metric.key, f.peer) == (scenario, key, peer)]
    return agreement


def slower(factor: float) -> Callable[[Results], None]:
    def change(results: Results) -> None:
        for sample in results.outcomes[0].subjects["tidegate"].samples:
            sample.values["cpu_us"] *= factor

    return change


def test_a_result_agrees_with_itself() -> None:
    found = compare(*pair(lambda _: None))
    assert not disagreements(found)
    assert {f.agrees for f in found if f.scenario != "idle-connections"} == {True}
    assert all(f.metric.ratio for f in found)
    assert differences(*pair(lambda _: None)) == []


def test_a_headline_that_moved_disagrees() -> None:
    found = compare(*pair(slower(1.5)))
    assert [(f.scenario, f.metric.key, f.peer) for f in disagreements(found)] == [("proxy-http1", "cpu_us", "nginx")]
    moved = one(found, "proxy-http1", "cpu_us", "varnish")
    assert moved.agrees is False
    assert not moved.headline  # varnish is the best in neither
    assert one(found, "proxy-http1", "p99_us", "nginx").agrees is True


def test_a_small_move_within_the_spread_agrees() -> None:
    assert not disagreements(compare(*pair(slower(1.01))))


def test_a_peer_that_is_the_best_in_either_result_is_in_a_headline() -> None:
    def change(results: Results) -> None:
        for sample in results.outcomes[0].subjects["varnish"].samples:
            sample.values["cpu_us"] /= 10

    found = compare(*pair(change))
    assert {f.peer for f in found if f.headline and f.scenario == "proxy-http1"} == {"nginx", "varnish"}
    assert [f.peer for f in disagreements(found)] == ["varnish"]


def test_a_failure_in_one_disagrees_and_an_absence_says_nothing() -> None:
    def fail(results: Results) -> None:
        results.outcomes[2].subjects["tidegate"] = Subject(failed="it broke")

    broken = one(compare(*pair(fail)), "tcp-small", "cpu_us", "haproxy")
    assert broken.agrees is False
    assert broken.headline
    assert broken.reason == "failed in the second: tidegate"

    def leave_out(results: Results) -> None:
        del results.outcomes[2].subjects["haproxy"]

    absent = one(compare(*pair(leave_out)), "tcp-small", "cpu_us", "haproxy")
    assert absent.agrees is None
    assert absent.reason == "not in the second"


def test_rates_that_were_the_loads_say_nothing() -> None:
    def change(results: Results) -> None:
        for sample in results.outcomes[0].subjects["tidegate"].samples:
            sample.values["rps"] *= 2
            sample.values["cpu_us"] *= 2

    assert one(compare(*pair(change)), "proxy-http1", "rps", "nginx").agrees is False
    a, b = pair(change)
    a.outcomes[0].subjects["nginx"].samples[2].warnings.append(
        f"saturated the load's cores, not the proxy: {LOADS_RATE}"
    )
    limited = one(compare(a, b), "proxy-http1", "rps", "nginx")
    assert limited.agrees is None
    assert limited.reason == "the rate is the load's in the first"
    assert one(compare(a, b), "proxy-http1", "rps", "haproxy").agrees is False
    assert one(compare(a, b), "proxy-http1", "cpu_us", "nginx").agrees is False  # CPU time still holds


def test_single_runs_say_nothing() -> None:
    found = compare(sample_results(), sample_results(1))
    assert {f.agrees for f in found} == {None}
    assert not disagreements(found)


def test_what_differs_is_named() -> None:
    def change(results: Results) -> None:
        results.machine |= {"cpu": "Another CPU", "load_average_at_start": [1, 2, 3]}
        results.versions["nginx"] = "1.99"
        results.options["runs"] = 7
        results.commit = ""
        results.outcomes[0] = load_outcome("new", "t", {"tidegate": 1.0, "nginx": 2.0}, ())

    assert differences(*pair(change)) == [
        "machine cpu: Example CPU <X> and Another CPU",
        "version nginx: 1.26.3 and 1.99",
        "option runs: 5 and 7",
        "revision: 0123456789ab and unknown",
        "only the first has the scenarios proxy-http1",
        "only the second has the scenarios new",
    ]


def test_tables_say_it() -> None:
    a, b = pair(slower(1.5))
    out = io.StringIO()
    found = compare(a, b)
    comparing.show(found, a, b, Console(file=out, width=100))
    assert max(map(len, out.getvalue().splitlines())) <= 100
    for said in (out.getvalue(), comparing.markdown(found, a, b)):
        text = " ".join(said.split())
        assert "The headline of proxy-http1 disagrees: CPU µs/request against nginx." in text
        assert "18 of 22 ratios agree" in text
        assert "Of 2 nothing can be said" in text


@pytest.mark.parametrize("values", [[3.0, 3.1], [0.1, 9.0]])
def test_agreement_is_overlap(values: list[float]) -> None:
    def change(results: Results) -> None:
        outcome = results.outcomes[3]
        outcome.subjects["tidegate"].samples = [
            Sample({"lost": v * 9}, round=i + 1) for i, v in enumerate(values)
        ]  # nginx has 9.0 in each

    found = one(compare(*pair(change)), "autoscale-trace", "lost", "nginx")
    assert found.a is not None
    assert found.agrees is (values[0] <= found.a.median <= values[1])
