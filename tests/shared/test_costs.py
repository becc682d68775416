"""What models take, in the shared segment."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from children import ENVIRONMENT
from compiled.shared_segment import learn_cost

from lb.shared.costs import Costs
from lb.shared.segment import Segment

MS = 1_000_000
S = 1_000_000_000


@pytest.fixture
def segment() -> Iterator[Segment]:
    made = Segment.create(4, 64, 64, cost_sets=1)
    yield made
    made.close()


def unit(costs: Costs, name: str) -> float:
    return costs.rows()[name][0]


def test_nothing_is_known_at_first(segment: Segment) -> None:
    costs = Costs(segment)
    assert costs.rows() == {}
    assert costs.capacity == 8
    assert costs.evicted == 0


def test_the_time_for_a_unit_is_all_time_by_all_units(segment: Segment) -> None:
    costs = Costs(segment)
    for _ in range(200):
        learn_cost(costs, b"p|m", 2 * MS, 1, 1.0, S)  # an overhead of 1 ms, and 1 ms a unit
        learn_cost(costs, b"p|m", 9 * MS, 8, 1.0, S)
    assert unit(costs, "p|m") == pytest.approx(11 / 9 * MS, rel=0.15)
    assert costs.rows()["p|m"][1] == 400


def test_the_first_one_may_load_the_model(segment: Segment) -> None:
    costs = Costs(segment)
    learn_cost(costs, b"p|m", 10_000 * MS, 1, 1.0, S)
    for _ in range(100):
        learn_cost(costs, b"p|m", 2 * MS, 1, 1.0, S)
    assert unit(costs, "p|m") < 10 * MS


def test_a_stall_moves_it_a_little_and_a_change_for_good(segment: Segment) -> None:
    costs = Costs(segment)
    for _ in range(50):
        learn_cost(costs, b"p|m", 2 * MS, 1, 1.0, S)
    learn_cost(costs, b"p|m", 5_000 * MS, 1, 1.0, S)
    assert unit(costs, "p|m") < 2.5 * MS
    for _ in range(100):
        learn_cost(costs, b"p|m", 40 * MS, 1, 1.0, S)
    assert unit(costs, "p|m") == pytest.approx(40 * MS, rel=0.05)


def test_what_is_less_certain_moves_it_less(segment: Segment) -> None:
    costs = Costs(segment)
    for name in (b"p|a", b"p|b"):
        for _ in range(50):
            learn_cost(costs, name, 2 * MS, 1, 1.0, S)
    learn_cost(costs, b"p|a", 6 * MS, 1, 1.0, S)
    learn_cost(costs, b"p|b", 6 * MS, 1, 0.1, S)
    assert unit(costs, "p|a") - 2 * MS == pytest.approx(10 * (unit(costs, "p|b") - 2 * MS), rel=0.01)


def test_a_full_set_forgets_what_was_not_used_for_longest(segment: Segment) -> None:
    costs = Costs(segment)
    for i in range(8):
        learn_cost(costs, f"p|{i}".encode(), MS, 1, 1.0, (10 + i) * S)
    learn_cost(costs, b"p|0", MS, 1, 1.0, 30 * S)
    learn_cost(costs, b"p|new", MS, 1, 1.0, 31 * S)
    assert set(costs.rows()) == {"p|0", "p|new", *(f"p|{i}" for i in range(2, 8))}
    assert costs.evicted == 1
    assert costs.rows()["p|new"] == (MS, 1), "it began anew"


def test_a_name_that_is_too_long_has_no_place(segment: Segment) -> None:
    costs = Costs(segment)
    assert learn_cost(costs, b"p|" + b"x" * 205, MS, 1, 1.0, S)
    assert not learn_cost(costs, b"p|" + b"x" * 206, MS, 1, 1.0, S)
    assert len(costs.rows()) == 1


def test_workers_share_it_and_it_outlives_them(segment: Segment) -> None:
    code = (
        "import os, signal, sys; from lb.shared.segment import Segment; from lb.shared.costs import Costs\n"
        "from compiled.shared_segment import learn_cost\n"
        "learn_cost(Costs(Segment.attach(int(sys.argv[1]), 1)), b'p|m', 7e6, 2, 1.0, 5)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    child = subprocess.run([sys.executable, "-c", code, str(segment.fd)], pass_fds=[segment.fd], env=ENVIRONMENT)
    assert child.returncode == -9
    with_other = Segment.attach(os.dup(segment.fd), 2)
    assert Costs(with_other).rows() == {"p|m": (3.5e6, 1)}
    with_other.close()
