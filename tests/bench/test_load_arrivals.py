"""Schedules: rates, randomness, determinism, and traces in several formats."""

from __future__ import annotations

import itertools
from array import array
from collections import Counter
from pathlib import Path
from random import Random
from statistics import fmean, pvariance

import pytest

from bench.errors import BenchError
from bench.load import arrivals, traces
from bench.load.arrivals import Constant, Poisson, Steps, Trace, schedule

S = 1_000_000_000
MINUTES = "minute,requests\n0,2\n1,11\n2,0\n3,7\n"
LLM = (
    "trace,second,requests,context_tokens,generated_tokens\n"
    "code,0,1,4808,10\ncode,1,7,18150,107\ncode,2,0,0,0\nconv,0,3,2000,500\nconv,1,4,1000,100\n"
)


def counts(schedule: array[int], width: int, number: int) -> list[int]:
    found = Counter(at // width for at in schedule)
    assert max(found, default=0) < number
    return [found[i] for i in range(number)]


def write(directory: Path, text: str) -> str:
    path = directory / "trace.csv"
    path.write_text(text)
    return str(path)


def test_constant_is_evenly_spaced_and_does_not_drift() -> None:
    found = arrivals.constant(3, 1000)
    assert len(found) == 3000
    assert found[0] == 0
    assert found[3 * 999] == 999 * S
    assert {b - a for a, b in itertools.pairwise(found)} <= {333_333_333, 333_333_334}


def test_poisson_has_its_rate_and_dispersion() -> None:
    found = arrivals.poisson(1000, 100, Random(7))
    assert abs(len(found) - 100_000) < 5 * 100_000**0.5
    assert list(found) == sorted(found)
    per_10ms = counts(found, S // 100, 10_000)
    # Of a Poisson process the variance of counts is their mean; the ratio's own deviation is (2/n)**0.5 = 0.014.
    assert pvariance(per_10ms) / fmean(per_10ms) == pytest.approx(1, abs=0.07)
    gaps = sorted(b - a for a, b in itertools.pairwise(found))
    assert gaps[len(gaps) // 2] == pytest.approx(0.693e6, rel=0.03)  # the median of an exponential: ln 2 / rate


@pytest.mark.parametrize("shape", [Poisson(500), Steps(((100, 2), (900, 1)))])
def test_the_seed_decides(shape: Poisson | Steps) -> None:
    assert schedule(shape, 1, 0.5, 3) == schedule(shape, 1, 0.5, 3)
    assert schedule(shape, 1, 0.5, 3) != schedule(shape, 2, 0.5, 3)


def test_steps() -> None:
    found = schedule(Steps(((10, 2), (100, 1), (0, 1), (20, 1)), poisson=False), 1)
    assert counts(found, S, 5) == [10, 10, 100, 0, 20]
    random = schedule(Steps(((100, 10), (1000, 10))), 3)
    assert [sum(counts(random, S, 20)[i : i + 10]) for i in (0, 10)] == [
        pytest.approx(1000, abs=160),
        pytest.approx(10_000, abs=500),
    ]


def test_warm_up_comes_first_at_the_first_rate_and_duration_cuts() -> None:
    found = schedule(Steps(((10, 2), (100, 10)), poisson=False), 1, warmup_s=3, duration_s=4)
    assert counts(found, S, 7) == [10, 10, 10, 10, 10, 100, 100]
    assert counts(schedule(Constant(5), 1, 1, 2), S, 3) == [5, 5, 5]


def test_a_trace_by_minutes(tmp_path: Path) -> None:
    shape = Trace(write(tmp_path, MINUTES), speed=60)
    assert counts(schedule(shape, 5), S, 4) == [2, 11, 0, 7]
    assert arrivals.length(shape) == 4
    slow = Trace(shape.path)
    assert counts(schedule(slow, 5), 60 * S, 4) == [2, 11, 0, 7]
    assert arrivals.length(slow) == 240


def test_a_trace_with_several_series(tmp_path: Path) -> None:
    path = write(tmp_path, LLM)
    assert counts(schedule(Trace(path, where="trace=code"), 1), S, 3) == [1, 7, 0]
    assert counts(schedule(Trace(path, where="trace=conv"), 1), S, 2) == [3, 4]
    assert counts(schedule(Trace(path, where="trace=conv", count="context_tokens", factor=0.1), 1), S, 2) == [200, 100]
    with pytest.raises(BenchError, match=r"trace\.csv: line 5: time does not go forward.*COLUMN=VALUE"):
        schedule(Trace(path), 1)


def test_a_trace_of_the_users_own(tmp_path: Path) -> None:
    path = write(tmp_path, "when;x,hits\n".replace(";x", "") + "100,50\n110,0\n130,20\n")
    bins = traces.read(Path(path), time="when", count="hits")
    assert (bins.width, bins.rows) == (10.0, ((100.0, 50.0), (110.0, 0.0), (130.0, 20.0)))
    found = schedule(Trace(path, "when", "hits", start=100), 1)
    assert counts(found, 10 * S, 4) == [50, 0, 0, 20]
    assert counts(schedule(Trace(path, "when", "hits", start=110, stop=131), 1), 10 * S, 3) == [0, 0, 20]


def test_a_trace_scaled(tmp_path: Path) -> None:
    rows = "".join(f"{i},{10 + 10 * (i % 2)}\n" for i in range(1000))
    path = write(tmp_path, "second,requests\n" + rows)
    assert len(schedule(Trace(path, speed=10, mean_rate=300), 1)) == pytest.approx(30_000, rel=0.01)
    third = schedule(Trace(path, factor=1 / 3), 1)
    assert len(third) == pytest.approx(5_000, rel=0.02)  # fractions are not always rounded the same way
    assert set(counts(third, S, 1000)[::2]) == {3, 4}
    spread = counts(schedule(Trace(path, factor=100), 1), S // 10, 10_000)
    assert pvariance(spread[:10]) > 0  # not evenly, within a bin


def test_a_mean_rate_is_that_of_what_is_played(tmp_path: Path) -> None:
    path = write(tmp_path, "second,requests\n" + "".join(f"{i},{i}\n" for i in range(100)))
    assert len(schedule(Trace(path, mean_rate=50), 1)) == pytest.approx(5000, abs=30)
    assert len(schedule(Trace(path, mean_rate=50), 1, duration_s=10)) == pytest.approx(500, abs=10)
    assert len(schedule(Trace(path, mean_rate=50, start=20, stop=40, speed=2), 1, 0, 5)) == pytest.approx(250, abs=10)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("minute,requests\n0,1\n1,many\n", r"trace\.csv: line 3: requests is not a number: 'many'"),
        ("minute,requests\n0,1\n1\n", r"trace\.csv: line 3: requests is not a number"),
        ("minute,requests\n0,1\n1,-1\n", r"trace\.csv: line 3: requests must be 0 or more"),
        ("minute,requests\n0,1\n1,nan\n", r"trace\.csv: line 3: requests must be 0 or more"),
        ("minute,requests\n,1\n", r"trace\.csv: line 2: minute is not a number"),
        ("minute,requests\n3,1\n2,1\n", r"trace\.csv: line 3: time does not go forward"),
        ("minute,hits\n3,1\n", r"trace\.csv: line 1: no column 'requests' \(there are: minute, hits\)"),
        ("hour,requests\n3,1\n", r"trace\.csv: line 1: name its column of times"),
        ("minute,requests\n", r"trace\.csv: no rows"),
        ("", r"trace\.csv: line 1: .*there are: none"),
    ],
)
def test_bad_traces(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(BenchError, match=message):
        schedule(Trace(write(tmp_path, text)), 1)


def test_other_mistakes(tmp_path: Path) -> None:
    path = write(tmp_path, LLM)
    for wrong, message in [
        (Trace(str(tmp_path / "none.csv")), "cannot be read"),
        (Trace(path, where="trace"), "COLUMN=VALUE"),
        (Trace(path, where="model=code"), "no column 'model'"),
        (Trace(path, where="trace=other"), "no rows where trace=other"),
        (Trace(path, where="trace=code", unit="hour"), "no such unit"),
        (Trace(path, where="trace=code", start=9), "no rows from second 9"),
        (Trace(path, where="trace=code", speed=0), "speed must be above 0"),
        (Trace(path, where="trace=code", factor=1e9), "too many for one run"),
        (Constant(-1), "must be 0 or more"),
        (Poisson(float("inf")), "must be 0 or more"),
        (Poisson(1e9), "too many for one run"),
        (Steps(()), "at least one step"),
    ]:
        with pytest.raises(BenchError, match=message):
            schedule(wrong, 1, 0, 1 if isinstance(wrong, (Constant, Poisson)) else None)
    with pytest.raises(BenchError, match="need a duration"):
        schedule(Poisson(1), 1)
