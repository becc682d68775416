"""A stick table that goes on with the one of the program before, whose workers count on meanwhile."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import pytest

from lb.config.plan.tables import TablePlace
from lb.config.schema.tables import TableConfig, table_plan
from lb.shared.segment import Segment
from lb.shared.stick_succession import StickSuccession
from lb.shared.stick_tables import StickTable

USER, ADDRESS = "\U000f0010header.x-user\U000f0012", "\U000f0010client.address\U000f0012"
STORE = ["requests", "request_rate(1h)", "error_rate(300ms)", "bytes_out", "gpt0"]


class Program:
    """A segment, a worker that counts in its table, and the master's view."""

    def __init__(self, secret: bytes | None = None, first: int = 0, sets: int = 64, **options: Any) -> None:
        self.segment = Segment.create(1, endpoint_capacity=1, series_capacity=1, stick_sets=16384, stick_secret=secret)
        plan = table_plan("users", TableConfig(**{"key": USER, "store": STORE, **options}), TablePlace(0, first, sets))
        self.worker = StickTable(Segment.attach(os.dup(self.segment.fd), 0), plan)
        self.master = StickTable(self.segment, plan)

    def count(self, key: bytes, field: str = "requests", n: int = 1) -> None:
        ref = self.worker.track(key)
        assert ref is not None
        self.worker.count(ref, field, n)
        self.worker.let_go(ref)

    def values(self, key: bytes) -> dict[str, int]:
        rows = self.master.rows(key)
        return rows[0][2] if rows else {}


@pytest.fixture
def before() -> Iterator[Program]:
    made = Program()
    yield made
    made.segment.close()


def after(before: Program, **options: Any) -> Program:
    return Program(before.segment.stick_secret, first=32, **options)


def test_what_was_counted_is_brought_over_once(before: Program) -> None:
    for _ in range(5):
        before.count(b"anna")
    before.count(b"bert", "bytes_out", 1 << 40)
    before.master.put(b"carl", {"gpt0": 7})
    long = b"k" * 200
    before.count(long)
    now = after(before)
    succession = StickSuccession(before.master, now.master)
    assert succession.bring() == 4
    assert (now.values(b"anna")["requests"], now.values(b"anna")["request_rate"]) == (5, 5)
    assert (now.values(b"bert")["bytes_out"], now.values(b"carl")["gpt0"]) == (1 << 40, 7)
    assert now.values(long)["requests"] == 1
    assert (succession.bring(), succession.bring(everything=True)) == (0, 4)

    # Both count on; an entry that is new there comes, too.
    now.count(b"anna")
    before.count(b"anna")
    before.count(b"dora")
    before.master.put(b"carl", {"gpt0": 8})
    now.master.put(b"bert", {"gpt0": 3})
    assert succession.bring() == 3
    assert (now.values(b"anna")["requests"], now.values(b"anna")["request_rate"]) == (7, 7)
    assert [now.values(key).get("gpt0") for key in (b"bert", b"carl", b"dora")] == [3, 8, 0]
    # An entry that begins anew there is all new.
    before.master.clear(b"anna")
    before.count(b"anna")
    assert succession.bring() == 1
    assert now.values(b"anna")["requests"] == 8


def test_rates_go_on_in_their_windows(before: Program) -> None:
    now = after(before)
    succession = StickSuccession(before.master, now.master)
    window = 0.3
    time.sleep(window - time.monotonic() % window + 0.01)  # the beginning of one
    before.count(b"anna", "errors", 100)
    assert succession.bring() == 1
    before.count(b"anna", "errors", 20)
    time.sleep(window - time.monotonic() % window + 0.01)
    now.count(b"anna", "errors", 1)
    before.count(b"anna", "errors", 2)
    assert succession.bring() == 1
    # 3 of this window, and of the 120 of the one before as much as the last 300 ms reach back to.
    rate = now.values(b"anna")["error_rate"]
    part = 1 - time.monotonic() % window / window
    assert 3 + 120 * part - 1 <= rate <= 3 + 120 * min(1, part + 0.2), (rate, part)
    assert before.values(b"anna")["error_rate"] <= rate
    time.sleep(2 * window)
    assert succession.bring(everything=True) == 1
    assert now.values(b"anna")["error_rate"] == 0


def test_what_has_expired_stays_behind_and_what_is_held_comes() -> None:
    old = Program(expire="1s")
    old.count(b"anna")
    held = old.worker.track(b"bert")
    assert held is not None
    old.worker.count(held, "requests")
    time.sleep(1.1)
    old.count(b"carl")
    now = after(old, expire="1s")
    assert StickSuccession(old.master, now.master).bring() == 2
    assert [bool(now.values(key)) for key in (b"anna", b"carl")] == [False, True]
    old.segment.close()


def test_networks_stay_one_key() -> None:
    old = Program(key=ADDRESS)
    for address in (b"192.0.2.1", b"2001:db8::1", b"2001:db8::2"):
        old.count(address)
    now = after(old, key=ADDRESS)
    assert StickSuccession(old.master, now.master).bring() == 2
    assert now.values(b"2001:db8::ffff")["requests"] == 2
    old.segment.close()


def test_more_keys_than_room_and_as_many_as_there_are(before: Program) -> None:
    for number in range(2000):
        before.count(b"%d" % number)
    now = after(before)
    brought = StickSuccession(before.master, now.master).bring()
    rows = before.master.rows()
    assert brought == len(rows) == len(now.master.rows()) > 400
    assert now.master.losses == (0, 0)


def test_a_large_table_is_looked_at_in_parts() -> None:
    old = Program(sets=10_000)
    for number in range(500):
        old.count(b"%d" % number)
    now = Program(old.segment.stick_secret, sets=10_000)
    succession = StickSuccession(old.master, now.master)
    assert succession.parts == 3
    assert sum(succession.bring(part=part) for part in range(3)) == len(now.master.rows()) == 500
    assert [succession.bring(part=part) for part in (0, 1, 2, 3)] == [0] * 4
    old.segment.close()


def test_another_layout_and_another_secret_are_refused(before: Program) -> None:
    with pytest.raises(ValueError, match="it had 64 sets, and has 16"):
        StickSuccession(before.master, after(before, sets=16).master)
    with pytest.raises(ValueError, match="another secret"):
        StickSuccession(before.master, Program().master)


def test_entries_of_the_other_segment_that_make_no_sense_are_passed_over(before: Program) -> None:
    before.count(b"anna")
    before.count(b"bert")
    size = os.fstat(before.segment.fd).st_size
    data = os.pread(before.segment.fd, size, 0)
    at = data.index(b"anna")
    os.pwrite(before.segment.fd, b"\xff\xff\xff\xff", at - 8)  # the length of its key
    now = after(before)
    assert StickSuccession(before.master, now.master).bring() == 1
    assert now.values(b"bert")["requests"] == 1
