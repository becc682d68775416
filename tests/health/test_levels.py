"""Shares of priorities and zones, as decisions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from lb.health.levels import Candidate, Rules, decide_levels

ENVOY = Rules()


def level(number: int, healthy: int, total: int = 100, part: int = 0) -> list[Candidate]:
    return [Candidate(2 * number + part, 1, True, i < healthy) for i in range(total)]


def shares(candidates: list[Candidate], rules: Rules = ENVOY) -> list[int]:
    return [row.share for row in decide_levels(candidates, rules)]


# Envoy's documentation, "Priority levels": percents of healthy endpoints, and of the traffic, in whole percents there.
TABLE = [
    ((100, 100), (100, 0)),
    ((72, 100), (100, 0)),
    ((71, 100), (99, 1)),
    ((50, 100), (70, 30)),
    ((25, 100), (35, 65)),
    ((0, 100), (0, 100)),
    ((100, 100, 100), (100, 0, 0)),
    ((72, 72, 100), (100, 0, 0)),
    ((71, 71, 100), (99, 1, 0)),
    ((50, 50, 100), (70, 30, 0)),
    ((25, 100, 100), (35, 65, 0)),
    ((25, 25, 100), (35, 35, 30)),
    ((25, 25, 20), (36, 36, 28)),
]


@pytest.mark.parametrize(("healthy", "traffic"), TABLE)
def test_as_envoys_documentation_has_it(healthy, traffic):
    candidates = [c for number, percent in enumerate(healthy) for c in level(number, percent)]
    found = shares(candidates)
    assert sum(found) == 1000
    assert all(abs(share / 10 - percent) < 1 for share, percent in zip(found, traffic, strict=True))


# Its documentation, "Panic threshold", as far as its rows keep to the factor of 140 %: healthy endpoints, traffic,
# and who is in a panic.
PANICS = [
    ((72, 72), (100, 0), (False, False)),
    ((71, 71), (99, 1), (False, False)),
    ((50, 60), (70, 30), (False, False)),
    ((25, 100), (35, 65), (False, False)),
    ((25, 25), (50, 50), (True, True)),
    ((5, 65), (7, 93), (True, False)),
]


@pytest.mark.parametrize(("healthy", "traffic", "panic"), PANICS)
def test_a_panic_of_a_level_only_where_all_together_cannot_carry_everything(healthy, traffic, panic):
    candidates = [c for number, percent in enumerate(healthy) for c in level(number, percent)]
    found = decide_levels(candidates, replace(ENVOY, panic_threshold=50))
    assert tuple(row.panic for row in found) == panic
    assert all(abs(row.share / 10 - percent) < 1.1 for row, percent in zip(found, traffic, strict=True))


def test_where_all_levels_are_in_a_panic_each_has_its_part_by_weight():
    found = decide_levels(level(0, 1, 30) + level(1, 2, 10), replace(ENVOY, panic_threshold=50))
    assert [(row.share, row.panic) for row in found] == [(750, True), (250, True)]


def test_where_nobody_is_healthy_all_are_in_a_panic_or_nobody_gets_anything():
    candidates = level(0, 0, 3) + level(1, 0, 1)
    assert shares(candidates) == [0, 0]
    found = decide_levels(candidates, replace(ENVOY, panic_threshold=50))
    assert [(row.share, row.panic) for row in found] == [(750, True), (250, True)]
    drained = [replace(c, enabled=False) for c in level(0, 3, 3)]
    found = decide_levels(drained + level(1, 0, 3), replace(ENVOY, panic_threshold=50))
    assert [row.share for row in found] == [0, 1000]
    assert shares(drained + [replace(c, enabled=False) for c in level(1, 3, 3)], Rules(panic_threshold=50)) == [0, 0]


@pytest.mark.parametrize(
    ("healthy", "expected"),
    [((4, 4), [1000, 0]), ((1, 4), [1000, 0]), ((0, 4), [0, 1000]), ((0, 1), [0, 1000]), ((0, 0), [0, 0])],
)
def test_without_spilling_the_next_level_has_nothing_while_one_is_healthy(healthy, expected):
    candidates = level(0, healthy[0], 4) + level(1, healthy[1], 4)
    assert shares(candidates, replace(ENVOY, spill=False)) == expected


def test_health_is_by_weight_and_who_is_drained_is_not_healthy():
    heavy = [Candidate(0, 3, True, True), Candidate(0, 1, True, False), Candidate(2, 1, True, True)]
    assert shares(heavy) == [1000, 0]
    light = [Candidate(0, 1, True, True), Candidate(0, 3, True, False), Candidate(2, 1, True, True)]
    assert shares(light) == [350, 650]
    drained = [Candidate(0, 1, True, True), Candidate(0, 3, False, True), Candidate(2, 1, True, True)]
    assert shares(drained) == [350, 650]
    weightless = [Candidate(0, 1, True, True), Candidate(0, 0, True, False), Candidate(2, 1, True, True)]
    assert shares(weightless) == [1000, 0]


@pytest.mark.parametrize(
    ("own", "other", "expected"),
    [
        ((4, 4), (4, 4), (1000, 0)),
        ((3, 4), (4, 4), (1000, 0)),
        ((2, 4), (4, 4), (700, 300)),
        ((1, 4), (1, 4), (350, 650)),
        ((0, 4), (4, 4), (0, 1000)),
        ((1, 4), (0, 4), (1000, 0)),
    ],
)
def test_the_own_zone_has_all_that_it_carries(own, other, expected):
    (found,) = decide_levels(level(0, *own) + level(0, *other, part=1), replace(ENVOY, spill=False))
    assert (found.own, found.other, found.split) == (*expected, True)


def test_in_a_panic_zones_have_their_parts_by_weight():
    """Else a zone that is lost would get everything, as nobody's health counts."""
    candidates = level(0, 0, 3) + level(0, 1, 1, part=1) + level(1, 0, 1)
    found = decide_levels(candidates, replace(ENVOY, panic_threshold=50))
    assert (found[0].panic, found[0].own, found[0].other) == (True, 750 * found[0].share // 1000, found[0].other)
    assert found[0].other == found[0].share - found[0].own > 0


def test_who_has_weight_0_is_not_healthy_for_others():
    candidates = [Candidate(0, 0, True, True), Candidate(0, 0, True, True), Candidate(0, 1, True, False)]
    (found,) = decide_levels(candidates, replace(ENVOY, panic_threshold=50))
    assert (found.panic, found.share) == (True, 1000)


CANDIDATES = st.lists(
    st.builds(Candidate, st.integers(0, 7), st.integers(0, 1000), st.booleans(), st.booleans()), min_size=1, max_size=40
)
RULES = st.builds(Rules, st.booleans(), st.integers(100, 1000), st.integers(100, 1000), st.sampled_from([0, 50, 100]))


def whole(candidates: list[Candidate]) -> list[Candidate]:
    """Every level is there, as plans have it."""
    return candidates + [Candidate(2 * number, 0, True, False) for number in range(4)]


@given(CANDIDATES, RULES)
def test_shares_are_of_all_requests_or_of_none_and_none_are_for_levels_that_have_nobody(candidates, rules):
    found = decide_levels(whole(candidates), rules)
    assert sum(row.share for row in found) == (1000 if any(row.share for row in found) else 0)
    allowed = [c for c in candidates if c.enabled and c.weight]
    if any(c.carries for c in allowed) or (rules.panic_threshold and allowed):
        assert sum(row.share for row in found) == 1000
    for number, row in enumerate(found):
        members = [c for c in candidates if c.group // 2 == number]
        assert 0 <= row.own <= row.share
        assert 0 <= row.carries <= 1
        if row.share and not row.panic:
            assert any(c.carries for c in members)
        for part, share in ((0, row.own), (1, row.other)):
            if share and not row.panic:
                assert any(c.carries for c in members if c.group % 2 == part)


@given(CANDIDATES, RULES, st.data())
def test_who_becomes_healthy_takes_nothing_from_its_level(candidates, rules, data):
    rules = replace(rules, panic_threshold=0)
    index = data.draw(st.integers(0, len(candidates) - 1))
    better = list(candidates)
    better[index] = replace(candidates[index], enabled=True, healthy=True)
    number = candidates[index].group // 2
    before, after = (decide_levels(whole(which), rules) for which in (candidates, better))
    assert after[number].carries >= before[number].carries
    # A thousandth for rounding.
    assert after[number].share >= before[number].share - 1
    assert sum(row.share for row in after[: number + 1]) >= sum(row.share for row in before[: number + 1]) - 1


@given(CANDIDATES, st.integers(100, 500), st.integers(100, 500))
def test_more_overprovisioning_leaves_less_to_those_behind(candidates, one, two):
    low, high = (decide_levels(whole(candidates), Rules(overprovisioning=f)) for f in sorted((one, two)))
    if sum(row.carries for row in low) >= 1:
        for number in range(4):
            first = [sum(row.share for row in found[: number + 1]) for found in (low, high)]
            assert first[1] >= first[0] - 1
