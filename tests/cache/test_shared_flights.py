"""Flights over all workers: who leads, who follows, and what becomes of the flights of the dead."""

import asyncio
import contextlib
import hashlib
import os
import random

import pytest
from compiled.result_cache import get_bytes, put_bytes
from compiled.shared_flights import (
    LEASE,
    WAYS,
    awaited,
    end,
    forget,
    join,
    look,
    open_flights,
    parts,
    renew,
    write_claim,
    write_waiting,
)
from hypothesis import given
from hypothesis import strategies as st

from lb.cache import shared_flights
from lb.cache.shared_flights import SharedFlights
from lb.cache.store import ResultCache
from lb.net.poller import Poller
from lb.net.wakeups import Wakeups
from lb.shared.segment import Segment

WORKERS = 4
NOW = 10**12


def digest_of(number):
    return hashlib.blake2b(b"%d" % number, digest_size=32).digest()


def in_one_set(check):
    """Digests that share a set of the table, and differ in the bits that a claim has."""
    return bytes(8) + (7).to_bytes(4, "little") + check.to_bytes(4, "little") + bytes(16)


KEY = digest_of(1)


class Workers:
    """The flights of several workers, in one process; `rung` says who has been woken since the last time."""

    def __init__(self, count=WORKERS):
        self.master = Segment.create(count, endpoint_capacity=1, series_capacity=1, cache_size=1 << 20)
        self.cache = ResultCache(self.master, 1 << 20)
        self.fds = [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(count)]
        self.loop = asyncio.new_event_loop()
        self.poller = Poller(self.loop)
        self.segments = []
        self.wakeups = []
        self.caches = []
        self.flights = [self.start(worker) for worker in range(count)]

    def start(self, worker):
        """A process of the worker; one before it is as if dead."""
        segment = Segment.attach(os.dup(self.master.fd), worker)
        wakeups = Wakeups(self.poller, worker, self.fds)
        cache = ResultCache(segment, 1 << 20)
        self.segments.append(segment)
        self.wakeups.append(wakeups)
        self.caches.append(cache)
        return SharedFlights(cache, wakeups)

    def rung(self):
        found = set()
        for worker, fd in enumerate(self.fds):
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(fd)
                found.add(worker)
        return found

    def close(self):
        for wakeups in self.wakeups:
            wakeups.close()
        self.poller.close()
        self.loop.close()
        for segment in (*self.segments, self.master):
            segment.close()
        for fd in self.fds:
            os.close(fd)


@pytest.fixture
def workers():
    made = Workers()
    yield made
    made.close()


def test_is_compiled():
    assert shared_flights.__file__.endswith(".so")


def test_the_master_takes_no_part(workers):
    with pytest.raises(ValueError, match="only a worker"):
        SharedFlights(workers.cache, None)


def test_the_first_worker_leads_and_wakes_those_who_follow_alone(workers):
    first, second, third, _ = workers.flights
    assert join(first, KEY, NOW) == "leads"
    assert not awaited(first, KEY)
    assert join(second, KEY, NOW) == "follows"
    assert join(third, KEY, NOW) == "follows"
    assert join(third, digest_of(2), NOW) == "leads"
    assert awaited(first, KEY)
    assert [look(flights, KEY, NOW) for flights in (second, third)] == ["goes on"] * 2
    end(first, KEY)
    assert workers.rung() == {1, 2}
    assert [look(flights, KEY, NOW) for flights in (second, third)] == ["over"] * 2
    end(third, digest_of(2))
    assert workers.rung() == set()
    assert open_flights(workers.cache) == 0
    stats = workers.cache.stats()
    assert (stats["flights_followed"], stats["flights_promoted"], stats["flights_full"]) == (2, 0, 0)


def test_a_leader_leads_until_it_ends(workers):
    first, second, *_ = workers.flights
    assert [join(first, KEY, NOW) for _ in range(2)] == ["leads"] * 2
    end(first, KEY)
    end(first, KEY)  # harmless
    assert join(second, KEY, NOW) == "leads"
    assert parts(second) == ({KEY}, set())


