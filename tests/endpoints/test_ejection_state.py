"""EjectionStates: who is ejected and who is not, over all processes."""

import contextlib
import os
import signal
import subprocess
import sys

import pytest
from compiled.endpoint_set import effective_weight, release, take

from lb.endpoints.ejection_state import EjectionStates
from lb.endpoints.set import EndpointSet
from lb.shared.segment import Segment

WELL, EJECTED, PROBATION = 0, 1, 2
REASON = 4
ADDRESSES = [f"192.0.2.{i}:1" for i in range(4)]


@pytest.fixture
def master():
    segment = Segment.create(2, endpoint_capacity=8, series_capacity=1)
    for slot in range(8):
        segment.set_weight(slot, 2)
        segment.set_health(slot, True, 1)
    yield segment
    segment.close()


@pytest.fixture
def endpoints(master):
    worker = Segment.attach(os.dup(master.fd), 0)
    yield EndpointSet(worker, ADDRESSES, [4, 5, 6, 7])
    worker.close()


def test_from_well_to_ejected_to_probation_to_well(master):
    states = EjectionStates(master, [4, 5, 6, 7])
    assert states.state(1) == (WELL, 0)
    assert not states.reinstate(1)
    assert not states.begin_probation(1, 5)
    assert states.eject_endpoint(1, REASON, 1)
    assert states.state(1) == (EJECTED, REASON)
    assert not states.eject_endpoint(1, REASON, 4), "it is ejected already"
    assert not states.eject_endpoint(2, REASON, 1), "one is the most"
    assert (states.state(2), states.ejected()) == ((WELL, 0), 1)
    assert states.begin_probation(1, 5)
    assert states.state(1) == (PROBATION, 0)
    assert states.eject_endpoint(1, 3, 1)
    assert states.begin_probation(1, 6)
    assert states.reinstate(1)
    assert [states.state(i) for i in range(4)] == [(WELL, 0)] * 4


def test_an_ejection_that_is_one_too_many_leaves_a_probation_as_it_was(master):
    states = EjectionStates(master, [4, 5])
    assert states.eject_endpoint(0, REASON, 1)
    assert states.begin_probation(0, 5)
    assert states.eject_endpoint(1, REASON, 1)
    assert not states.eject_endpoint(0, 3, 1)
    assert states.state(0) == (PROBATION, 0)


def test_a_slot_that_changes_hands_is_well(master):
    states = EjectionStates(master, [4])
    states.eject_endpoint(0, REASON, 1)
    states.hold_back(0, 700, True)
    master.set_key(4, "pool|other")
    assert (states.state(0), states.held_back(0)) == ((WELL, 0), (0, False, 0))


def test_wrong_arguments(master):
    with pytest.raises(IndexError):
        EjectionStates(master, [8])
    states = EjectionStates(master, [1, 2])
    for i in (-1, 2):
        with pytest.raises(IndexError):
            states.state(i)
    with pytest.raises(ValueError, match="1001"):
        states.hold_back(0, 1001, False)


def test_only_a_shaped_set_looks_at_standing_and_share(master, endpoints):
    states = EjectionStates(master, [4, 5, 6, 7])
    states.eject_endpoint(0, REASON, 4)
    states.hold_back(1, 900, False)
    assert [effective_weight(endpoints, i) for i in range(4)] == [2] * 4
    endpoints.shape(False, 1)
    assert endpoints.unit == 1000
    assert [effective_weight(endpoints, i) for i in range(4)] == [0, 200, 2000, 2000]
    endpoints.shape(True, 1)
    states.hold_back(2, 1000, False)
    assert [effective_weight(endpoints, i) for i in range(4)] == [0, 2, 0, 2]


def test_a_panic_overrides_health_and_ejection_but_no_operator(master, endpoints):
    states = EjectionStates(master, [4, 5, 6, 7])
    endpoints.shape(False, 1)
    states.eject_endpoint(0, REASON, 4)
    master.set_health(5, False, 2)
    master.set_admin(6, 1)
    master.set_admin(7, 2)
    assert [endpoints.available(i) for i in range(4)] == [False] * 4
    for i in range(4):
        states.hold_back(i, 0, True)
    assert [endpoints.available(i) for i in range(4)] == [True, True, False, False]


def test_a_probation_has_few_in_flight_over_all_workers(master, endpoints):
    other_segment = Segment.attach(os.dup(master.fd), 1)
    other = EndpointSet(other_segment, ADDRESSES, [4, 5, 6, 7])
    states = EjectionStates(master, [4, 5, 6, 7])
    for each in (endpoints, other):
        each.shape(False, 2)
    states.eject_endpoint(0, REASON, 4)
    states.begin_probation(0, 5)
    assert take(endpoints, 0)
    assert take(other, 0)
    assert not take(endpoints, 0)
    assert not other.available(0)
    release(endpoints, 0)
    assert other.available(0)
    states.reinstate(0)
    assert all(take(other, 0) for _ in range(5))
    other_segment.close()


# Ejects endpoints of its own, over and over, until it has succeeded often enough; fails when it sees too many ejected.
CONTENDER = """
import sys
from lb.shared.segment import Segment
from lb.endpoints.ejection_state import EjectionStates
fd, worker, most, wanted = map(int, sys.argv[1:])
segment = Segment.attach(fd, worker)
states = EjectionStates(segment, range(8))
mine = (2 * worker, 2 * worker + 1)
sys.stdin.readline()
done = 0
while done < wanted:
    for i in mine:
        if states.eject_endpoint(i, 1, most):
            done += 1
            # What came is read before what left: so many at least were ejected to stay at one moment.
            segment.add_series(i, 0, 1)
            came = sum(segment.series_total(j)[0] for j in range(8))
            left = sum(segment.series_total(j)[1] for j in range(8))
            assert came - left <= most, (came, left)
            segment.add_series(i, 1, 1)
            states.release(i)
"""


@pytest.mark.slow
@pytest.mark.parametrize("most", [1, 3])
def test_the_most_is_exact_between_processes_that_contend(most):
    with contextlib.ExitStack() as stack:
        master = Segment.create(4, endpoint_capacity=8, series_capacity=8)
        stack.callback(master.close)
        children = [
            subprocess.Popen(
                [sys.executable, "-c", CONTENDER, str(master.fd), str(worker), str(most), "3000"],
                pass_fds=[master.fd], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )
            for worker in range(4)
        ]  # fmt: skip
        for child in children:
            stack.callback(child.kill)
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        for child in children:
            child.communicate(timeout=120)
        assert [child.returncode for child in children] == [0] * 4
        assert EjectionStates(master, range(8)).ejected() == 0


KILLED = """
import sys
from lb.shared.segment import Segment
from lb.endpoints.ejection_state import EjectionStates
segment = Segment.attach(int(sys.argv[1]), 0)
states = EjectionStates(segment, range(8))
print("begun", flush=True)
while True:
    for i in range(8):
        states.eject_endpoint(i, 1, 2)
    for i in range(8):
        states.release(i)
"""


def test_a_process_that_dies_leaves_standings_that_mean_something(master):
    """Killed at any instruction: at most one too many is ejected, and every word is an ejection state that there is."""
    for _ in range(5):
        child = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(master.fd)], pass_fds=[master.fd], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        assert child.stdout.readline() == "begun\n"
        child.send_signal(signal.SIGKILL)
        child.communicate(timeout=30)
        states = EjectionStates(master, range(8))
        assert states.ejected() <= 3
        assert all(states.state(i) in {(WELL, 0), (EJECTED, 1)} for i in range(8))
