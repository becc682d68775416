"""Endpoint sets: the segment's records and in-flight columns as a worker sees them."""

import contextlib
import os
import subprocess
import sys
from functools import partial

import pytest
from children import ENVIRONMENT
from compiled.endpoint_set import acquire, release, take

from lb.endpoints.choice import Choice
from lb.endpoints.set import EndpointSet
from lb.shared.segment import Segment

UP, DOWN = True, False
ADDRESSES = ["192.0.2.1:1", "192.0.2.2:1", "unix:/run/c.sock"]


@pytest.fixture
def segments():
    master = Segment.create(3, endpoint_capacity=8, series_capacity=1)
    workers = [Segment.attach(os.dup(master.fd), worker) for worker in range(3)]
    yield master, *workers
    for segment in (*workers, master):
        segment.close()


def test_available_only_when_up_enabled_and_weighted(segments):
    master, worker, *_ = segments
    endpoints = EndpointSet(worker, ADDRESSES, [5, 0, 7])
    assert (endpoints.size, len(endpoints), endpoints.worker) == (3, 3, 0)
    assert endpoints.addresses == tuple(ADDRESSES)
    assert not endpoints.available(0)  # health is unknown, weight 0
    master.set_health(5, UP, 1)
    assert not endpoints.available(0)
    master.set_weight(5, 3)
    assert endpoints.available(0)
    assert [endpoints.available(i) for i in (1, 2)] == [False, False]
    for state, available in ((1, False), (2, False), (0, True)):
        master.set_admin(5, state)
        assert endpoints.available(0) is available
    master.set_health(5, DOWN, 2)
    assert not endpoints.available(0)
    assert endpoints.weight(0) == 3
    master.set_health(5, UP, 3)
    master.clear_slot(5)
    assert not endpoints.available(0)


def test_a_model_that_is_not_ready_counts_only_for_who_wants_it(segments):
    master, worker, *_ = segments
    endpoints = EndpointSet(worker, ADDRESSES, [5, 0, 7])
    for slot in (5, 0, 7):
        master.set_health(slot, UP, 1)
        master.set_weight(slot, 2)
    master.set_models_unready(0, 1 << 63 | 1 << 3)
    master.set_models_unready(7, 1 << 4)
    assert [endpoints.available(i) for i in range(3)] == [True] * 3
    for models, available in ((1 << 63, [True, False, True]), (1 << 4, [True, True, False]), (1 << 5, [True] * 3)):
        choice = Choice(endpoints, models=models)
        assert [choice.available(i) for i in range(3)] == available
    choice = Choice(endpoints, models=1 << 3)
    assert not choice.available(1)
    master.set_key(0, "pool|another")
    assert master.models_unready(0) == 0
    master.set_weight(0, 2)
    master.set_health(0, UP, 1)
    assert choice.available(1)
    with pytest.raises(OverflowError):
        master.set_models_unready(5, 1 << 64)
    with pytest.raises(OverflowError):
        master.set_models_unready(5, -1)


def test_weight_beyond_int_is_capped(segments):
    master, worker, *_ = segments
    endpoints = EndpointSet(worker, ADDRESSES, [0, 1, 2])
    master.set_weight(1, 2**32 - 1)
    master.set_health(1, UP, 1)
    assert endpoints.weight(1) == 2**31 - 1
    assert endpoints.available(1)


def test_inflight_is_the_sum_over_all_workers(segments):
    master, *workers = segments
    sets = [EndpointSet(worker, ADDRESSES, [3, 4, 5]) for worker in workers]
    for worker, count in enumerate((2, 0, 5)):
        for _ in range(count):
            acquire(sets[worker], 1)
    assert [endpoints.inflight(1) for endpoints in sets] == [7, 7, 7]
    assert [endpoints.inflight(i) for endpoints in sets for i in (0, 2)] == [0] * 6
    assert master.inflight(4) == 7
    release(sets[0], 1)
    assert sets[2].inflight(1) == 6
    lost = master.clear_worker(2)
    assert lost == [(4, 5, 0)]
    assert [endpoints.inflight(1) for endpoints in sets] == [6, 6, 6], "the endpoint may still work on them"
    master.forget(lost)
    assert [endpoints.inflight(1) for endpoints in sets] == [1, 1, 1]


def test_a_limit_makes_an_endpoint_unavailable(segments):
    master, *workers = segments
    for slot in (3, 4, 5):
        master.set_weight(slot, 1)
        master.set_health(slot, True, 0)
    first, second = (EndpointSet(worker, ADDRESSES, [3, 4, 5], [2, 0, 1]) for worker in workers[:2])
    assert [first.limit(i) for i in range(3)] == [2, 0, 1]
    assert take(first, 0)
    assert take(second, 0)
    assert not take(first, 0)
    assert not take(second, 0)
    assert [first.available(i) for i in range(3)] == [False, True, True]
    assert first.inflight(0) == 2
    release(second, 0)
    assert first.available(0)
    assert all(take(first, 1) for _ in range(100)), "0 is no limit"
    assert EndpointSet(workers[2], ADDRESSES[:1], [3]).available(0), "the limit is the set's, not the segment's"


