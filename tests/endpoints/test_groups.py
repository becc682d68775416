"""Groups of endpoints: which is asked first for a request, and which then."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from compiled.endpoint_set import draw_group
from hypothesis import given
from hypothesis import strategies as st
from property import examples

from lb.endpoints.choice import Choice
from lb.endpoints.ejection_state import EjectionStates
from lb.endpoints.groups import Groups
from lb.endpoints.set import EndpointSet
from lb.shared.hashing import hash64_bytes
from lb.shared.segment import Segment

KEYS = [hash64_bytes(b"key %d" % i) for i in range(4000)]
Make = Callable[..., Groups]


@pytest.fixture(scope="module")
def master() -> Iterator[Segment]:
    segment = Segment.create(4, endpoint_capacity=16, series_capacity=1)
    for slot in range(16):
        segment.set_weight(slot, 1)
        segment.set_health(slot, True, 1)
    yield segment
    segment.close()


@pytest.fixture(scope="module")
def make(master: Segment) -> Iterator[Make]:
    """`make({group: thousandths}, keyed)`: one endpoint for each group."""
    segments = [Segment.attach(os.dup(master.fd), worker) for worker in range(4)]

    def made(shares: dict[int, int], keyed: bool = False, worker: int = 0) -> Groups:
        tell(master, shares)
        return Groups(segments[worker], range(len(shares)), list(shares), keyed)

    yield made
    for segment in segments:
        segment.close()


def tell(master: Segment, shares: dict[int, int]) -> None:
    states = EjectionStates(master, range(len(shares)))
    for slot, share in enumerate(shares.values()):
        states.hold_back(slot, 0, False, share)


@examples(50)
@given(st.lists(st.integers(0, 300), min_size=1, max_size=8).filter(any), st.integers(0, 3))
def test_requests_alternate_by_the_shares(make: Make, shares: list[int], worker: int) -> None:
    """Spread so evenly that a short run has them, too: no group is ever more than a few requests off."""
    groups = make(dict(enumerate(shares)), worker=worker)
    seen: Counter[int] = Counter()
    for number in range(1, 500):
        seen[draw_group(groups, 0)] += 1
        assert all(abs(seen[g] - number * share / sum(shares)) < 6 for g, share in enumerate(shares))


@examples(50)
@given(st.lists(st.integers(0, 1000), min_size=2, max_size=4).filter(lambda s: 0 < sum(s) < 1000))
def test_a_key_stays_in_its_group_as_long_as_shares_behind_it_change(
    make: Make, master: Segment, shares: list[int]
) -> None:
    """What the first groups have stays theirs; what one loses goes to those behind it."""
    before = dict(enumerate([*shares, 1000 - sum(shares)]))
    groups = make(before, keyed=True)
    first = [draw_group(groups, key) for key in KEYS[:500]]
    assert first == [draw_group(groups, key) for key in KEYS[:500]]
    after = {**before, 0: before[0] // 2}
    after[len(shares)] += before[0] - before[0] // 2
    tell(master, after)
    second = [draw_group(groups, key) for key in KEYS[:500]]
    assert all(then <= now for then, now in zip(first, second, strict=True))
    assert all(then == now for then, now in zip(first, second, strict=True) if then == len(shares))


def test_keys_have_the_shares(make: Make) -> None:
    groups = make({0: 700, 2: 300}, keyed=True)
    seen = Counter(draw_group(groups, key) for key in KEYS)
    assert 0.66 < seen[0] / len(KEYS) < 0.74


def test_workers_do_not_begin_at_the_same_group(make: Make) -> None:
    firsts = {draw_group(make({0: 500, 2: 500}, worker=worker), 0) for worker in range(4)}
    assert firsts == {0, 2}


@pytest.mark.parametrize(
    ("shares", "order", "active"),
    [
        ({0: 1000, 2: 0}, [0, 2], 1),
        ({0: 0, 2: 1000, 4: 0}, [2, 0, 4], 1),
        ({0: 1000, 1: 0, 2: 0, 3: 0}, [0, 1, 2, 3], 2),
        ({0: 0, 1: 1000, 2: 0}, [1, 0, 2], 2),
        ({0: 0, 1: 0, 2: 0, 3: 1000, 4: 0}, [3, 2, 0, 1, 4], 2),
        ({1: 0, 2: 0}, [1, 2], 1),
        ({0: 0, 2: 0, 5: 0}, [0, 2, 5], 1),
    ],
)
def test_the_same_level_is_asked_next_then_those_that_get_requests(
    make: Make, shares: dict[int, int], order: list[int], active: int
) -> None:
    assert make(shares).next_order(0) == (order, active)


def test_a_level_that_gets_some_is_asked_before_those_that_get_none(make: Make) -> None:
    groups = make({0: 0, 2: 600, 4: 400, 6: 0})
    orders = {tuple(groups.next_order(0)[0]) for _ in range(20) if draw_group(groups, 0) is not None}
    assert orders == {(2, 4, 0, 6), (4, 2, 0, 6)}
    assert groups.next_order(0)[1] == 2


def test_to_look_ahead_changes_nothing(make: Make) -> None:
    groups = make({0: 500, 2: 500})
    for _ in range(50):
        ahead = groups.next_order(0)[0][0]
        assert draw_group(groups, 0) == ahead


def test_a_set_that_is_divided(master: Segment) -> None:
    segment = Segment.attach(os.dup(master.fd), 0)
    endpoints = EndpointSet(segment, ["192.0.2.1:1", "192.0.2.2:1", "192.0.2.3:1"], [0, 1, 2])
    with pytest.raises(RuntimeError):
        endpoints.divide([0, 0, 2])
    with pytest.raises(ValueError, match="not divided"):
        Choice(endpoints, group=0)
    endpoints.shape(False, 1)
    with pytest.raises(ValueError, match="3 endpoints but 2 groups"):
        endpoints.divide([0, 2])
    endpoints.divide([0, 2, 2])
    seen = {}
    for group in (0, 2, 1, -1):
        choice = Choice(endpoints, group=group)
        seen[group] = [choice.available(i) for i in range(3)]
    assert seen == {0: [True, False, False], 2: [False, True, True], 1: [False] * 3, -1: [True] * 3}
    segment.close()
    with pytest.raises(ValueError, match="closed"):
        endpoints.available(0)


def test_wrong_groups(make: Make, master: Segment) -> None:
    for wrong in ([], [-1], [256]):
        with pytest.raises(ValueError, match="0 to 255"):
            Groups(master, range(len(wrong)), wrong, False)
    with pytest.raises(ValueError, match="1001"):
        EjectionStates(master, [0]).hold_back(0, 0, False, 1001)


def test_what_a_group_gets_is_beside_what_is_held_back(master: Segment) -> None:
    states = EjectionStates(master, [0])
    states.hold_back(0, 1000, True, 1000)
    assert states.held_back(0) == (1000, True, 1000)
    states.hold_back(0, 7, False, 0)
    assert states.held_back(0) == (7, False, 0)
    states.hold_back(0, 0, False)
