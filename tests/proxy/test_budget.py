"""How many further tries a route may have, over all workers; when retries come, and when hedges."""

from __future__ import annotations

import multiprocessing
import random
from collections.abc import Iterator
from typing import Any

import pytest
from compiled.bytes_to_values import parse_pushback
from compiled.exchange import Budget, Quantiles

from lb.shared.segment import Segment

SECOND = 1_000_000_000
MILLISECOND = 1_000_000


@pytest.fixture
def master() -> Iterator[Segment]:
    made = Segment.create(4)
    return made


def budget(master: Segment, worker: int = 0, percent: int = 20, least: int = 2, hedges: bool = False) -> Any:
    return Budget(Segment.attach(master.fd, worker), 5, percent, least, hedges)


def test_retries_are_a_share_of_the_requests(master: Segment) -> None:
    one = budget(master)
    for _ in range(100):
        one.begin(SECOND)
    assert sum(one.claim(SECOND) for _ in range(100)) == 20
    assert not one.claim(SECOND)
    # In the next second the last one's requests still count, and its tries too.
    assert sum(one.claim(2 * SECOND) for _ in range(100)) == 2
    # Much later nothing does, and the least is allowed.
    assert sum(one.claim(90 * SECOND) for _ in range(100)) == 2
    assert sum(one.claim(91 * SECOND) for _ in range(100)) == 2


def test_what_was_not_used_can_be_had_again(master: Segment) -> None:
    one = budget(master, least=0, percent=1)
    for _ in range(100):
        one.begin(SECOND)
    assert one.claim(SECOND)
    assert not one.claim(SECOND)
    one.give_back(SECOND)
    assert one.claim(SECOND)


def test_nor_does_it_cost_what_is_always_allowed(master: Segment) -> None:
    one, other = budget(master, percent=0, least=2), budget(master, 1, percent=0, least=2)
    for _ in range(5):
        assert one.claim(SECOND)
        one.give_back(SECOND)
    assert [each.claim(SECOND) for each in (one, other, one, other)] == [True, True, False, False]


def test_a_budget_of_a_hundred_percent_is_none(master: Segment) -> None:
    one = budget(master, percent=100, least=0)
    assert all(one.claim(SECOND) for _ in range(1000))


def test_hedges_and_retries_have_budgets_of_their_own(master: Segment) -> None:
    retries, hedges = budget(master, percent=0, least=3), budget(master, percent=0, least=2, hedges=True)
    assert sum(retries.claim(SECOND) for _ in range(10)) == 3
    assert sum(hedges.claim(SECOND) for _ in range(10)) == 2


def test_workers_share_one(master: Segment) -> None:
    workers = [budget(master, i, percent=10, least=0) for i in range(4)]
    for i in range(400):
        workers[i % 4].begin(SECOND)
    given = [worker.claim(SECOND) for _ in range(100) for worker in workers]
    # The first request of a worker is that by which its second begins: what came before it is another's.
    assert 39 <= sum(given) <= 40
    assert not any(worker.claim(SECOND) for worker in workers)


def _claim(fd: int, worker: int, times: int, results: Any, start: Any) -> None:
    one = Budget(Segment.attach(fd, worker), 5, 0, 500)
    start.wait()
    results.put(sum(one.claim(7 * SECOND) for _ in range(times)))


def test_contenders_are_never_given_more_than_there_is(master: Segment) -> None:
    context = multiprocessing.get_context("fork")
    results, start = context.Queue(), context.Barrier(4)
    children = [context.Process(target=_claim, args=(master.fd, i, 2000, results, start)) for i in range(4)]
    for child in children:
        child.start()
    given = sum(results.get(timeout=60) for _ in children)
    for child in children:
        child.join(30)
    # Those who meet at the last one may all step back, and then come again.
    assert given == 500


@pytest.mark.parametrize(
    ("value", "wait"),
    [(b"0", 0), (b"250", 250), (b"-1", -2), (b"", -2), (b"1s", -2), (b"9999999999", -2), (b"999999999", 999_999_999)],
)
def test_pushback(value: bytes, wait: int) -> None:
    assert parse_pushback(value) == wait


@pytest.mark.parametrize("per_mille", [500, 900, 950, 990, 999])
def test_quantiles_are_within_an_eighth(per_mille: int) -> None:
    made = Quantiles()
    draw = random.Random(5)
    values = sorted(int(draw.lognormvariate(16, 1)) for _ in range(20_000))
    for value in values:
        made.add(SECOND, value)
    exact = values[len(values) * per_mille // 1000]
    assert exact < made.quantile(per_mille) <= exact * 1.13


@pytest.mark.parametrize("value", [0, 1, 7, 8, 15, 16, 17, 1000, 123_456_789, 1 << 40, (1 << 62) - 1, (1 << 64) - 1])
def test_a_quantile_is_above_its_only_sample(value: int) -> None:
    made = Quantiles()
    made.add(SECOND, value)
    found = made.quantile(500)
    assert found == 0 if value >> 60 == 15 else value < found <= max(value * 1.13, value + 1)


def test_too_few_samples_give_no_quantile() -> None:
    made = Quantiles()
    for _ in range(99):
        made.add(SECOND, MILLISECOND)
    assert made.quantile(950, 100) == 0
    made.add(SECOND, MILLISECOND)
    assert made.quantile(950, 100) > MILLISECOND


def test_what_is_long_ago_fades() -> None:
    made = Quantiles()
    for _ in range(1000):
        made.add(SECOND, 100 * MILLISECOND)
    for second in range(11, 111, 10):
        for _ in range(100):
            made.add(second * SECOND, MILLISECOND)
    assert made.quantile(950) < 2 * MILLISECOND
