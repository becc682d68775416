"""Connections of networks over all workers: exact, through deaths, and where room is short."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import source_children
from children import ENVIRONMENT
from compiled.shared_segment import hold_lock

from lb.errors import TidegateError
from lb.proxy.accept.source_limits import Sources
from lb.shared.segment import Segment
from lb.shared.source_counts import SharedSources

SCRIPT = Path(source_children.__file__)
ADDED, OVER, FULL = 0, 1, 2


def tables(segment: Segment, workers: int) -> list[SharedSources]:
    return [SharedSources(Segment.attach(os.dup(segment.fd), worker)) for worker in range(workers)]


@pytest.fixture
def master() -> Iterator[Segment]:
    """With one set of seven places, so that keys meet."""
    segment = Segment.create(4, endpoint_capacity=1, series_capacity=1, source_sets=1)
    yield segment
    segment.close()


def run(master: Segment, mode: str, *numbers: int) -> Any:
    child = subprocess.run(
        [sys.executable, str(SCRIPT), mode, str(master.fd), *map(str, numbers)],
        pass_fds=[master.fd],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stdout + child.stderr
    return json.loads(child.stdout)


def test_a_limit_is_over_all_workers(master: Segment) -> None:
    one, two, *_ = tables(master, 4)
    key = one.key(1, 7)
    assert key == two.key(1, 7)
    assert [table.add(key, 1, 3) for table in (one, two, one, two, one)] == [ADDED, ADDED, ADDED, OVER, OVER]
    assert one.count(key) == two.count(key) == 3
    two.remove(key)
    assert two.add(key, 2, 3) == OVER
    assert two.add(key, 1, 3) == ADDED
    assert two.add(key, 5) == ADDED  # no limit
    assert one.count(key) == 8


def test_limits_and_families_are_told_apart(master: Segment) -> None:
    (one, *_) = tables(master, 1)
    keys = [one.key(1, 7), one.key(2, 7), one.key(1, 8), one.key(1, 7, 10)]
    assert len(set(keys)) == 4
    for key in keys:
        assert (one.add(key, 1, 1), one.add(key, 1, 1)) == (ADDED, OVER)


def test_a_place_is_free_when_nobody_is_left(master: Segment) -> None:
    one, two, *_ = tables(master, 4)
    keys = [one.key(1, n) for n in range(8)]
    assert [one.add(key) for key in keys] == [ADDED] * 7 + [FULL]
    assert two.add(keys[0]) == ADDED
    one.remove(keys[0])
    assert one.add(keys[7]) == FULL  # the other worker has one there
    two.remove(keys[0])
    assert one.add(keys[7]) == ADDED
    assert one.count(keys[0]) == 0
    assert [one.count(key) for key in keys[1:]] == [1] * 7
    assert one.table_full == master.source_table_full() == 2


def test_a_dead_worker_leaves_nothing(master: Segment) -> None:
    one, two, *_ = tables(master, 4)
    mine, its = one.key(1, 1), one.key(1, 2)
    one.add(mine, 2)
    two.add(mine, 5)
    two.add(its, 3)
    assert hold_lock(two, mine)
    assert one.add(mine, 1, 9) == FULL  # the lock's owner does not give it up
    master.clear_worker(1)
    assert (one.count(mine), one.count(its)) == (2, 0)
    assert one.add(mine, 1, 3) == ADDED
    assert one.add(mine, 1, 3) == OVER


def test_clearing_what_was_never_used(master: Segment) -> None:
    assert master.clear_worker(2) == []


@pytest.mark.parametrize("limit", [1, 5])
def test_processes_at_once_stay_within_it(master: Segment, limit: int) -> None:
    result = run(master, "hammer", 4, 20_000, limit)
    assert max(result["most"]) == limit
    (one, *_) = tables(master, 1)
    assert [one.count(one.key(1, n)) for n in range(source_children.KEYS)] == [0] * source_children.KEYS


@pytest.mark.slow
def test_killed_at_any_moment(master: Segment) -> None:
    run(master, "storm", 4, 150, 3)
    (one, *_) = tables(master, 1)
    keys = [one.key(1, n) for n in range(source_children.KEYS)]
    assert [one.count(key) for key in keys] == [0] * len(keys)
    for key in keys[:7]:  # no lock is left behind, and all the places are free
        assert one.add(key, 1, 1) == ADDED


def test_the_master_has_none(master: Segment) -> None:
    with pytest.raises(TidegateError, match="no connections"):
        SharedSources(master)


def shared(master: Segment, scope: int = 1) -> tuple[Sources, Sources]:
    made = (Sources(), Sources())
    for sources, table in zip(made, tables(master, 2), strict=True):
        sources.share(table, scope)
    return made


def test_sources_share_a_limit(master: Segment) -> None:
    one, two = shared(master)
    assert [s.add("10.0.0.1", 3) for s in (one, one, two, two, one)] == [True, True, True, False, False]
    assert two.add("10.0.0.2", 3)
    one.remove("10.0.0.1")
    assert two.add("10.0.0.1", 3)
    assert (one["10.0.0.1"], two["10.0.0.1"]) == (1, 2)
    assert [one.add("2001:db8::1", 1), two.add("2001:db8::2", 1), two.add("2001:db8:0:1::1", 1)] == [True, False, True]


def test_those_who_are_there_are_told_when_a_limit_comes(master: Segment) -> None:
    made = (Sources(), Sources())
    for sources in made:
        for _ in range(2):
            assert sources.add("10.0.0.1")
    one, two = made
    for sources, table in zip(made, tables(master, 2), strict=True):
        sources.share(table, 1)
    assert not one.add("10.0.0.1", 4)
    one.remove("10.0.0.1")
    assert two.add("10.0.0.1", 4)
    one.withdraw()
    assert one.table is None
    assert two.add("10.0.0.1", 4)  # one's connection is not counted there any more
    assert not two.add("10.0.0.1", 4)


def test_where_there_is_no_place_a_worker_counts_alone_and_tells_later(master: Segment) -> None:
    one, two = shared(master)
    for n in range(7):
        assert two.add(f"10.0.1.{n}", 2)
    assert [one.add("10.0.0.1", 2) for _ in range(3)] == [True, True, False]
    two.remove("10.0.1.0")
    one.remove("10.0.0.1")
    assert one.add("10.0.0.1", 2)  # and now both are known
    assert not two.add("10.0.0.1", 2)
    one.remove("10.0.0.1")
    assert two.add("10.0.0.1", 2)
    one.remove("10.0.0.1")
    assert two.add("10.0.0.1", 2)
    assert not two.add("10.0.0.1", 2)