def test_limits_are_counted_with_those_of_dead_workers(segments):
    master, *workers = segments
    first, second = (EndpointSet(worker, ADDRESSES[:1], [3], [1]) for worker in workers[:2])
    assert take(first, 0)
    lost = master.clear_worker(0)
    assert not take(second, 0)
    master.forget(lost)
    assert take(second, 0)


def test_as_many_limits_as_endpoints(segments):
    with pytest.raises(ValueError, match="2 limits but 3 slots"):
        EndpointSet(segments[1], ADDRESSES, [3, 4, 5], [1, 2])


CONTENDER = """
import os, sys, time
from compiled.endpoint_set import release, take
from lb.shared.segment import Segment
from lb.endpoints.set import EndpointSet
fd, worker, limit, rounds = map(int, sys.argv[1:])
segment = Segment.attach(fd, worker)
endpoints = EndpointSet(segment, ["a"], [0], [limit])
sys.stdin.readline()
worst = taken = 0
while taken < rounds:
    if take(endpoints, 0):
        taken += 1
        segment.add_series(worker, 0, 1)
        if taken % 16 == 0:
            time.sleep(0.0005)  # so that others come meanwhile, however few processors there are
        # First all who came, then all who left: nobody is counted who was not there at the moment between.
        came = sum(segment.series_total(w)[0] for w in range(4))
        left = sum(segment.series_total(w)[1] for w in range(4))
        worst = max(worst, came - left)
        segment.add_series(worker, 1, 1)
        release(endpoints, 0)
print(worst)
"""


@pytest.mark.slow
@pytest.mark.parametrize("limit", [1, 2])
def test_a_limit_is_exact_between_processes_that_contend(limit):
    """Each counts itself in words of its own while it holds a place; nobody may ever see more than `limit` of them."""
    with contextlib.ExitStack() as stack:
        master = Segment.create(4, endpoint_capacity=8, series_capacity=8)
        stack.callback(master.close)
        master.set_weight(0, 1)
        master.set_health(0, True, 0)
        children = [
            subprocess.Popen(
                [sys.executable, "-c", CONTENDER, str(master.fd), str(worker), str(limit), "2000"],
                pass_fds=[master.fd], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT,
            )
            for worker in range(4)
        ]  # fmt: skip
        for child in children:
            stack.callback(child.kill)
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        seen = [int(child.communicate(timeout=120)[0]) for child in children]
        assert max(seen) == limit
        assert master.inflight(0) == 0


def test_count_outlives_the_set(segments):
    _, worker, *_ = segments
    acquire(EndpointSet(worker, ADDRESSES[:1], [3]), 0)
    later = EndpointSet(worker, ADDRESSES, [2, 3, 4])
    assert later.inflight(1) == 1
    release(later, 1)
    assert later.inflight(1) == 0


def test_release_without_acquire_is_refused(segments):
    _, first, second, _ = segments
    acquire(EndpointSet(second, ADDRESSES, [0, 1, 2]), 0)
    with pytest.raises(ValueError, match="nothing in flight"):
        release(EndpointSet(first, ADDRESSES, [0, 1, 2]), 0)


@pytest.mark.parametrize("index", [-1, 3, 2**30])
def test_index_out_of_range(segments, index):
    endpoints = EndpointSet(segments[1], ADDRESSES, [0, 1, 2])
    for call in (
        endpoints.available,
        endpoints.inflight,
        endpoints.weight,
        partial(acquire, endpoints),
        partial(release, endpoints),
    ):
        with pytest.raises(IndexError):
            call(index)


def test_wrong_arguments(segments):
    master, worker, *_ = segments
    with pytest.raises(ValueError, match="attach the segment"):
        EndpointSet(master, ADDRESSES, [0, 1, 2])
    with pytest.raises(ValueError, match="3 addresses but 2 slots"):
        EndpointSet(worker, ADDRESSES, [0, 1])
    for slot in (-1, 8):
        with pytest.raises(IndexError):
            EndpointSet(worker, ADDRESSES, [0, 1, slot])
    with pytest.raises(TypeError):
        EndpointSet(None, ADDRESSES, [0, 1, 2])
    endpoints = EndpointSet(worker, ADDRESSES, [0, 1, 2])
    with pytest.raises(RuntimeError):
        endpoints.__init__(worker, ADDRESSES, [0, 1, 2])


