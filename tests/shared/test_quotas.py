"""Quotas in the shared segment: exact over processes, through deaths, and where room is short."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import quota_children
from children import ENVIRONMENT

from lb.shared.quotas import Quotas
from lb.shared.segment import Segment

SCRIPT = Path(quota_children.__file__)
DAY = 1440
A, B = b"daily\0=a", b"daily\0=b"


@pytest.fixture
def segment() -> Iterator[Segment]:
    """With one set of seven places, so that clients meet."""
    made = Segment.create(4, endpoint_capacity=1, series_capacity=1, quota_sets=1)
    yield made
    made.close()


def run(segment: Segment, mode: str, *numbers: int) -> Any:
    child = subprocess.run(
        [sys.executable, str(SCRIPT), mode, str(segment.fd), *map(str, numbers)],
        pass_fds=[segment.fd], env=ENVIRONMENT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert child.returncode == 0, child.stdout + child.stderr
    return json.loads(child.stdout)


def test_a_window_has_a_limit_and_the_next_one_begins_anew(segment: Segment) -> None:
    quotas = Quotas(segment)
    assert [quotas.use(A, DAY, DAY, 2) for _ in range(3)] == [(True, 1), (True, 2), (False, 2)]
    assert quotas.use(B, DAY, DAY, 2) == (True, 1)
    assert quotas.use(A, DAY, DAY, 3) == (True, 3)  # the limit was raised
    assert quotas.use(A, DAY, DAY, 1) == (False, 3)  # and lowered
    quotas.give_back(A, DAY, DAY)
    assert quotas.use(A, DAY, DAY, 3) == (True, 3)
    assert quotas.use(A, 2 * DAY, DAY, 3) == (True, 1)
    quotas.give_back(A, 2 * DAY, DAY)
    quotas.give_back(A, 2 * DAY, DAY)  # there is nothing to give back
    assert quotas.use(A, 2 * DAY, DAY, 1) == (True, 1)


def test_clocks_that_disagree(segment: Segment) -> None:
    quotas = Quotas(segment)
    assert quotas.use(A, 2 * DAY, DAY, 2) == (True, 1)
    # A process that is a moment behind counts in the window that has begun.
    assert quotas.use(A, DAY, DAY, 2) == (True, 2)
    assert quotas.use(A, 2 * DAY, DAY, 2) == (False, 2)
    # The clock was far ahead, and is set back: the counts of the future are of no use.
    assert quotas.use(B, 500 * DAY, DAY, 1) == (True, 1)
    assert quotas.use(B, 2 * DAY, DAY, 1) == (True, 1)
    assert quotas.use(B, 2 * DAY, DAY, 1) == (False, 1)


def test_who_has_used_much_is_not_pushed_out(segment: Segment) -> None:
    quotas = Quotas(segment)
    for _ in range(3):
        quotas.use(A, DAY, DAY, 3)
    for n in range(1000):
        assert quotas.use(b"daily\0=%d" % n, DAY, DAY, 3)[0]
    assert quotas.use(A, DAY, DAY, 3) == (False, 3)
    assert quotas.evicted == 1000 - 6
    # Windows that are over make room first.
    for n in range(7):
        assert quotas.use(b"daily\0=n%d" % n, 2 * DAY, DAY, 3)[0]
    assert quotas.evicted == 1000 - 6


def test_rows_and_what_is_saved(segment: Segment) -> None:
    quotas = Quotas(segment)
    assert quotas.rows() == []
    quotas.use(A, DAY, DAY, 9)
    quotas.use(b"hourly\0@10.0.0.1", DAY + 60, 60, 1)
    assert sorted(quotas.rows(changed=True)) == [(A, DAY, DAY, 1, 0), (b"hourly\0@10.0.0.1", DAY + 60, 60, 1, 0)]
    quotas.saved(quotas.rows())
    assert quotas.rows(changed=True) == []
    quotas.use(A, DAY, DAY, 9)
    assert quotas.rows(changed=True) == [(A, DAY, DAY, 2, 1)]
    assert quotas.totals([(b"daily", DAY), (b"hourly", DAY + 60), (b"other", 0)]) == [(1, 0, 2), (1, 1, 1), (0, 0, 0)]
    assert quotas.totals([(b"daily", 2 * DAY)]) == [(0, 0, 0)]
    assert quotas.put(A, DAY, DAY, 5)
    assert quotas.put(A, DAY, DAY, 2, more=True)
    assert quotas.use(A, DAY, DAY, 8) == (True, 8)
    assert quotas.use(A, DAY, DAY, 8) == (False, 8)
    with pytest.raises(ValueError, match="more than 216"):
        quotas.use(b"x" * 217, DAY, DAY, 1)
    with pytest.raises(ValueError, match="65 quotas"):
        quotas.totals([(b"x", 0)] * 65)


def test_the_limit_is_exact_over_processes(segment: Segment) -> None:
    assert run(segment, "hammer", 4, 3000) == [3000] * 5


def test_deaths_at_any_moment_leave_a_table_that_works(segment: Segment) -> None:
    found = run(segment, "storm", 4, 100)
    assert found == {"others": True, "rows": 7}
