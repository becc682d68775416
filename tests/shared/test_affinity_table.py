"""Pins: found by all processes, bounded, forgotten when idle, safe against death at any moment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from children import ENVIRONMENT
from compiled.shared_segment import count_pins, drop_pin, find_pin, put_pin

from lb.errors import TidegateError
from lb.shared.affinity_table import Pins
from lb.shared.segment import Segment

NOW, IDLE = 10**12, 10**9
NONE, GONE = -1, -2


@pytest.fixture
def pins() -> Iterator[Pins]:
    segment = Segment.create(4, endpoint_capacity=32, series_capacity=1, pin_sets=64)
    yield Pins(segment)
    segment.close()


@pytest.fixture
def one_set() -> Iterator[Pins]:
    segment = Segment.create(8, endpoint_capacity=32, series_capacity=1, pin_sets=1)
    yield Pins(segment)
    segment.close()


def children(pins: Pins, mode: str, *arguments: int) -> object:
    script = Path(__file__).with_name("pin_children.py")
    done = subprocess.run(
        [sys.executable, str(script), mode, str(pins.segment.fd), *map(str, arguments)],
        pass_fds=[pins.segment.fd], stdout=subprocess.PIPE, timeout=100, check=True, env=ENVIRONMENT,
    )  # fmt: skip
    return json.loads(done.stdout)


def test_a_pin_is_found_until_it_is_dropped(pins: Pins) -> None:
    other = Pins(Segment.attach(os.dup(pins.segment.fd), 1))
    key = pins.key(b"a")
    assert find_pin(pins, key, NOW, IDLE) == NONE
    put_pin(pins, key, 5, NOW, IDLE)
    assert find_pin(other, key, NOW, IDLE) == 5
    put_pin(other, key, 6, NOW, IDLE)
    assert find_pin(pins, key, NOW, IDLE) == 6
    assert pins.open(NOW) == {6: 1}
    drop_pin(other, key)
    assert find_pin(pins, key, NOW, IDLE) == NONE
    assert (pins.open(NOW), pins.opened, count_pins(pins, key)) == ({}, 2, 0)
    other.segment.close()


def test_a_pin_ends_when_it_is_idle_and_each_look_counts(pins: Pins) -> None:
    key = pins.key(b"a")
    put_pin(pins, key, 5, NOW, IDLE)
    assert find_pin(pins, key, NOW + IDLE - 1, IDLE) == 5
    assert find_pin(pins, key, NOW + 2 * IDLE - 2, IDLE) == 5
    assert find_pin(pins, key, NOW + 3 * IDLE - 2, IDLE) == NONE
    assert pins.open(NOW + 3 * IDLE) == {}


def test_an_endpoint_that_left_its_slot_is_gone(pins: Pins) -> None:
    pins.segment.set_key(3, "pool|a:1")
    key = pins.key(b"a")
    put_pin(pins, key, 3, NOW, IDLE)
    pins.segment.clear_slot(3)
    assert find_pin(pins, key, NOW, IDLE) == GONE
    pins.segment.set_key(3, "pool|b:1")
    assert find_pin(pins, key, NOW, IDLE) == GONE
    assert pins.open(NOW) == {}
    put_pin(pins, key, 3, NOW, IDLE)
    assert find_pin(pins, key, NOW, IDLE) == 3


def test_a_look_does_not_count_and_the_two_kinds_are_apart(pins: Pins) -> None:
    sessions = Pins(pins.segment, True)
    key = pins.key(b"a")
    assert sessions.key(b"a") == key
    put_pin(pins, key, 5, NOW, IDLE)
    assert find_pin(sessions, key, NOW, IDLE) == NONE
    put_pin(sessions, key, 6, NOW, IDLE)
    assert (find_pin(pins, key, NOW, IDLE), find_pin(sessions, key, NOW, IDLE)) == (5, 6)
    assert (pins.open(NOW), sessions.open(NOW)) == ({5: 1}, {6: 1})
    flood = Segment.create(1, endpoint_capacity=4, series_capacity=1, pin_sets=1, session_sets=1)
    kept, other = Pins(flood), Pins(flood, True)
    put_pin(kept, key, 1, NOW, IDLE)
    for i in range(200):
        put_pin(other, other.key(b"%d" % i), 2, NOW, 2 * IDLE)
    assert (find_pin(kept, key, NOW, IDLE), kept.evicted, other.evicted) == (1, 0, 192)
    flood.close()


def test_idle_pins_make_room_first_and_others_are_counted(one_set: Pins) -> None:
    keys = [one_set.key(b"%d" % i) for i in range(9)]
    assert one_set.capacity == 8
    for i, key in enumerate(keys[:8]):
        put_pin(one_set, key, i, NOW, IDLE * (1 if i == 2 else 5))
    put_pin(one_set, keys[8], 8, NOW + 2 * IDLE, IDLE * 5)
    assert one_set.evicted == 0
    assert find_pin(one_set, keys[2], NOW, IDLE) == NONE
    assert find_pin(one_set, keys[0], NOW + 2 * IDLE, IDLE * 9) == 0
    put_pin(one_set, keys[2], 2, NOW + 2 * IDLE, IDLE * 5)
    assert one_set.evicted == 1
    assert find_pin(one_set, keys[1], NOW + 2 * IDLE, IDLE) == NONE  # the one that would have been idle first
    assert sum(one_set.open(NOW + 2 * IDLE).values()) == 8


def test_nothing_is_pinned_in_vain(pins: Pins) -> None:
    for call in (
        lambda: find_pin(pins, 0, NOW, IDLE), lambda: put_pin(pins, 0, 1, NOW, IDLE), lambda: drop_pin(pins, 0)
    ):  # fmt: skip
        with pytest.raises(ValueError, match="no key"):
            call()
    with pytest.raises(IndexError):
        put_pin(pins, 1, 32, NOW, IDLE)


def test_processes_that_pin_the_same_key_agree(one_set: Pins) -> None:
    assert children(one_set, "same", 4, 20_000) == [0] * 4
    key = one_set.key(b"one")
    assert count_pins(one_set, key) == 0
    put_pin(one_set, key, 9, NOW, IDLE)
    assert (count_pins(one_set, key), find_pin(one_set, key, NOW, IDLE)) == (1, 9)


@pytest.mark.slow
def test_death_at_any_moment_leaves_a_table_that_works(one_set: Pins) -> None:
    assert children(one_set, "storm", 3, 150) == 150
    keys = [one_set.key(b"new-%d" % i) for i in range(8)]
    for i, key in enumerate(keys):
        put_pin(one_set, key, i, NOW + 2 * IDLE, IDLE)
    assert [find_pin(one_set, key, NOW + 2 * IDLE, IDLE) for key in keys] == list(range(8))
    assert [count_pins(one_set, key) for key in keys] == [1] * 8


def test_the_hash_is_the_segments_own(pins: Pins) -> None:
    other = Segment.create(1, endpoint_capacity=1, series_capacity=1)
    assert Pins(other).key(b"a") != pins.key(b"a")
    other.close()


def test_the_segment_stays_while_its_pins_are_used() -> None:
    pins = Pins(Segment.create(1, endpoint_capacity=1, series_capacity=1))
    pins.segment.close()
    for call in (lambda: find_pin(pins, 1, NOW, IDLE), lambda: pins.key(b"a"), lambda: pins.lost):
        with pytest.raises(TidegateError, match="closed"):
            call()
