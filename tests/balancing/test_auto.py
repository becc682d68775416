"""The default policy: what it learns of endpoints, and what it does with it. Whole pools of it: test_auto_simulated."""

import pytest
from fleet import Fleet, choose, choose_queued
from simulated import latencies, percentile

MS = 1_000_000
S = 1_000_000_000
T0 = 1_000 * S


def teach(policy, index, samples, now=T0, load=1):
    """Answers of `index` that took so many ms with `load` requests there, one after the other; returns when the last
    came. The first is told twice: that of a cold endpoint teaches nothing."""
    for latency in (samples[0], *samples):
        now += round(latency * MS / load)
        policy.learn(index, now, round(latency * MS), True, load, 1)
    return now


def test_the_faster_of_two_idle_ones_is_chosen():
    with Fleet([1, 1]) as fleet:
        made = fleet.build("auto")
        teach(made, 0, [30] * 3)
        now = teach(made, 1, [10] * 3)
        assert {choose(made, now, 0) for _ in range(8)} == {1}


def test_who_waits_counts_the_more_the_more_wait():
    """10 ms at once, or 10 ms behind one that takes 10 ms: the slow one with 15 ms is better, with 40 ms it is not."""
    for slow, chosen in ((15, 0), (40, 1)):
        with Fleet([1, 1]) as fleet:
            made = fleet.build("auto")
            teach(made, 0, [slow] * 3)
            now = teach(made, 1, [10] * 3)
            assert choose(made, now, 0) == 1
            fleet.load(1, 1)
            assert choose(made, now, 0) == chosen


def test_an_endpoint_of_which_nothing_is_known_gets_one_request():
    with Fleet([1, 1]) as fleet:
        made = fleet.build("auto")
        now = teach(made, 0, [1] * 3)
        assert choose(made, now, 0) == 1
        fleet.load(1, 1)
        assert {choose(made, now, 0) for _ in range(5)} == {0}


def test_a_first_answer_teaches_nothing():
    """The endpoint may have loaded its model; nor do answers to what was sent meanwhile."""
    with Fleet([1, 1]) as fleet:
        made = fleet.build("auto")
        made.learn(0, T0 + 5 * S, 5 * S, True, 1, 1)
        made.learn(0, T0 + 5 * S + MS, 4 * S, True, 2, 1)
        assert "nothing known" in made.belief(0, T0 + 6 * S)
        made.learn(0, T0 + 7 * S, 10 * MS, True, 1, 1)
        assert made.belief(0, T0 + 8 * S).startswith("10 ms for a request alone")


def test_a_failure_teaches_nothing():
    with Fleet([1, 1]) as fleet:
        made = fleet.build("auto")
        teach(made, 0, [10] * 3)
        now = teach(made, 1, [12] * 3)
        for i in range(50):
            made.learn(1, now + i * MS, MS, False, 1, 1)
        assert made.belief(1, now + S).startswith("12 ms")


def test_an_endpoint_that_stands_still_is_left_alone_before_it_answers():
    with Fleet([1, 1]) as fleet:
        made = fleet.build("auto")
        teach(made, 0, [10] * 20)
        now = teach(made, 1, [12] * 20)
        assert choose(made, now, 0) == 0
        fleet.load(0, 1)
        assert choose(made, now + MS, 0) == 1
        fleet.load(1, 1)
        late = now + 200 * MS
        made.learn(1, late - MS, 12 * MS, True, 1, 1)
        assert choose(made, late, 0) == 1


def test_a_slow_one_is_tried_again_after_a_while():
    with Fleet([1, 1]) as fleet:
        made = fleet.build("auto")
        teach(made, 0, [100] * 3)
        now = teach(made, 1, [10] * 3)
        assert choose(made, now, 0) == 1
        later = now + 600 * S
        made.learn(1, later - MS, 10 * MS, True, 1, 1)
        made.learn(1, later, 10 * MS, True, 1, 1)
        assert choose(made, later, 0) == 0


