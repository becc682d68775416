"""Smooth weighted round robin: exact sequences."""

from collections import Counter

from fleet import DRAIN, Fleet, choose
from hypothesis import given
from hypothesis import strategies as st
from property import examples


def sequence(policy, count, exclude=-1):
    return "".join("abcdefgh"[choose(policy, 0, 0, exclude)] for _ in range(count))


def test_published_example():
    with Fleet([5, 1, 1]) as fleet:
        assert sequence(fleet.build("round_robin"), 14) == "aabacaa" * 2


def test_equal_weights_take_turns():
    with Fleet([3, 3, 3, 3]) as fleet:
        assert sequence(fleet.build("round_robin"), 8) == "abcdabcd"


@examples(50)
@given(weights=st.lists(st.integers(0, 12), min_size=1, max_size=7), worker=st.integers(0, 2))
def test_every_round_gives_each_endpoint_its_weight(weights, worker):
    with Fleet(weights, workers=3) as fleet:
        policy = fleet.build("round_robin", worker)
        for _ in range(3):
            counts = Counter(choose(policy, 0, 0) for _ in range(sum(weights)))
            assert counts == Counter({i: w for i, w in enumerate(weights) if w})


def reference(weights, count):
    """The published algorithm, as written down."""
    current = [0] * len(weights)
    for _ in range(count):
        current = [c + w for c, w in zip(current, weights, strict=True)]
        best = current.index(max(current))
        current[best] -= sum(weights)
        yield best


@examples(50)
@given(weights=st.lists(st.integers(1, 50), min_size=1, max_size=9))
def test_same_as_the_published_algorithm(weights):
    with Fleet(weights) as fleet:
        policy = fleet.build("round_robin")
        assert [choose(policy, 0, 0) for _ in range(200)] == list(reference(weights, 200))


def test_workers_begin_at_different_endpoints():
    with Fleet([1, 1, 1], workers=4) as fleet:
        assert [sequence(fleet.build("round_robin", worker), 4) for worker in range(4)] == [
            "abca",
            "bcab",
            "cabc",
            "abca",
        ]


def test_pause_keeps_the_others_even():
    with Fleet([1, 1, 1]) as fleet:
        policy = fleet.build("round_robin")
        assert sequence(policy, 1) == "a"
        fleet.admin(1, DRAIN)
        counts = Counter(sequence(policy, 100))
        assert all(49 <= counts[name] <= 51 for name in "ac")  # "a" has had a turn already
        fleet.admin(1, 0)
        counts = Counter(sequence(policy, 99))
        assert all(32 <= counts[name] <= 34 for name in "abc")


def test_new_weights_come_without_a_burst():
    with Fleet([1000, 999]) as fleet:
        policy = fleet.build("round_robin")
        sequence(policy, 1001)
        fleet.weigh(0, 1)
        fleet.weigh(1, 1)
        assert sequence(policy, 6) == "ababab"
        fleet.weigh(0, 5)
        assert Counter(sequence(policy, 12)) == {"a": 10, "b": 2}


def test_excluded_endpoint_loses_no_turn():
    with Fleet([1, 1, 1]) as fleet:
        policy = fleet.build("round_robin")
        assert [choose(policy, 0, 0), choose(policy, 0, 0, 1)] == [0, 2]
        assert sequence(policy, 3) in {"bac", "bca", "abc"}
