"""Whether requests wait for a model server or are refused: every state that a replica can have."""

from __future__ import annotations

import pytest

from lb.control.servers.coming import Coming, coming
from lb.control.servers.replica import Prospect, State
from lb.upstream.start import Start

TAKES = 7
FAILED = Prospect(State.BACKOFF, due_at=100, failed_to_start=True, trouble="t", detail="d")
CROWDED = Prospect(State.WAITING, trouble="t", detail="d")
WAITS, REFUSED = "", "t"


@pytest.mark.parametrize(
    ("replica", "ready_at", "trouble"),
    [
        (Prospect(State.STARTING, begun_at=50), 57, WAITS),
        (Prospect(State.READY, begun_at=5), 5, WAITS),  # workers are about to hear of it
        (Prospect(State.BACKOFF, due_at=100), 107, WAITS),  # it has served, and comes again
        (FAILED, 107, REFUSED),
        (Prospect(State.CRASH_LOOP, due_at=100, trouble="t", detail="d"), 107, REFUSED),
        (Prospect(State.WAITING, soon=True), 0, WAITS),
        (CROWDED, 0, REFUSED),
        (Prospect(State.STOPPING, trouble="t", detail="d"), 0, REFUSED),  # it was not ready in time
    ],
    ids=lambda value: f"{value.state}{'-failed' * value.failed_to_start}" if isinstance(value, Prospect) else None,
)
def test_one_replica(replica: Prospect, ready_at: int, trouble: str) -> None:
    found = Coming(Start(ready_at, TAKES, trouble), "d" if trouble else "")
    assert coming([replica], TAKES) == found
    # More of the same, and others that wait for a place, change nothing.
    assert coming([replica, replica], TAKES) == found
    assert coming([CROWDED, replica], TAKES) == found


def test_every_state_of_a_replica_that_is_wanted_is_foreseen() -> None:
    """Those that are not wanted drain, stop and go."""
    marks = test_one_replica.pytestmark[0].args[1]
    assert {replica.state for replica, _, _ in marks} == set(State) - {State.DRAINING, State.GONE}


def test_the_first_request_has_one_started_where_none_is_wanted() -> None:
    assert coming([], TAKES) == Coming(Start(takes=TAKES))


@pytest.mark.parametrize(
    "beside", [Prospect(State.STARTING), Prospect(State.READY), Prospect(State.BACKOFF), CROWDED], ids=lambda p: p.state
)
def test_one_on_its_way_is_enough(beside: Prospect) -> None:
    found = coming([FAILED, beside], 0).start
    assert (found.trouble == "") == (beside is not CROWDED)


def test_a_place_that_comes_free_is_not_put_off_by_a_pause() -> None:
    assert coming([FAILED, Prospect(State.WAITING, soon=True)], TAKES) == Coming(Start(takes=TAKES))


def test_the_next_try_is_told() -> None:
    later = Prospect(State.CRASH_LOOP, due_at=200, trouble="later", detail="later")
    assert coming([later, FAILED], TAKES) == Coming(Start(107, TAKES, "t"), "d")


def test_nothing_is_known_of_how_long_it_takes() -> None:
    assert coming([Prospect(State.STARTING, begun_at=50)], 0) == Coming(Start())
