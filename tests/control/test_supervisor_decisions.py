"""The supervisor's pure parts: the table of states, who starts and who goes, the restart policy, the command."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lb.config.schema.file import ServeConfig
from lb.control.servers.model_server import new_socket, serve_command
from lb.control.servers.replica import TABLE, Event, State, restart_settings
from lb.control.servers.supervisor import GIVE_UP_ORDER, Change, Member, choose_serving, plan_change, plan_roll
from lb.control.workers.backoff import Restarts
from lb.errors import StartError

MS = 1_000_000
SECOND = 1000 * MS
WITH_PROCESS = {State.STARTING, State.READY, State.DRAINING, State.STOPPING}


class TestTable:
    def test_every_state_is_reached_and_left(self) -> None:
        assert set(TABLE.values()) == set(State)
        assert {state for state, _ in TABLE} == set(State) - {State.GONE}

    def test_the_end_of_a_process_is_foreseen_wherever_there_is_one(self) -> None:
        for state in WITH_PROCESS - {State.DRAINING}:
            assert TABLE[state, Event.FAILED] is State.BACKOFF
            assert TABLE[state, Event.FAILED_OFTEN] is State.CRASH_LOOP
        for state in (State.DRAINING, State.STOPPING):
            assert TABLE[state, Event.ENDED] is State.GONE

    def test_only_a_ready_one_is_drained_and_only_a_serving_one_is_ready(self) -> None:
        assert [key for key, to in TABLE.items() if to is State.READY] == [(State.STARTING, Event.SERVING)]
        assert [key for key, to in TABLE.items() if to is State.DRAINING] == [(State.READY, Event.RETIRED)]

    def test_nothing_is_gone_while_it_has_a_process(self) -> None:
        gone = {key for key, to in TABLE.items() if to is State.GONE}
        assert all(state not in WITH_PROCESS or event is Event.ENDED for state, event in gone)


@pytest.mark.parametrize(
    ("wanted", "leaving", "number", "start", "retire"),
    [
        ([], [], 3, (0, 1, 2), ()),
        ([(0, State.READY), (2, State.READY)], [1], 4, (3, 4), ()),
        ([(0, State.READY), (2, State.READY)], [], 3, (1,), ()),
        ([(0, State.READY), (1, State.READY), (2, State.READY)], [], 1, (), (2, 1)),
        ([(0, State.CRASH_LOOP), (1, State.READY), (2, State.READY)], [], 2, (), (0,)),
        ([(0, State.READY), (1, State.STARTING), (2, State.BACKOFF)], [], 1, (), (2, 1)),
        ([(0, State.READY)], [1, 2], 1, (), ()),
    ],
)
def test_plan_change(wanted: list, leaving: list, number: int, start: tuple, retire: tuple) -> None:
    change = plan_change(wanted, leaving, number)
    assert (change.start, change.retire) == (start, retire)


@given(
    st.dictionaries(st.integers(0, 20), st.sampled_from(GIVE_UP_ORDER), max_size=8),
    st.sets(st.integers(0, 20), max_size=8),
    st.integers(0, 12),
)
def test_plan_change_gets_there(states: dict[int, State], leaving: set[int], number: int) -> None:
    leaving -= states.keys()
    change = plan_change(list(states.items()), list(leaving), number)
    assert not set(change.start) & (states.keys() | leaving)
    assert len(set(change.start)) == len(change.start)
    assert set(change.retire) <= states.keys()
    assert len(states) + len(change.start) - len(change.retire) == number
    kept = [state for index, state in states.items() if index not in change.retire]
    assert all(
        GIVE_UP_ORDER.index(states[gone]) <= GIVE_UP_ORDER.index(state) for gone in change.retire for state in kept
    )


def members(text: str) -> list[Member]:
    """ "ro ro sn": ready and old, starting and new, by index."""
    states = {"r": State.READY, "s": State.STARTING, "w": State.WAITING, "c": State.CRASH_LOOP}
    return [Member(index, states[word[0]], word[1] == "n") for index, word in enumerate(text.split())]


@pytest.mark.parametrize(
    ("wanted", "leaving", "number", "start", "retire"),
    [
        ("ro ro", [], 2, (2,), ()),  # a new one beside the old ones
        ("ro ro sn", [], 2, (), ()),  # until it is ready nothing happens
        ("ro ro rn", [], 2, (), (1,)),
        ("ro rn", [], 2, (2,), ()),
        ("ro rn", [7], 2, (), ()),
        ("ro rn rn", [], 2, (), (0,)),
        ("rn rn", [], 2, (), ()),
        ("ro ro wn", [], 2, (), (1,)),  # no place: an old one goes first
        ("ro ro wn", [7], 2, (), ()),  # one is just leaving
        ("ro wn", [], 1, (), ()),  # never the last one
        ("ro ro cn", [], 2, (), ()),  # new ones that fail
        ("ro ro", [], 3, (2,), ()),  # more are wanted meanwhile: with the new settings
        ("ro ro ro sn", [], 2, (), (2,)),  # fewer are wanted meanwhile
        ("cn ro ro", [], 2, (), ()),
        ("co rn rn", [], 2, (), (0,)),  # back to the settings before: what failed goes
    ],
)
def test_plan_roll(wanted: str, leaving: list[int], number: int, start: tuple, retire: tuple) -> None:
    assert plan_roll(members(wanted), leaving, number) == Change(start, retire)


@given(st.integers(1, 6), st.integers(0, 6), st.integers(1, 6))
def test_a_roll_gets_there_one_at_a_time(number: int, places: int, seed: int) -> None:
    """With `places` for all, beyond those that the old ones have; each process that starts becomes ready."""
    room = number + places % 2
    wanted = [Member(index, State.READY, False) for index in range(number)]
    for _ in range(10 * number):
        change = plan_roll(wanted, [], number)
        if change == Change():
            break
        wanted = [m for m in wanted if m.index not in change.retire]
        wanted += [Member(index, State.WAITING, True) for index in change.start]
        assert number - 1 <= len(wanted) <= number + 1
        for place, member in enumerate(wanted):
            if member.state is State.WAITING and len([m for m in wanted if m.state is State.READY]) < room:
                wanted[place] = Member(member.index, State.READY, True)
        assert sum(m.state is State.READY for m in wanted) >= max(1, number - 1)
    if number > 1 or room > number:
        assert len(wanted) == number
        assert all(m.fresh and m.state is State.READY for m in wanted)
    else:
        assert [m.state for m in wanted] == [State.READY, State.WAITING]


def test_who_serves_and_who_stands_by() -> None:
    ready = [(index, State.READY) for index in range(4)]
    assert choose_serving(ready, frozenset(), 2) == {0, 1}
    assert choose_serving(ready, frozenset((2, 3)), 2) == {2, 3}
    assert choose_serving(ready, frozenset((2, 3)), 3) == {0, 2, 3}
    failed = [(0, State.BACKOFF), (1, State.READY), (2, State.STARTING)]
    assert choose_serving(failed, frozenset((0,)), 1) == {1}
    assert choose_serving(failed, frozenset((0,)), 2) == {0, 1}
    assert choose_serving([], frozenset((0,)), 2) == frozenset()


class TestRestarts:
    def restarts(self, **serve: object) -> Restarts:
        return Restarts(restart_settings(ServeConfig.model_validate({"models": "/models", **serve})))

    def test_the_wait_doubles_up_to_its_limit(self) -> None:
        restarts = self.restarts(backoff={"initial": "500ms", "max": "3s"}, crash_loop={"restarts": 100})
        assert [restarts.died(i, i) // MS for i in range(5)] == [500, 1000, 2000, 3000, 3000]

    def test_a_stable_run_forgets_failures(self) -> None:
        restarts = self.restarts(crash_loop={"restarts": 2, "within": "10s"})
        for i in range(3):
            restarts.died(i, i)
        assert restarts.crash_loop
        # 29 s are longer than the window, but not than the longest wait: with it they would fail for ever unseen
        assert restarts.died(10 * SECOND, 39 * SECOND) == 30 * SECOND
        assert restarts.crash_loop
        assert restarts.died(100 * SECOND, 131 * SECOND) == 500 * MS
        assert not restarts.crash_loop
        assert restarts.count == 5

    def test_a_crash_loop_stays_one_through_its_slow_tries(self) -> None:
        restarts = self.restarts(crash_loop={"restarts": 3, "within": "60s"})
        for _ in range(4):
            restarts.died(0, 0)
        assert restarts.crash_loop
        for now in range(30, 600, 30):
            assert restarts.died(now * SECOND, now * SECOND) == 30 * SECOND
            assert restarts.crash_loop

    def test_as_many_restarts_as_configured_are_normal(self) -> None:
        restarts = self.restarts(crash_loop={"restarts": 2, "within": "60s"})
        assert [restarts.died(0, i) and restarts.crash_loop for i in range(3)] == [False, False, True]


def test_the_command_says_everything_that_is_configured() -> None:
    serve = ServeConfig.model_validate(
        {
            "models": "/srv/models",
            "providers": ["tensorrt", "cuda", "cpu"],
            "threads": 3,
            "drain_timeout": "1500ms",
            "args": ["--max-batch", "8"],
        }
    )
    command = serve_command(serve, "unix:/run/x.sock")
    assert command[:5] == [sys.executable, "-P", "-m", "backend", "serve"]
    assert command[5:] == [
        *(
            "--die-with-parent",
            "--models",
            "/srv/models",
            "--listen",
            "unix:/run/x.sock",
            "--providers",
            "tensorrt,cuda,cpu",
        ),
        *("--grace", "1500ms", "--threads", "3", "--max-batch", "8"),
    ]
    assert "--threads" not in serve_command(ServeConfig(models=Path("/m")), "unix:/run/x.sock")


def test_addresses_never_repeat_and_fit() -> None:
    addresses = {new_socket("digits", 0, Path("/run/t")) for _ in range(100)}
    assert len(addresses) == 100
    with pytest.raises(StartError, match="longer than"):
        new_socket("p" * 63, 0, Path("/run/" + "d" * 40))
