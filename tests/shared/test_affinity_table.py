"""AffinityTable: found by all processes, bounded, forgotten when idle, safe against death at any moment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from children import ENVIRONMENT
from compiled.shared_segment import count_entry, drop_entry, find_entry, put_entry

from lb.errors import TidegateError
from lb.shared.affinity_table import AffinityTable
from lb.shared.segment import Segment

NOW, IDLE = 10**12, 10**9
NONE, GONE = -1, -2


@pytest.fixture
def table() -> Iterator[AffinityTable]:
    segment = Segment.create(4, endpoint_capacity=32, series_capacity=1, sequence_sets=64)
    yield AffinityTable(segment)
    segment.close()


@pytest.fixture
def one_set() -> Iterator[AffinityTable]:
    segment = Segment.create(8, endpoint_capacity=32, series_capacity=1, sequence_sets=1)
    yield AffinityTable(segment)
    segment.close()


def children(table: AffinityTable, mode: str, *arguments: int) -> object:
    script = Path(__file__).with_name("affinity_children.py")
    done = subprocess.run(
        [sys.executable, str(script), mode, str(table.segment.fd), *map(str, arguments)],
        pass_fds=[table.segment.fd], stdout=subprocess.PIPE, timeout=100, check=True, env=ENVIRONMENT,
    )  # fmt: skip
    return json.loads(done.stdout)


def test_an_entry_is_found_until_it_is_dropped(table: AffinityTable) -> None:
    other = AffinityTable(Segment.attach(os.dup(table.segment.fd), 1))
    key = table.key(b"a")
    assert find_entry(table, key, NOW, IDLE) == NONE
    put_entry(table, key, 5, NOW, IDLE)
    assert find_entry(other, key, NOW, IDLE) == 5
    put_entry(other, key, 6, NOW, IDLE)
    assert find_entry(table, key, NOW, IDLE) == 6
    assert table.open(NOW) == {6: 1}
    drop_entry(other, key)
    assert find_entry(table, key, NOW, IDLE) == NONE
    assert (table.open(NOW), table.opened, count_entry(table, key)) == ({}, 2, 0)
    other.segment.close()


def test_an_entry_ends_when_it_is_idle_and_each_look_counts(table: AffinityTable) -> None:
    key = table.key(b"a")
    put_entry(table, key, 5, NOW, IDLE)
    assert find_entry(table, key, NOW + IDLE - 1, IDLE) == 5
    assert find_entry(table, key, NOW + 2 * IDLE - 2, IDLE) == 5
    assert find_entry(table, key, NOW + 3 * IDLE - 2, IDLE) == NONE
    assert table.open(NOW + 3 * IDLE) == {}


def test_an_endpoint_that_left_its_slot_is_gone(table: AffinityTable) -> None:
    table.segment.set_key(3, "pool|a:1")
    key = table.key(b"a")
    put_entry(table, key, 3, NOW, IDLE)
    table.segment.clear_slot(3)
    assert find_entry(table, key, NOW, IDLE) == GONE
    table.segment.set_key(3, "pool|b:1")
    assert find_entry(table, key, NOW, IDLE) == GONE
    assert table.open(NOW) == {}
    put_entry(table, key, 3, NOW, IDLE)
    assert find_entry(table, key, NOW, IDLE) == 3


def test_a_look_does_not_count_and_the_two_kinds_are_apart(table: AffinityTable) -> None:
    sessions = AffinityTable(table.segment, True)
    key = table.key(b"a")
    assert sessions.key(b"a") == key
    put_entry(table, key, 5, NOW, IDLE)
    assert find_entry(sessions, key, NOW, IDLE) == NONE
    put_entry(sessions, key, 6, NOW, IDLE)
    assert (find_entry(table, key, NOW, IDLE), find_entry(sessions, key, NOW, IDLE)) == (5, 6)
    assert (table.open(NOW), sessions.open(NOW)) == ({5: 1}, {6: 1})
    flood = Segment.create(1, endpoint_capacity=4, series_capacity=1, sequence_sets=1, session_sets=1)
    kept, other = AffinityTable(flood), AffinityTable(flood, True)
    put_entry(kept, key, 1, NOW, IDLE)
    for i in range(200):
        put_entry(other, other.key(b"%d" % i), 2, NOW, 2 * IDLE)
    assert (find_entry(kept, key, NOW, IDLE), kept.evicted, other.evicted) == (1, 0, 192)
    flood.close()


def test_idle_pins_make_room_first_and_others_are_counted(one_set: AffinityTable) -> None:
    keys = [one_set.key(b"%d" % i) for i in range(9)]
    assert one_set.capacity == 8
    for i, key in enumerate(keys[:8]):
        put_entry(one_set, key, i, NOW, IDLE * (1 if i == 2 else 5))
    put_entry(one_set, keys[8], 8, NOW + 2 * IDLE, IDLE * 5)
    assert one_set.evicted == 0
    assert find_entry(one_set, keys[2], NOW, IDLE) == NONE
    assert find_entry(one_set, keys[0], NOW + 2 * IDLE, IDLE * 9) == 0
    put_entry(one_set, keys[2], 2, NOW + 2 * IDLE, IDLE * 5)
    assert one_set.evicted == 1
    assert find_entry(one_set, keys[1], NOW + 2 * IDLE, IDLE) == NONE  # the one that would have been idle first
    assert sum(one_set.open(NOW + 2 * IDLE).values()) == 8


def test_nothing_is_pinned_in_vain(table: AffinityTable) -> None:
    for call in (
        lambda: find_entry(table, 0, NOW, IDLE), lambda: put_entry(table, 0, 1, NOW, IDLE), lambda: drop_entry(table, 0)
    ):  # fmt: skip
        with pytest.raises(ValueError, match="no key"):
            call()
    with pytest.raises(IndexError):
        put_entry(table, 1, 32, NOW, IDLE)


def test_processes_that_enter_the_same_key_agree(one_set: AffinityTable) -> None:
    assert children(one_set, "same", 4, 20_000) == [0] * 4
    key = one_set.key(b"one")
    assert count_entry(one_set, key) == 0
    put_entry(one_set, key, 9, NOW, IDLE)
    assert (count_entry(one_set, key), find_entry(one_set, key, NOW, IDLE)) == (1, 9)


@pytest.mark.slow
def test_death_at_any_moment_leaves_a_table_that_works(one_set: AffinityTable) -> None:
    assert children(one_set, "storm", 3, 150) == 150
    keys = [one_set.key(b"new-%d" % i) for i in range(8)]
    for i, key in enumerate(keys):
        put_entry(one_set, key, i, NOW + 2 * IDLE, IDLE)
    assert [find_entry(one_set, key, NOW + 2 * IDLE, IDLE) for key in keys] == list(range(8))
    assert [count_entry(one_set, key) for key in keys] == [1] * 8


def test_the_hash_is_the_segments_own(table: AffinityTable) -> None:
    other = Segment.create(1, endpoint_capacity=1, series_capacity=1)
    assert AffinityTable(other).key(b"a") != table.key(b"a")
    other.close()


def test_the_segment_stays_while_its_pins_are_used() -> None:
    table = AffinityTable(Segment.create(1, endpoint_capacity=1, series_capacity=1))
    table.segment.close()
    for call in (lambda: find_entry(table, 1, NOW, IDLE), lambda: table.key(b"a"), lambda: table.lost):
        with pytest.raises(TidegateError, match="closed"):
            call()
