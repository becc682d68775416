"""The samples of the traffic: rates, quantiles, and what is kept of them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import cast

import pytest

from lb.config.plan.plan import Plan
from lb.control.watch import history as module
from lb.control.watch.history import KEPT, History, quantile
from lb.shared.words import BOUNDS_US, ENDPOINT, MODEL, QUEUE, ROUTE, SIZE, Kind

SECOND = 1_000_000_000
LABELLED = ("requests_", "grpc_", "cache_", "ended_", "failures_")


class Counters:
    """Series of a plan that count what a test says."""

    def __init__(self) -> None:
        self.series: dict[tuple[Kind, tuple[str, ...]], list[int]] = {}
        self.now = 0

    def add(self, kind: Kind, *labels: str, **counts: int) -> None:
        """`requests_2xx=3` is the word requests.2xx; `duration_us` is how long each request of this call took."""
        words = self.series.setdefault((kind, labels), [0] * SIZE)
        duration = counts.pop("duration_us", None)
        requests = sum(n for name, n in counts.items() if name.startswith("requests_"))
        for name, n in {"started": requests, "finished": requests, **counts}.items():
            place = name.replace("_", ".", 1) if name.startswith(LABELLED) else name
            words[kind.place(place)] += n
        if duration is not None:
            at = kind.find("request_duration")[0]
            words[at] += duration * 1000 * requests
            words[at + 1 + sum(bound < duration for bound in BOUNDS_US)] += requests

    def sample(self, history: History, seconds: float = 5) -> None:
        self.now += int(seconds * SECOND)
        rows = list(self.series.values())
        history.sample(cast(Plan, self), lambda number: rows[number], self.now, 1000 + self.now / SECOND)

    def places(self) -> Iterator[tuple[Kind, tuple[str, ...], int]]:
        for number, (kind, labels) in enumerate(self.series):
            yield kind, labels, number


@pytest.fixture
def counters(monkeypatch: pytest.MonkeyPatch) -> Counters:
    monkeypatch.setattr(module, "series_of", lambda plan: plan.places())
    return Counters()


def last(history: History, *key: str) -> dict[str, float]:
    found = history.last(key)
    assert found is not None
    return found


def test_quantiles_lie_inside_of_their_bucket() -> None:
    counts = [0] * (len(BOUNDS_US) + 1)
    assert math.isnan(quantile(counts, 0.5))
    counts[3] = 100  # 500 to 1000 us
    assert quantile(counts, 0.5) == pytest.approx(750e-6)
    assert quantile(counts, 0.99) == pytest.approx(995e-6)
    counts[-1] = 300
    assert quantile(counts, 0.99) == BOUNDS_US[-1] / 1e6
    assert quantile([1, *counts[1:]], 0.0) == 0
    values = [quantile(counts, q / 100) for q in range(1, 100)]
    assert all(a <= b for a, b in pairwise(values))


def test_a_sample_is_what_happened_since_the_one_before(counters: Counters) -> None:
    history = History()
    counters.add(ROUTE, "chat", requests_2xx=1000, duration_us=400)
    counters.add(ENDPOINT, "pool", "a", requests_2xx=1000, duration_us=400)
    counters.add(ENDPOINT, "pool", "b")
    counters.sample(history)
    assert history.number == 0
    assert history.last(("route", "chat")) is None
    counters.add(ROUTE, "chat", requests_2xx=40, duration_us=400)
    counters.add(ROUTE, "chat", requests_5xx=10, errors=10, rejected=5, duration_us=90_000)
    counters.add(ROUTE, "chat", started=2)
    counters.add(ENDPOINT, "pool", "a", requests_2xx=40, duration_us=400)
    counters.add(ENDPOINT, "pool", "b", requests_5xx=10, errors=10)
    counters.sample(history)
    found = last(history, "route", "chat")
    assert (found["rate"], found["2xx"], found["5xx"], found["errors"], found["refused"]) == (10, 8, 2, 2, 1)
    assert found["in_flight"] == 2
    assert 250e-6 < found["p50"] < 500e-6
    assert 75e-3 < found["p99"] <= 100e-3
    assert last(history, "total") == found
    assert last(history, "pool", "pool")["rate"] == 10
    assert (last(history, "endpoint", "pool", "a")["errors"], last(history, "endpoint", "pool", "b")["errors"]) == (
        0,
        2,
    )
    counters.sample(history)
    assert last(history, "total")["rate"] == 0
    assert math.isnan(last(history, "total")["p50"])
    assert history.mean(("route", "chat"), "rate", 2) == 5
    assert math.isnan(history.mean(("route", "none"), "rate", 2))


def test_models_have_samples_of_their_own_and_no_part_in_the_total(counters: Counters) -> None:
    history = History()
    counters.add(ROUTE, "chat")
    counters.sample(history)
    counters.add(ROUTE, "chat", requests_2xx=30, requests_429=10, rejected=10, duration_us=400)
    counters.add(MODEL, "pool", "m", requests_2xx=30, requests_429=10, failures_refused=10, errors=5, duration_us=400)
    counters.sample(history)
    total, model = last(history, "total"), last(history, "model", "pool", "m")
    assert (total["rate"], total["429"], total["4xx"], total["other"]) == (8, 2, 0, 0)
    assert (model["rate"], model["429"], model["refused"], model["errors"]) == (8, 2, 2, 1)
    assert history.keys("model") == [("model", "pool", "m")]


def test_counts_that_fall_are_no_negative_rates(counters: Counters) -> None:
    """A series' number may be given to another one by a reload."""
    history = History()
    counters.add(ROUTE, "chat", requests_2xx=100, duration_us=400)
    counters.sample(history)
    counters.series[ROUTE, ("chat",)] = [0] * SIZE
    counters.add(ROUTE, "chat", requests_2xx=5, duration_us=400)
    counters.sample(history)
    assert all(value >= 0 for value in last(history, "route", "chat").values() if not math.isnan(value))