def test_an_answer_that_cannot_be_shared_is_told_to_all_who_wait(workers):
    first, second, third, fourth = workers.flights
    join(first, KEY, NOW)
    join(second, KEY, NOW)
    join(third, KEY, NOW)
    end(first, KEY, shared=False)
    assert join(fourth, KEY, NOW) == "leads"  # a new flight in the same place
    assert [look(flights, KEY, NOW) for flights in (second, third)] == ["unshared"] * 2
    end(fourth, KEY)
    assert workers.cache.stats()["flights_unshared"] == 1


def test_who_follows_no_more_is_not_woken(workers):
    first, second, third, _ = workers.flights
    join(first, KEY, NOW)
    join(second, KEY, NOW)
    join(third, KEY, NOW)
    forget(second, KEY)
    forget(second, KEY)  # harmless
    end(first, KEY)
    assert workers.rung() == {2}


def test_a_slow_leader_keeps_its_flight(workers):
    first, second, *_ = workers.flights
    join(first, KEY, NOW)
    join(second, KEY, NOW)
    for now in range(NOW, NOW + 10 * LEASE, LEASE // 10):
        renew(first, now)
        assert look(second, KEY, now) == "goes on"


def test_at_the_end_of_the_lease_one_takes_over(workers):
    first, second, third, fourth = workers.flights
    join(first, KEY, NOW)
    join(second, KEY, NOW)
    join(third, KEY, NOW)
    late = NOW + LEASE
    assert look(second, KEY, late - 1) == "goes on"
    assert [look(flights, KEY, late) for flights in (second, third)] == ["over"] * 2
    assert join(third, KEY, late) == "leads"
    assert join(second, KEY, late) == "follows"
    assert join(fourth, KEY, late) == "follows"
    end(first, KEY)  # it only hung: the flight is not its own any more
    assert workers.rung() == set()
    assert look(second, KEY, late) == "goes on"
    end(third, KEY)
    assert workers.rung() == {1, 3}
    assert workers.cache.stats()["flights_promoted"] == 1


def test_who_hung_and_asks_again_follows_who_took_over(workers):
    first, second, *_ = workers.flights
    join(first, KEY, NOW)
    assert join(second, KEY, NOW + LEASE) == "leads"
    assert join(first, KEY, NOW + LEASE) == "follows"
    assert parts(first) == (set(), {KEY})


def test_the_master_releases_the_flights_of_a_dead_worker(workers):
    first, second, *_ = workers.flights
    join(first, KEY, NOW)
    join(second, KEY, NOW)
    workers.cache.release_flights(3)
    assert look(second, KEY, NOW) == "goes on"
    workers.cache.release_flights(0)
    assert look(second, KEY, NOW) == "over"
    assert join(second, KEY, NOW) == "leads"
    with pytest.raises(IndexError):
        workers.cache.release_flights(WORKERS)


def test_a_new_process_of_the_worker_does_not_lead_what_the_one_before_it_led(workers):
    first, second, *_ = workers.flights
    join(first, KEY, NOW)
    join(second, KEY, NOW)
    again = workers.start(0)
    renew(again, NOW)
    assert look(second, KEY, NOW) == "over"
    assert join(again, KEY, NOW) == "leads"
    assert join(second, KEY, NOW) == "follows"
    end(again, KEY)
    assert workers.rung() == {1}


def test_a_full_set_leaves_flights_to_each_worker(workers):
    first, second, third, _ = workers.flights
    keys = [in_one_set(check) for check in range(1, WAYS + 2)]
    assert [join(first, key, NOW) for key in keys] == ["leads"] * WAYS + ["full"]
    assert join(second, keys[0], NOW) == "follows"
    assert join(second, keys[-1], NOW) == "full"
    assert workers.cache.stats()["flights_full"] == 2
    end(first, keys[1])
    assert join(third, keys[-1], NOW) == "leads"
    assert join(second, keys[-1], NOW) == "follows"


def test_what_the_dead_have_left_makes_room(workers):
    first, second, *_ = workers.flights
    keys = [in_one_set(check) for check in range(1, 2 * WAYS + 1)]
    for key in keys[:WAYS]:
        assert join(first, key, NOW) == "leads"
    late = NOW + LEASE
    assert [join(second, key, late) for key in keys[WAYS:]] == ["leads"] * WAYS
    assert workers.cache.stats()["flights_promoted"] == 0  # nobody had waited for these
    for key in keys[WAYS:]:
        end(second, key)
    assert open_flights(workers.cache) == 0


def test_damage_is_taken_for_what_the_dead_have_left(workers):
    first, second, *_ = workers.flights
    key = in_one_set(5)
    for way in range(WAYS):
        write_claim(workers.cache, key, way, 5 << 32 | 0xFF)
    assert join(first, key, NOW) == "leads"
    assert join(second, key, NOW) == "follows"


def test_rubbish_in_the_table_costs_flights_and_no_process(workers):
    rng = random.Random(1)
    keys = [in_one_set(check) for check in range(1, 4)]
    for now in range(NOW, NOW + 3 * LEASE, LEASE // 100):
        for _ in range(rng.randrange(4)):
            worker = rng.choice([rng.randrange(256), rng.randrange(1, WORKERS + 1)])
            write_claim(workers.cache, keys[0], rng.randrange(WAYS), rng.randrange(5) << 32 | 1 << 8 | worker)
            write_waiting(workers.cache, keys[0], rng.randrange(WAYS), rng.randbytes(16))
        flights = rng.choice(workers.flights)
        for key in keys:
            if join(flights, key, now) == "follows":
                look(flights, key, now)
            end(flights, key)
    workers.rung()
    for way in range(WAYS):
        write_claim(workers.cache, keys[0], way, rng.randrange(5) << 32 | 2 << 8 | 1)
    assert [join(workers.flights[0], key, now) for key in keys] == ["leads"] * 3
    assert [join(workers.flights[1], key, now) for key in keys] == ["follows"] * 3


def test_a_worker_does_not_wait_for_itself(workers):
    first, second, *_ = workers.flights
    key, other = in_one_set(5), in_one_set(5)[:-1] + b"x"
    assert [join(first, each, NOW) for each in (key, other)] == ["leads", "full"]
    assert join(second, other, NOW) == "follows"


def test_two_keys_with_the_same_bits_cost_time_and_no_answer(workers):
    first, second, *_ = workers.flights
    key, other = in_one_set(5), in_one_set(5)[:-1] + b"x"
    join(first, key, NOW)
    assert join(second, other, NOW) == "follows"
    put_bytes(workers.caches[0], key, b"answer", NOW, LEASE)
    end(first, key)
    assert look(second, other, NOW) == "over"
    assert get_bytes(workers.caches[1], other, NOW) is None
    assert join(second, other, NOW) == "leads"


steps = st.lists(
    st.tuples(
        st.sampled_from(["join", "join", "look", "end", "unshared", "forget", "die", "wait"]),
        st.integers(0, WORKERS - 1),
        st.integers(1, 3),
    ),
    max_size=60,
)


@given(steps)
def test_against_a_model(operations):
    """One leader for each key at any time, whom the others follow; who follows hears of its end."""
    workers = Workers()
    try:
        leader, waits, now = {}, {}, NOW  # key -> worker; (worker, key) -> the leader's number of that flight
        flights = list(workers.flights)
        number, flight_of = 0, {}
        for what, worker, which in operations:
            key, mine = in_one_set(which), flights[worker]
            for each in range(WORKERS):
                renew(flights[each], now)
            if what == "join":
                expected = "leads" if leader.get(key, worker) == worker else "follows"
                assert join(mine, key, now) == expected
                waits.pop((worker, key), None)
                if expected == "follows":
                    waits[worker, key] = flight_of[key]
                elif key not in leader:
                    number += 1
                    leader[key], flight_of[key] = worker, number
            elif what == "look" and (worker, key) in waits:
                over = key not in leader or flight_of[key] != waits[worker, key]
                assert (look(mine, key, now) != "goes on") == over
            elif what in ("end", "unshared"):
                workers.rung()
                end(mine, key, shared=what == "end")
                if leader.get(key) == worker:
                    woken = {w for (w, k), n in waits.items() if k == key and n == flight_of[key]}
                    assert workers.rung() >= woken
                    del leader[key]
                    for other in woken:
                        assert look(flights[other], key, now) == ("over" if what == "end" else "unshared")
                else:
                    assert workers.rung() == set()
            elif what == "forget":
                forget(mine, key)
                waits.pop((worker, key), None)
            elif what == "die":
                workers.cache.release_flights(worker)
                flights[worker] = workers.start(worker)
                leader = {k: w for k, w in leader.items() if w != worker}
                waits = {(w, k): n for (w, k), n in waits.items() if w != worker}
            else:
                now += LEASE // 4
    finally:
        workers.close()
