"""Prequal with probes: the pool of answers, and the hot-cold rule by them.

Budgets are the paper's (NSDI 2024, section 4); the other numbers are worked out by hand from the rule.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from fleet import DRAIN, Fleet, choose
from simulated import MS, T0, S

from lb.balancing.policy import Policy
from lb.balancing.probes import reuse_budget
from lb.endpoints.choice import Choice
from lb.errors import ConfigError


def asking(fleet: Fleet, worker: int = 0, quantile: float = 0.84, **probes: Any) -> Policy:
    return fleet.build("prequal", worker, quantile=quantile, probes=probes)


def told(made: Policy, rifs: Sequence[float], latencies_ms: Sequence[float] | None = None, now: int = T0) -> Policy:
    """Each endpoint has answered so often that these loads are what is usual."""
    latencies = latencies_ms or [10.0] * len(rifs)
    for _ in range(20):
        for i, (rif, latency) in enumerate(zip(rifs, latencies, strict=True)):
            made.probed(i, now, rif, latency * MS)
    return made


def chosen(made: Policy, now: int = T0, exclude: int = -1, turns: int = 100) -> set[int]:
    return set(Counter(choose(made, now, 0, exclude) for _ in range(turns)))


@pytest.mark.parametrize(
    ("size", "endpoints", "rate", "remove", "budget"),
    [
        (16, 100, 3, 1, 1.316),  # the paper's testbed: 2 / (0.84 * 3 - 1)
        (16, 100, 4, 1, 1.0),  # 0.85: an entry is good for one choice at least
        (16, 100, 1.5, 0.25, 1.980),
        (16, 100, 1, 1, 0),  # as many go as come
        (16, 16, 3, 1, 0),  # all endpoints have a place
        (16, 4, 3, 0, 0),
        (2, 3, 3, 0.5, 4.0),
        (16, 0, 3, 1, 0),
    ],
)
def test_the_reuse_budget(size: int, endpoints: int, rate: float, remove: float, budget: float) -> None:
    assert reuse_budget(size, endpoints, rate, remove) == pytest.approx(budget, abs=5e-4)


def test_what_others_have_in_flight_makes_hot() -> None:
    with Fleet([1, 1, 1]) as fleet:
        made = told(asking(fleet, quantile=0.5), [9, 0, 0], [5, 10, 20])
        assert chosen(made) == {1}
        # From here they are all the same.
        assert 0 in chosen(fleet.build("prequal", quantile=0.5))


def test_of_the_cold_the_one_that_says_the_lowest_latency() -> None:
    with Fleet([1, 1, 1]) as fleet:
        assert chosen(told(asking(fleet), [2, 2, 2], [30, 10, 20])) == {1}


def test_all_hot_is_least_load() -> None:
    with Fleet([1, 1, 1]) as fleet:
        made = told(asking(fleet), [1, 1, 1], [30, 10, 20])
        for i, rif in enumerate((30, 50, 40)):
            made.probed(i, T0, rif, 10 * MS)
        assert choose(made, T0, 0) == 0


def test_what_is_in_flight_from_here_is_known_better() -> None:
    """A probe has counted 8 when there were 8 from here. Those are over now: nothing is left. At the other, none were
    from here."""
    with Fleet([1, 1], workers=2) as fleet:
        made = asking(fleet, quantile=0)
        fleet.load(0, 5)
        fleet.load(0, 3, worker=1)
        told(made, [8, 6])
        assert chosen(made) == {1}
        fleet.load(0, -5)
        fleet.load(0, -3, worker=1)
        assert chosen(made) == {0}
        # And what is sent from now on counts at once, whichever worker sends it.
        fleet.load(0, 7, worker=1)
        assert chosen(made) == {1}


def test_a_server_that_counts_less_than_is_known_has_nothing_from_others() -> None:
    with Fleet([1, 1]) as fleet:
        made = asking(fleet, quantile=0)
        fleet.load(0, 5)
        told(made, [1, 4])
        assert chosen(made) == {1}
        fleet.load(0, -2)
        assert chosen(made) == {0}


def test_the_load_is_by_weight() -> None:
    with Fleet([1, 4]) as fleet:
        assert chosen(told(asking(fleet, quantile=0), [2, 7])) == {1}
        assert chosen(told(asking(fleet, quantile=0), [2, 9])) == {0}


def test_an_endpoint_that_does_not_say_how_long_it_takes_goes_by_what_was_seen() -> None:
    with Fleet([1, 1]) as fleet:
        made = told(asking(fleet), [3, 3], [0, 0])
        for i, seen in enumerate((40, 20)):
            made.learn(i, T0, seen * MS, True, 4, 1)
        assert chosen(made) == {1}
        made.probed(0, T0, 3, 10 * MS)
        assert chosen(made) == {0}


def test_answers_grow_old() -> None:
    with Fleet([1, 1, 1]) as fleet:
        made = told(asking(fleet, quantile=0, max_age="200ms"), [5, 0, 0])
        assert 0 not in chosen(made, T0 + S // 5)
        # By what is in flight from here they take turns.
        assert chosen(made, T0 + S // 5 + 1) == {0, 1, 2}


def test_one_answer_is_no_choice() -> None:
    with Fleet([1, 1, 1]) as fleet:
        made = asking(fleet)
        made.probed(2, T0, 0, 1 * MS)
        assert chosen(made) == {0, 1, 2}
        made.probed(1, T0, 0, 2 * MS)
        assert chosen(made) == {2}
        assert chosen(made, exclude=2) == {0, 1}  # only one of them is of use


def test_those_that_take_no_requests_are_left_out() -> None:
    with Fleet([1, 1, 1, 1]) as fleet:
        made = told(asking(fleet), [0, 0, 0, 0], [1, 2, 3, 4])
        fleet.down(0)
        assert chosen(made) == {1}
        fleet.admin(1, DRAIN)
        assert chosen(made) == {2}
        fleet.weigh(2, 0)
        assert chosen(made) == {3}


def test_a_newer_answer_takes_the_place_of_the_older() -> None:
    with Fleet([1, 1]) as fleet:
        made = told(asking(fleet, quantile=0, pool_size=2), [1, 2])
        assert chosen(made) == {0}
        made.probed(0, T0, 3, 10 * MS)
        assert chosen(made) == {1}


def test_a_full_pool_loses_its_oldest() -> None:
    with Fleet([1] * 4) as fleet:
        made = asking(fleet, quantile=0, pool_size=2, rate=1, remove=1)  # no end to reuse
        made.probed(0, T0 + 2, 0, 10 * MS)
        made.probed(1, T0 + 1, 0, 10 * MS)
        made.probed(2, T0 + 3, 5, 10 * MS)  # in the place of 1
        assert choose(made, T0 + 3, 0) == 0


def test_an_answer_is_used_up() -> None:
    """With room for 2 of 4, 4 probes for each choice and none removed, an entry is good for one choice."""
    with Fleet([1] * 4) as fleet:
        made = asking(fleet, pool_size=2, rate=4, remove=0)
        assert made.pool.reuse == 1
        made.probed(0, T0, 0, 10 * MS)
        made.probed(1, T0, 0, 20 * MS)
        assert choose(made, T0, 0) == 0
        assert made.pool.count == 1


def test_budgets_are_rounded_so_that_their_mean_is_right() -> None:
    """A budget of 4/3: a third of the entries are good for two choices."""
    with Fleet([1] * 4) as fleet:
        made = asking(fleet, pool_size=2, rate=3, remove=0)
        assert made.pool.reuse == pytest.approx(4 / 3)
        uses = 0
        for _ in range(3000):
            made.probed(0, T0, 0, 10 * MS)
            made.probed(1, T0, 0, 20 * MS)
            while made.pool.count == 2:
                assert choose(made, T0, 0) == 0
                uses += 1
        assert uses / 3000 == pytest.approx(4 / 3, abs=0.05)


def test_removal_takes_the_oldest_and_the_worst_in_turn() -> None:
    with Fleet([1] * 5) as fleet:
        made = asking(fleet, quantile=0, pool_size=4, rate=1, remove=1)
        for i, (age, rif) in enumerate(((3, 1), (1, 2), (2, 9), (4, 3))):
            made.probed(i, T0 + age, rif, 10 * MS)
        now = T0 + 10
        assert choose(made, now, 0) == 0
        assert made.pool.count == 3  # without the oldest, 1
        assert choose(made, now, 0, 0) == 3  # 2 has more to do
        assert made.pool.count == 2  # without the worst, 2
        assert choose(made, now, 0) == 0
        assert made.pool.count == 1  # without the oldest, 0


def test_the_worst_of_cold_ones_is_the_slowest() -> None:
    with Fleet([1] * 5) as fleet:
        made = asking(fleet, quantile=1, pool_size=4, rate=1, remove=1)
        for i, latency in enumerate((10, 40, 30, 20)):
            made.probed(i, T0 + i, 3, latency * MS)
        assert choose(made, T0 + 9, 0) == 0  # which then goes as the oldest
        assert choose(made, T0 + 9, 0) == 3
        assert made.pool.count == 2
        assert choose(made, T0 + 9, 0, 3) != 1 or made.pool.count < 2  # 1, the slowest, has gone


def test_nothing_is_removed_where_all_have_a_place() -> None:
    with Fleet([1, 1]) as fleet:
        made = told(asking(fleet, quantile=0), [5, 0])
        assert chosen(made, turns=1000) == {1}


def test_every_worker_has_its_own_answers() -> None:
    with Fleet([1, 1], workers=2) as fleet:
        first, second = asking(fleet, quantile=0), asking(fleet, 1, quantile=0)
        told(first, [5, 0])
        assert chosen(first) == {1}
        assert chosen(second) == {0, 1}


def test_an_explanation_changes_nothing() -> None:
    with Fleet([1] * 5) as fleet:
        made = asking(fleet, pool_size=4, rate=4, remove=1)
        for i in range(4):
            made.probed(i, T0 + i, i, (10 - i) * MS)
        before = made.pool.count
        found = made.explain(Choice(made.endpoints, T0 + 9, 0, -1))
        assert made.pool.count == before
        assert "probe" in found.rule
        best = min(found.scores, key=lambda score: score.score)
        assert choose(made, T0 + 9, 0) == best.index
        assert "from others" in best.note


@pytest.mark.parametrize(
    ("probes", "text"),
    [
        ({"rate": 0}, "probes.rate"),
        ({"pool_size": 1}, "probes.pool_size"),
        ({"timeout": "2s"}, "probes.timeout"),
        ({"path": "load"}, "probes.path"),
        ({"rates": 3}, "rate"),
    ],
)
def test_wrong_options(probes: dict[str, Any], text: str) -> None:
    with Fleet([1]) as fleet, pytest.raises(ConfigError, match=text):
        asking(fleet, **probes)