def test_weights_are_shares_of_equal_endpoints():
    """Any number at a time, all as fast: what is in flight there is as their weights."""
    with Fleet([4, 1]) as fleet:
        made = fleet.build("auto")
        for index in range(2):
            now = T0
            for load in (1, 2, 4, 8, 16, 32):
                now = teach(made, index, [10] * 20, now, load)
        for _ in range(50):
            fleet.load(choose(made, now, 0), 1)
        assert fleet.sets[0].inflight(0) == pytest.approx(40, abs=2)


@pytest.mark.parametrize("each", [1, 8])
def test_beliefs_name_what_an_endpoint_is(each):
    """One after another, or eight at a time: from eight on a request takes longer the more there are."""
    with Fleet([1]) as fleet:
        made = fleet.build("auto")
        now = T0
        for load in range(1, 40):
            now = teach(made, 0, [10 * max(load, each) / each] * 20, now, load)
        belief = made.belief(0, now)
        assert "10 ms for a request alone" in belief
        assert ("one after another: 100/s" if each == 1 else "about 8 at a time: 800/s") in belief


def test_as_good_as_the_best_where_servers_are_uneven():
    speeds = [10.0] * 8 + [30.0] * 4
    found = {name: latencies(name, speeds, 700) for name in ("auto", "shortest_expected_delay", "least_request")}
    p99 = {name: percentile(values, 0.99) for name, values in found.items()}
    assert p99["auto"] < 1.1 * p99["shortest_expected_delay"]
    assert p99["auto"] < 0.7 * p99["least_request"]


def test_its_explanation_has_a_belief_for_each_endpoint():
    from lb.endpoints.choice import Choice

    with Fleet([1, 1]) as fleet:
        made = fleet.build("auto")
        now = teach(made, 0, [10] * 3)
        explained = made.explain(Choice(fleet.sets[0], now, 0))
        notes = {score.index: score.note for score in explained.scores}
        assert notes[0].startswith("10 ms for a request alone")
        assert notes[1] == "nothing known"
        assert "least expected time" in explained.rule


def test_sessions_that_last_hold_nobody_up_for_long():
    """Two of them take both places of an endpoint that does one request after another, and are idle: others go on after
    a moment, and not only one at a time."""
    with Fleet([1]) as fleet:
        fleet.sets[0].learn_limits()
        made = fleet.build("auto")
        assert choose(made, T0, 0) == 0
        now = teach(made, 0, [10] * 40)
        now = teach(made, 0, [20] * 40, now, 2)
        assert fleet.sets[0].limit(0) == 2
        fleet.load(0, 2)
        assert choose(made, now, 0) == -1
        now += S // 4
        assert choose(made, now, 0) == -1  # which finds out that nothing was heard
        for _ in range(40):
            now += 10 * MS
            assert choose(made, now, 0) == 0
            fleet.load(0, 1)
            now += 10 * MS
            made.learn(0, now, 10 * MS, True, 3, 1)
            fleet.load(0, -1)
        assert fleet.sets[0].limit(0) > 4


def test_a_faster_one_is_waited_for_while_it_goes_on():
    """Both have sessions that last. The slower one has room; the faster one has none, and will have some soon, as long
    as it answers."""
    with Fleet([1, 1]) as fleet:
        fleet.sets[0].learn_limits()
        made = fleet.build("auto")
        assert {choose(made, T0, 0) for _ in range(2)} == {0, 1}
        teach(made, 1, [400] * 3)
        now = teach(made, 0, [10] * 40)
        now = teach(made, 0, [20] * 40, now, 2)
        assert fleet.sets[0].limit(0) == 2
        fleet.load(0, 2)
        fleet.load(1, 1)
        assert choose_queued(made, now, 0) == -1
        assert [choose_queued(made, now + after * MS, 0) for after in (60, 200, 1000, 10_000)] == [1] * 4
