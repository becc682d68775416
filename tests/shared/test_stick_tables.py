"""Stick tables: exact over processes, bounded, told apart, and given back by processes that die."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from lb.config.plan.tables import TablePlace
from lb.config.schema.tables import TableConfig, table_plan
from lb.shared.segment import Segment
from lb.shared.stick_tables import StickTable

ALL = ["requests", "errors", "failures", "bytes_in", "bytes_out", "gpc0", "request_rate(1h)", "error_rate(100ms)",
       "concurrent", "gpt0"]  # fmt: skip


@pytest.fixture
def segment() -> Iterator[Segment]:
    made = Segment.create(3, endpoint_capacity=1, series_capacity=1, stick_sets=64)
    yield made
    made.close()


def plan_of(sets: int = 64, first: int = 0, number: int = 0, **options: Any) -> Any:
    config = TableConfig(**{"key": "\U000f0010header.x-user\U000f0012", "store": ALL, **options})
    return table_plan("users", config, TablePlace(number, first, sets))


def worker(segment: Segment, number: int, **options: Any) -> StickTable:
    return StickTable(Segment.attach(os.dup(segment.fd), number), plan_of(**options))


def value(table: StickTable, key: bytes, field: str) -> int:
    rows = table.rows(key)
    return rows[0][2][field] if rows else -1


def test_counts_of_two_workers_are_one_and_end_with_their_requests(segment: Segment) -> None:
    one, two, master = worker(segment, 0), worker(segment, 1), StickTable(segment, plan_of())
    assert master.rows() == []
    refs = [table.track(b"anna") for table in (one, two, two)]
    assert None not in refs
    for table, ref in zip((one, two, two), refs, strict=True):
        table.count(ref, "requests")
        table.count(ref, "bytes_out", 1 << 40)
    key, idle, values = master.rows(b"anna")[0]
    assert (key, values["requests"], values["bytes_out"], values["concurrent"]) == (b"anna", 3, 3 << 40, 3)
    assert values["request_rate"] == 3
    assert idle < 10**9 * 60
    for table, ref in zip((one, two, two), refs, strict=True):
        table.let_go(ref)
    assert value(master, b"anna", "concurrent") == 0
    assert value(master, b"anna", "requests") == 3
    with pytest.raises(ValueError, match="the master tracks nothing"):
        master.track(b"anna")


def test_a_rate_leaves_with_its_window(segment: Segment) -> None:
    table = worker(segment, 0)
    ref = table.track(b"anna")
    for _ in range(50):
        table.count(ref, "errors")
    assert 0 < value(table, b"anna", "error_rate") <= 50
    time.sleep(0.25)
    assert (value(table, b"anna", "error_rate"), value(table, b"anna", "errors")) == (0, 50)


def test_the_oldest_makes_room_and_one_with_requests_under_way_stays(segment: Segment) -> None:
    table = worker(segment, 0, sets=1)
    held = table.track(b"held")
    for i in range(6):
        table.let_go(table.track(b"%d" % i))
    assert {row[0] for row in table.rows()} == {b"held", *(b"%d" % i for i in range(6))}
    table.let_go(table.track(b"0"))  # used again: 1 is the oldest now
    table.let_go(table.track(b"new"))
    assert {row[0] for row in table.rows()} == {b"held", b"new", b"0", b"2", b"3", b"4", b"5"}
    assert table.losses == (1, 0)
    refs = [table.track(b"more %d" % i) for i in range(6)]
    assert None not in refs
    assert table.track(b"one too many") is None
    assert table.losses == (7, 1)
    table.let_go(held)
    assert table.track(b"one too many") is not None


def test_keys_are_told_apart_whatever_their_length_and_addresses_by_network(segment: Segment) -> None:
    table = worker(segment, 0)
    long = b"x" * 200
    for key in (long, long + b"y", b"x" * 88, b"", b"\x00\xff"):
        table.let_go(table.track(key))
    rows = [row[0] for row in table.rows()]
    assert len(rows) == 5
    assert max(map(len, rows)) == 88
    networks = worker(
        segment, 0, key="\U000f0010client.address\U000f0012", source={"ipv4_prefix": 24, "ipv6_prefix": 64}
    )
    networks.wipe()
    for key in (b"192.0.2.7", b"192.0.2.200", b"::ffff:192.0.2.9", b"2001:db8::1", b"2001:db8:0:0:ffff::2", b"a/b"):
        ref = networks.track(key)
        networks.count(ref, "requests")
        networks.let_go(ref)
    found = {row[0]: row[2]["requests"] for row in networks.rows()}
    assert found == {b"192.0.2.0/24": 3, b"2001:db8::/64": 2, b"a/b": 1}
    assert networks.rows(b"2001:db8::/64")[0][2]["requests"] == 2


def test_an_entry_expires_but_not_under_a_request(segment: Segment) -> None:
    table = worker(segment, 0, expire="1s")
    held, gone = table.track(b"held"), table.track(b"gone")
    for ref in (held, gone):
        table.count(ref, "requests")
    table.let_go(gone)
    time.sleep(1.1)
    assert [row[0] for row in table.rows()] == [b"held"]
    again = table.track(b"gone")
    table.count(again, "requests")
    assert value(table, b"gone", "requests") == 1
    table.let_go(held)
    assert value(table, b"held", "requests") == 1
    assert table.losses == (0, 0)


def test_operators_clear_and_set(segment: Segment) -> None:
    table, master = worker(segment, 0), StickTable(segment, plan_of())
    assert not master.clear(b"anna")
    ref = table.track(b"anna")
    table.count(ref, "requests")
    assert master.clear(b"anna")
    assert (value(master, b"anna", "requests"), value(master, b"anna", "concurrent")) == (0, 1)
    table.let_go(ref)
    assert master.clear(b"anna")
    assert master.rows() == []
    assert master.put(b"bert", {"gpt0": 7, "gpc0": 1 << 62})
    assert (value(master, b"bert", "gpt0"), value(master, b"bert", "gpc0")) == (7, 1 << 62)
    for field, said in (("concurrent", "cannot be set"), ("failure_rate", "does not store"), ("x", "does not store")):
        with pytest.raises(ValueError, match=said):
            master.put(b"bert", {field: 1})


def test_a_place_outside_of_the_segment_is_refused(segment: Segment) -> None:
    for options in ({"first": 64, "sets": 1}, {"sets": 65}, {"sets": 0}, {"number": 32}):
        with pytest.raises(ValueError, match="table users"):
            StickTable(segment, plan_of(**options))


def _count(fd: int, number: int, rounds: int) -> None:
    table = StickTable(Segment.attach(fd, number), plan_of(sets=2))
    for i in range(rounds):
        for key in (b"shared", b"own %d" % (i % 40)):
            ref = table.track(key)
            if ref is not None:
                table.count(ref, "requests")
                table.let_go(ref)


def test_processes_count_exactly_while_others_are_evicted(segment: Segment) -> None:
    keeper = worker(segment, 2, sets=2)
    assert keeper.track(b"shared") is not None  # so that it stays
    children = []
    for number in (0, 1):
        child = os.fork()
        if child == 0:
            _count(os.dup(segment.fd), number, 20_000)
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    assert value(keeper, b"shared", "requests") == 40_000
    assert keeper.losses[0] > 1000


def test_a_worker_that_is_killed_gives_back_what_it_held(segment: Segment) -> None:
    master = StickTable(segment, plan_of(sets=2))
    for _ in range(5):
        child = os.fork()
        if child == 0:
            _count(os.dup(segment.fd), 0, 10**9)
        time.sleep(0.05)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        segment.clear_worker(0)
        assert all(row[2]["concurrent"] == 0 for row in master.rows())
    table = worker(segment, 1, sets=2)
    assert all(table.track(b"after %d" % i) is not None for i in range(4))