def test_empty(segments):
    endpoints = EndpointSet(segments[1], [], [])
    assert (endpoints.size, endpoints.addresses) == (0, ())


def test_closed_segment_is_noticed():
    master = Segment.create(1, endpoint_capacity=2)
    worker = Segment.attach(os.dup(master.fd), 0)
    endpoints = EndpointSet(worker, ["192.0.2.1:1"], [0])
    assert repr(endpoints) == "<EndpointSet worker=0 available=0 of 1>"
    worker.close()
    with pytest.raises(ValueError, match="closed"):
        endpoints.available(0)
    assert "closed" in repr(endpoints)
    master.close()


def test_cannot_be_subclassed():
    with pytest.raises(TypeError):
        type("Mine", (EndpointSet,), {})


def test_average_latency_is_shared_and_outlives_the_set(segments):
    master, first, second, _ = segments
    endpoints = EndpointSet(first, ADDRESSES, [3, 4, 5])
    assert (endpoints.latency(1), endpoints.latency_at(1)) == (0.0, 0)
    endpoints.record_latency(1, 1234.5678, 2**63 + 5)
    other = EndpointSet(second, ADDRESSES[:2], [4, 5])
    assert (other.latency(0), other.latency_at(0)) == (1234.5678, 2**63 + 5)
    assert [endpoints.latency(i) for i in (0, 2)] == [0, 0]
    master.set_key(4, "pool|another")
    assert (other.latency(0), other.latency_at(0)) == (0.0, 0)


def test_average_latency_of_no_endpoint(segments):
    _, worker, *_ = segments
    endpoints = EndpointSet(worker, ADDRESSES, [0, 1, 2])
    for call in (endpoints.latency, endpoints.latency_at, lambda i: endpoints.record_latency(i, 1.0, 1)):
        for i in (-1, 3):
            with pytest.raises(IndexError, match="not in 0 to 2"):
                call(i)
    worker.close()
    with pytest.raises(ValueError, match="closed"):
        endpoints.latency(0)


def test_the_load_is_what_requests_cost_where_they_are_weighed(segments):
    master, *workers = segments
    first, second = (EndpointSet(worker, ADDRESSES, [3, 4, 5]) for worker in workers[:2])
    plain = EndpointSet(workers[2], ADDRESSES, [3, 4, 5])
    for one in (first, second):
        one.weigh()
        one.weigh()  # which changes nothing
    assert (plain.one, first.one, first.scale) == (1, 256, 1 / 256)
    charged = acquire(first, 1, 2.5)
    least = acquire(second, 1, 0.001)
    assert second.load(1) == first.load(1) == master.outstanding(4) == 2.5 + 1 / 256, "nothing is too small to count"
    assert plain.load(1) == plain.inflight(1) == 2
    release(first, 1, charged)
    release(second, 1, least)
    assert (first.load(1), first.inflight(1)) == (0, 0)
    with pytest.raises(ValueError, match="cannot cost"):
        first.units(5000)
    assert plain.units(9) == 1
    assert acquire(plain, 0, 9) == 0
    with pytest.raises(ValueError, match="no cost"):
        release(plain, 0, 1)


def test_no_sum_of_costs_overflows(segments):
    _, *workers = segments
    endpoints = EndpointSet(workers[0], ADDRESSES[:1], [3])
    endpoints.weigh()
    charges = [acquire(endpoints, 0, 4096) for _ in range(10)]
    assert endpoints.load(0) == 16384, "a worker's column is full"
    assert charges == [4096 * 256] * 4 + [0] * 6
    for charged in charges:
        release(endpoints, 0, charged)
    assert (endpoints.load(0), endpoints.inflight(0)) == (0, 0)


def test_a_limit_counts_requests_whatever_they_cost(segments):
    master, *workers = segments
    master.set_weight(3, 1)
    master.set_health(3, True, 0)
    endpoints = EndpointSet(workers[0], ADDRESSES[:1], [3], [2])
    endpoints.weigh()
    assert take(endpoints, 0, 100)
    assert take(endpoints, 0, 100)
    held = endpoints.load(0)
    assert not take(endpoints, 0, 100)
    assert endpoints.load(0) == held == 200, "what did not fit took its cost back"


def test_a_dead_workers_costs_are_cleared_with_its_requests(segments):
    master, *workers = segments
    first, second = (EndpointSet(worker, ADDRESSES[:1], [3]) for worker in workers[:2])
    for one in (first, second):
        one.weigh()
        acquire(one, 0, 3)
    lost = master.clear_worker(1)
    assert first.load(0) == 6, "the endpoint may still work on them"
    master.forget(lost)
    assert first.load(0) == 3
