"""How long the clients of a pool wait before they leave, as the queue's histograms tell."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from lb.shared.segment import Segment
from lb.shared.words import BOUNDS_US, QUEUE
from lb.upstream.patience import Patience

SECOND = 1_000_000_000
SERIES = 5


class Clients:
    """Requests that have waited, in any of three workers."""

    def __init__(self, master: Segment) -> None:
        self.workers = [Segment.attach(os.dup(master.fd), worker) for worker in range(3)]
        self.patience = Patience(self.workers[0], SERIES)
        self.turn = 0

    def wait(self, seconds: float, count: int, left: bool) -> None:
        bucket = next((i for i, bound in enumerate(BOUNDS_US) if seconds * 1e6 <= bound), len(BOUNDS_US))
        for word in ("wait", "left") if left else ("wait",):
            self.turn += 1
            self.workers[self.turn % 3].add_series(SERIES, QUEUE.place(word) + 1 + bucket, count)

    def leave(self, seconds: float, count: int) -> None:
        self.wait(seconds, count, True)

    def served(self, seconds: float, count: int) -> None:
        self.wait(seconds, count, False)


@pytest.fixture
def clients() -> Iterator[Clients]:
    master = Segment.create(3)
    made = Clients(master)
    yield made
    for each in (*made.workers, master):
        each.close()


def test_nothing_is_known_while_nobody_leaves(clients: Clients) -> None:
    clients.served(4, 1000)
    assert clients.patience.known(SECOND) == 0
    clients.leave(4, 19)
    assert clients.patience.known(3 * SECOND) == 0


def test_the_time_after_which_all_have_left(clients: Clients) -> None:
    clients.served(0.02, 1000)
    clients.leave(1.9, 40)
    assert clients.patience.known(SECOND) == 2.5 * SECOND  # the end of the bucket


def test_not_the_time_after_which_the_first_have_left(clients: Clients) -> None:
    """Some clients give up after a second, the others wait for eight."""
    clients.leave(1, 50)
    clients.leave(8, 20)
    assert clients.patience.known(SECOND) == 10 * SECOND


def test_those_who_got_an_endpoint_later_would_have_waited(clients: Clients) -> None:
    clients.leave(1, 50)
    clients.served(8, 20)
    assert clients.patience.known(SECOND) == 0


def test_one_of_many_that_wait_for_longer_does_not_count(clients: Clients) -> None:
    clients.leave(1, 500)
    clients.leave(20, 5)
    assert clients.patience.known(SECOND) == 1 * SECOND


def test_what_is_known_stays_while_nobody_waits_for_so_long(clients: Clients) -> None:
    clients.leave(2, 100)
    for minute in range(10):
        clients.served(0.1, 100)
        assert clients.patience.known((1 + 61 * minute) * SECOND) == 2.5 * SECOND


def test_until_somebody_waits_for_longer(clients: Clients) -> None:
    clients.leave(2, 100)
    assert clients.patience.known(SECOND) == 2.5 * SECOND
    for minute in range(1, 4):
        clients.patience.known(61 * minute * SECOND)
    clients.served(4, 1)
    assert clients.patience.known(250 * SECOND) == 0
    clients.leave(7, 30)
    assert clients.patience.known(260 * SECOND) == 10 * SECOND


def test_what_was_before_it_is_looked_at_does_not_count(clients: Clients) -> None:
    clients.leave(2, 100)
    assert Patience(clients.workers[1], SERIES).known(SECOND) == 0