def test_events_are_counted_by_kind(counters: Counters) -> None:
    history = History()
    counters.add(ROUTE, "chat")
    counters.add(ENDPOINT, "pool", "a")
    counters.add(QUEUE, "pool", started=3)
    counters.sample(history)
    counters.add(ROUTE, "chat", requests_2xx=4, grpc_OK=3, grpc_Internal=1, timeouts=2, cache_hit=3, cache_miss=1)
    counters.add(ENDPOINT, "pool", "a", connect_errors=7)
    counters.add(QUEUE, "pool", ended_full=6)
    counters.sample(history)
    counts, seconds = history.counted(300)
    assert seconds == 5
    assert counts == {
        "route.requests.2xx": 4, "route.grpc.OK": 3, "route.grpc.Internal": 1, "route.timeouts": 2,
        "route.cache.hit": 3, "route.cache.miss": 1, "endpoint.connect_errors": 7, "queue.ended.full": 6,
    }  # fmt: skip
    total = history.series(("total",))
    assert (total["waiting"], total["hit_ratio"]) == ([3], [0.75])


def test_half_an_hour_is_kept_and_new_samples_can_be_asked_for_alone(counters: Counters) -> None:
    history = History()
    counters.add(ROUTE, "chat")
    counters.sample(history)
    for n in range(KEPT + 10):
        counters.add(ROUTE, "chat", requests_2xx=n, duration_us=400)
        counters.sample(history, 1)
    found = history.series(("route", "chat"))
    assert found["number"] == KEPT + 10
    assert found["rate"] == list(range(10, KEPT + 10))
    assert len(found["times"]) == KEPT
    rest = history.series(("route", "chat"), KEPT + 7, ["rate"])
    assert rest["rate"] == [KEPT + 7, KEPT + 8, KEPT + 9]
    assert rest["times"] == found["times"][-3:]
    assert history.series(("route", "chat"), KEPT + 10)["rate"] == []
    assert set(history.series(("route", "unknown"))) == {"number", "times"}


def test_series_come_and_go(counters: Counters, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST", 4)
    history = History()
    counters.add(ROUTE, "idle")
    counters.sample(history)
    counters.sample(history)
    assert history.keys("route") == []
    for name in ("a", "b", "c", "d", "e"):
        counters.add(ROUTE, name)
    counters.sample(history)
    for name in ("a", "b", "c", "d", "e"):
        counters.add(ROUTE, name, requests_2xx=5, duration_us=400)
    counters.sample(history)
    assert len(history.keys("route")) == 3  # and the total, which has all of them
    assert last(history, "total")["rate"] == 5
    found = history.series(history.keys("route")[0], fields=["rate"])
    assert found["rate"][-1] == 1
    assert all(math.isnan(value) for value in found["rate"][:-1])
    for name in ("a", "b", "c"):
        del counters.series[ROUTE, (name,)]
    counters.sample(history)
    assert not {("route", "a"), ("route", "b"), ("route", "c")} & set(history.keys("route"))


def test_heat_joins_samples_to_columns(counters: Counters) -> None:
    history = History()
    for name in ("a", "b"):
        counters.add(ENDPOINT, "pool", name)
    counters.sample(history)
    for n in range(12):
        counters.add(ENDPOINT, "pool", "a", requests_2xx=10, errors=10 if n == 5 else 0, duration_us=400)
        counters.sample(history, 1)
    found = history.heat("pool", 4)
    assert len(found["times"]) == 4
    assert set(found["endpoints"]) == {"a"}
    assert found["endpoints"]["a"]["rate"] == [10] * 4
    assert found["endpoints"]["a"]["errors"] == [0, pytest.approx(10 / 3), 0, 0]
    assert history.heat("none", 4)["endpoints"] == {}
    assert History().heat("pool", 4) == {"times": [], "endpoints": {}}
