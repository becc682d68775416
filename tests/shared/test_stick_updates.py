"""What tables of two daemons tell each other: sums without echo, rates by their age, and one last gpt0."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import pytest

from lb.config.plan.tables import FIELDS, TablePlace
from lb.config.schema.tables import TableConfig, table_plan
from lb.shared.segment import Segment
from lb.shared.stick_tables import StickTable
from lb.shared.stick_updates import StickUpdates

USER, ADDRESS = "\U000f0010header.x-user\U000f0012", "\U000f0010client.address\U000f0012"
STORE = ["requests", "request_rate(1h)", "error_rate(100ms)", "bytes_out", "gpt0"]
NOTHING = [0] * 6


class Peer:
    """A daemon: its segment, a worker that counts, and what its master sends."""

    def __init__(self, sets: int = 64, **options: Any) -> None:
        self.segment = Segment.create(1, endpoint_capacity=1, series_capacity=1, stick_sets=64)
        config = TableConfig(**{"key": USER, "store": STORE, "shared": True, **options})
        plan = table_plan("users", config, TablePlace(0, 0, sets))
        self.worker = StickTable(Segment.attach(os.dup(self.segment.fd), 0), plan)
        self.master = StickTable(self.segment, plan)
        self.updates = StickUpdates(self.master)

    def count(self, key: bytes, field: str = "requests", n: int = 1) -> None:
        ref = self.worker.track(key)
        assert ref is not None
        self.worker.count(ref, field, n)
        self.worker.let_go(ref)

    def tell(self, *others: Peer, age_ns: int = 0, most: int = 1000) -> int:
        rows = self.updates.take(most)
        self.updates.taken(rows)
        for row in rows:
            self.updates.receive(*row[3:], age_ns, own=True)
            for other in others:
                other.updates.receive(*row[3:], age_ns)
        return len(rows)

    def values(self, key: bytes) -> dict[str, int]:
        rows = self.master.rows(key)
        return rows[0][2] if rows else {}


@pytest.fixture
def peers() -> Iterator[list[Peer]]:
    made = [Peer(), Peer(), Peer()]
    yield made
    for peer in made:
        peer.segment.close()


def test_counts_add_up_and_are_told_once(peers: list[Peer]) -> None:
    one, two, three = peers
    for peer, n in ((one, 5), (two, 3)):
        for _ in range(n):
            peer.count(b"anna")
    one.count(b"bert", "bytes_out", 1 << 40)
    assert (one.tell(two, three), two.tell(one, three)) == (2, 1)
    assert [peer.values(b"anna")["requests"] for peer in peers] == [8, 8, 8]
    assert [peer.values(b"anna")["request_rate"] for peer in peers] == [8, 8, 8]
    assert three.values(b"bert")["bytes_out"] == 1 << 40
    # What came from others is not told on.
    assert [peer.updates.take(1000) for peer in peers] == [[], [], []]
    three.count(b"anna")
    assert three.tell(one, two) == 1
    assert [peer.values(b"anna")["requests"] for peer in peers] == [9, 9, 9]


def test_what_was_not_taken_is_told_again_with_more(peers: list[Peer]) -> None:
    one, two, _ = peers
    one.count(b"anna")
    lost = one.updates.take(1000)
    one.count(b"anna")
    assert [row[4][0] for row in lost] == [1]
    assert one.tell(two) == 1
    assert two.values(b"anna")["requests"] == 2
    # An entry that has begun anew meanwhile is not charged with what the one before was told.
    one.count(b"anna", n=3)
    stale = one.updates.take(1000)
    assert one.master.clear(b"anna")
    one.count(b"anna", n=1)
    one.updates.taken(stale)
    assert one.tell(two) == 1
    assert (one.values(b"anna")["requests"], two.values(b"anna")["requests"]) == (1, 3)


def test_a_rate_counts_only_what_was_counted_in_its_window(peers: list[Peer]) -> None:
    one, two, three = peers
    one.count(b"anna", "errors", 50)
    time.sleep(0.25)
    one.count(b"anna", "errors", 2)
    (row,) = one.updates.take(1000)
    assert (row[4][1], row[5][1]) == (52, 2)
    two.updates.receive(*row[3:], 0)
    assert (two.values(b"anna")["errors"], 0 <= two.values(b"anna")["error_rate"] <= 2) == (52, True)
    three.updates.receive(*row[3:], 10**9)  # it came too late for the window
    assert (three.values(b"anna")["errors"], three.values(b"anna")["error_rate"]) == (52, 0)


def test_the_last_gpt0_in_the_order_of_the_stream_wins_everywhere(peers: list[Peer]) -> None:
    one, two, three = peers
    assert one.master.put(b"anna", {"gpt0": 1})
    assert two.master.put(b"anna", {"gpt0": 2})
    first, second = one.updates.take(10), two.updates.take(10)
    one.updates.taken(first)
    assert three.master.put(b"anna", {"gpt0": 3})  # not told yet: it is the last one in the end
    two.updates.taken(second)
    for row, sender in ((*first, one), (*second, two)):
        for peer in peers:
            peer.updates.receive(*row[3:], 0, own=peer is sender)
    assert [peer.values(b"anna")["gpt0"] for peer in peers] == [2, 2, 3]
    assert three.tell(one, two) == 1
    assert [peer.values(b"anna")["gpt0"] for peer in peers] == [3, 3, 3]


def test_a_key_of_a_peer_lives_as_long_as_it_was_used_there(peers: list[Peer]) -> None:
    one, two, three = peers
    one.count(b"anna")
    (row,) = one.updates.take(1)
    minutes = 60 * 10**9
    assert not two.updates.receive(*row[3:], 11 * minutes)  # it expired on the way
    assert two.values(b"anna") == {}
    assert three.updates.receive(*row[3:], 9 * minutes)
    (_, idle, values) = three.master.rows(b"anna")[0]
    assert values["requests"] == 1
    assert idle >= 9 * minutes
    assert not two.updates.receive(*row[3:], 0, own=True)  # of our own that is gone nothing comes back
    assert two.values(b"anna") == {}


def test_what_an_operator_sets_or_clears_is_no_news(peers: list[Peer]) -> None:
    one, two, _ = peers
    one.count(b"anna", n=5)
    one.tell(two)
    assert one.master.put(b"anna", {"requests": 100})
    one.updates.settle(b"anna")
    assert one.updates.take(10) == []
    one.count(b"anna")
    one.tell(two)
    assert one.master.put(b"anna", {"requests": 0})
    one.updates.settle(b"anna")
    one.count(b"anna")
    one.tell(two)
    assert (one.values(b"anna")["requests"], two.values(b"anna")["requests"]) == (1, 7)


def test_a_look_is_bounded_and_all_get_their_turn(peers: list[Peer]) -> None:
    one, two, _ = peers
    keys = [b"%d" % i for i in range(60)]
    for key in keys:
        one.count(key)
    told = [one.tell(two, most=25) for _ in range(4)]
    assert told == [25, 25, 10, 0]
    assert all(two.values(key).get("requests") == 1 for key in keys)
    # A hot key does not keep others away.
    for key in (b"0", b"1", b"2"):
        one.count(key)
    seen = set()
    for _ in range(3):
        (row,) = one.updates.take(1)
        seen.add(row[3])
    assert seen == {b"0", b"1", b"2"}


def test_keys_that_mean_nothing_elsewhere_stay_and_do_not_block(peers: list[Peer]) -> None:
    one, two, _ = peers
    one.count(b"x" * 89)
    one.count(b"y" * 88)
    assert [row[3] for row in one.updates.take(10)] == [b"y" * 88]
    one.tell(two)
    assert two.values(b"y" * 88)["requests"] == 1
    assert one.updates.take(10) == []


def test_networks_are_the_same_everywhere() -> None:
    one, two = (Peer(key=ADDRESS, store=["requests"]) for _ in range(2))
    one.count(b"2001:db8::1")
    one.count(b"192.0.2.7")
    one.tell(two)
    two.count(b"2001:db8::2")
    assert {key: values["requests"] for key, _, values in two.master.rows()} == {b"2001:db8::/64": 2, b"192.0.2.7": 1}
    for peer in (one, two):
        peer.segment.close()


def test_a_full_set_takes_no_key_of_a_peer_from_one_at_work() -> None:
    one, two = Peer(sets=1), Peer(sets=1)
    held = [two.worker.track(b"held %d" % i) for i in range(7)]
    one.count(b"anna")
    (row,) = one.updates.take(10)
    assert not two.updates.receive(*row[3:], 0)
    assert None not in held
    for peer in (one, two):
        peer.segment.close()


@pytest.mark.parametrize(
    ("row", "error"),
    [
        ((b"", NOTHING, NOTHING, None, 0), ValueError),
        ((b"x" * 89, NOTHING, NOTHING, None, 0), ValueError),
        ((b"x", NOTHING[1:], NOTHING, None, 0), ValueError),
        ((b"x", NOTHING, [*NOTHING, 0], None, 0), ValueError),
        ((b"x", [-1] * 6, NOTHING, None, 0), OverflowError),
        ((b"x", NOTHING, NOTHING, -1, 0), OverflowError),
        ((b"x", NOTHING, NOTHING, None, -1), OverflowError),
    ],
)
def test_what_is_no_row_is_refused(peers: list[Peer], row: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        peers[0].updates.receive(*row)
    peers[0].count(b"x")  # its lock is not held
    assert peers[0].values(b"x")["requests"] == 1


def test_a_table_that_stores_a_rate_stores_its_counter_and_places_are_not_mixed_up(peers: list[Peer]) -> None:
    plan = table_plan("users", TableConfig(key=USER, store=["request_rate(10s)"], shared=True), TablePlace(0, 0, 32))
    assert [FIELDS[field] for field in plan.stored] == ["requests", "request_rate"]
    other = StickTable(peers[0].segment, plan)
    with pytest.raises(ValueError, match="another place"):
        peers[0].updates.follow(other)
    with pytest.raises(ValueError, match="made once"):
        peers[0].updates.__init__(other)  # type: ignore[misc]
