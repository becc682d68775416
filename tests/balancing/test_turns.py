"""Endpoints whose recent attempts failed: how the share is kept, and which turns they take."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from children import ENVIRONMENT
from compiled.endpoint_set import note_attempt_at
from fleet import Fleet, choose, choose_in_turn

from lb.balancing.options import PolicyOptions
from lb.balancing.policy import Policy
from lb.endpoints.choice import Choice

SECOND = 1_000_000_000
NOW = 5 * SECOND


def fail(fleet: Fleet, i: int, times: int = 20, now: int = NOW) -> None:
    for _ in range(times):
        note_attempt_at(fleet.sets[0], i, True, now)


def test_an_attempt_moves_the_share_half_of_the_way() -> None:
    with Fleet([1]) as fleet:
        seen = []
        for failed in (False, True, True, False, False):
            note_attempt_at(fleet.sets[0], 0, failed, NOW)
            seen.append(fleet.sets[0].failing(0, NOW))
        assert seen == pytest.approx([0, 0.5, 0.75, 0.375, 0.1875], abs=1e-6)


def test_time_halves_it_every_ten_seconds() -> None:
    with Fleet([1]) as fleet:
        fail(fleet, 0)
        assert fleet.sets[0].failing(0, NOW) == pytest.approx(1, abs=1e-4)
        assert fleet.sets[0].failing(0, NOW + 10 * SECOND) == pytest.approx(0.5, rel=0.01)
        assert fleet.sets[0].failing(0, NOW + 30 * SECOND) == pytest.approx(0.125, rel=0.01)
        assert fleet.sets[0].failing(0, NOW - SECOND) == fleet.sets[0].failing(0, NOW), "another worker was later"
        assert fleet.master.failing(fleet.slots[0], NOW) == fleet.sets[0].failing(0, NOW)


def test_good_answers_forget_it_altogether() -> None:
    with Fleet([1]) as fleet:
        fail(fleet, 0)
        for _ in range(7):
            note_attempt_at(fleet.sets[0], 0, False, NOW)
        assert fleet.sets[0].failing(0, NOW) == 0
        assert fleet.sets[0].turns(0, NOW) == 1


def test_the_turns_that_go_with_it() -> None:
    with Fleet([1]) as fleet:
        turns = [fleet.sets[0].turns(0, NOW)]
        for times in (1, 1, 30):
            fail(fleet, 0, times)
            turns.append(fleet.sets[0].turns(0, NOW))
        assert turns == pytest.approx([1, 1 / 4, 1 / 16, 1 / 256], rel=1e-3)


@pytest.mark.parametrize("forget", ["health", "slot"])
def test_a_change_of_health_or_of_the_endpoint_forgets_it(forget: str) -> None:
    with Fleet([1]) as fleet:
        fail(fleet, 0)
        if forget == "slot":
            fleet.master.set_key(fleet.slots[0], "pool|another")
        else:
            fleet.down(0)
            fleet.up(0)
        assert fleet.sets[0].failing(0, NOW) == 0


def test_a_share_of_the_turns_at_random_and_the_rest_to_the_others() -> None:
    with Fleet([1, 1, 1, 1]) as fleet:
        policy = fleet.build("round_robin")
        picked = []
        for _ in range(8000):
            fail(fleet, 2, 1)  # the share of one failure after a good answer: 1/2 at most
            note_attempt_at(fleet.sets[0], 2, False, NOW)
            picked.append(choose_in_turn(policy, NOW, 0))
        # Failing goes towards 1/3: 4/9 of 2000 turns, 889; five standard deviations of 22 either way.
        assert 779 <= picked.count(2) <= 999
        assert min(picked.count(i) for i in (0, 1, 3)) > 2000


def test_a_key_stays_where_it_is_while_nothing_changes() -> None:
    with Fleet([1] * 4) as fleet:
        policy = fleet.build("maglev")
        fail(fleet, 1, 1)
        keys = range(1, 4000)
        first = [choose_in_turn(policy, NOW, key) for key in keys]
        assert first == [choose_in_turn(policy, NOW, key) for key in keys]
        owners = [choose(policy, NOW, key) for key in keys]
        assert all(one == owner for one, owner in zip(first, owners, strict=True) if owner != 1), "others' keys moved"
        kept = sum(one == 1 for one in first) / owners.count(1)
        assert kept == pytest.approx(0.25, abs=0.07)


def test_the_excluded_one_is_not_preferred_to_one_that_fails() -> None:
    with Fleet([1, 1]) as fleet:
        policy = fleet.build("least_request")
        fail(fleet, 1)
        assert {choose_in_turn(policy, NOW, 0, 0) for _ in range(100)} == {1}


def test_a_choice_that_raises_leaves_nobody_passed_over() -> None:
    class Breaks(Policy):
        def pick(self, choice: Choice) -> int:
            if not choice.available(0):
                raise RuntimeError("what a plug-in may do")
            return 0

    with Fleet([1, 1]) as fleet:
        policy = Breaks(fleet.sets[0], PolicyOptions())
        fail(fleet, 0)
        raised = 0
        for _ in range(100):
            try:
                choose_in_turn(policy, NOW, 0)
            except RuntimeError:
                raised += 1
        assert raised > 50
        assert fleet.sets[0].available(0)


def test_many_that_fail_end_in_the_policy_s_choice() -> None:
    with Fleet([1] * 100) as fleet:
        policy = fleet.build("round_robin")
        for i in range(100):
            fail(fleet, i)
        assert all(0 <= choose_in_turn(policy, NOW, 0) < 100 for _ in range(1000))
        assert all(fleet.sets[0].available(i) for i in range(100))


def test_processes_that_are_forked_draw_for_themselves() -> None:
    """Workers are forks of one process: with one sequence they would pass over an endpoint at the same moments."""
    code = (
        "import os\n"
        "from compiled.endpoint_set import note_attempt_at\n"
        "from fleet import Fleet, choose_in_turn\n"
        "with Fleet([1, 1]) as fleet:\n"
        "    policy = fleet.build('round_robin')\n"
        "    note_attempt_at(fleet.sets[0], 0, True, 1)\n"
        "    os.fork(), os.fork()\n"
        "    os.write(1, bytes(48 + choose_in_turn(policy, 1, 0) for _ in range(500)) + b' ')\n"
        "    os._exit(0)\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{Path(__file__).parent}{os.pathsep}{ENVIRONMENT['PYTHONPATH']}"}
    said = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True).stdout.split()
    assert len(said) == 4
    assert len(set(said)) == 4
