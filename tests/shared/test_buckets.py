"""Token buckets in the shared segment: the arithmetic, exactness over processes, what happens when room is short."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bucket_children
import pytest
from bucket_children import INTERVAL, NOW
from children import ENVIRONMENT
from compiled.shared_segment import count_buckets, take_token, take_tokens
from hypothesis import given
from hypothesis import strategies as st
from property import examples

from lb.errors import TidegateError
from lb.shared.buckets import Buckets
from lb.shared.segment import Segment

SCRIPT = Path(bucket_children.__file__)
SECOND = 1_000_000_000


@pytest.fixture
def buckets() -> Iterator[Buckets]:
    segment = Segment.create(4, endpoint_capacity=1, series_capacity=1)
    yield Buckets(segment)
    segment.close()


def run(buckets: Buckets, mode: str, *arguments: int) -> Any:
    fd = buckets.segment.fd
    child = subprocess.run(
        [sys.executable, str(SCRIPT), mode, str(fd), *map(str, arguments)],
        pass_fds=[fd],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stdout + child.stderr
    return json.loads(child.stdout)


def test_burst_then_one_by_one(buckets: Buckets) -> None:
    key = buckets.key(b"a")
    verdicts = [take_token(buckets, key, SECOND, 3, NOW) for _ in range(4)]
    assert verdicts == [
        (True, 0, 2, SECOND),
        (True, 0, 1, 2 * SECOND),
        (True, 0, 0, 3 * SECOND),
        (False, SECOND, 0, 3 * SECOND),
    ]
    assert take_token(buckets, key, SECOND, 3, NOW + SECOND - 1) == (False, 1, 0, 2 * SECOND + 1)
    assert take_token(buckets, key, SECOND, 3, NOW + SECOND) == (True, 0, 0, 3 * SECOND)
    assert take_token(buckets, key, SECOND, 3, NOW + 100 * SECOND) == (True, 0, 2, SECOND)


def test_keys_have_buckets_of_their_own(buckets: Buckets) -> None:
    a, b = buckets.key(b"a"), buckets.key(b"b")
    assert a != b
    assert take_token(buckets, a, SECOND, 1, NOW)[0]
    assert not take_token(buckets, a, SECOND, 1, NOW)[0]
    assert take_token(buckets, b, SECOND, 1, NOW)[0]


def test_refusals_take_nothing(buckets: Buckets) -> None:
    key = buckets.key(b"a")
    assert take_tokens(buckets, key, SECOND, 2, NOW, 1000) == 2
    assert take_token(buckets, key, SECOND, 2, NOW + SECOND)[0]


def test_a_smaller_burst_after_a_reload_does_not_underflow(buckets: Buckets) -> None:
    key = buckets.key(b"a")
    assert take_tokens(buckets, key, SECOND, 100, NOW, 100) == 100
    assert take_token(buckets, key, SECOND, 2, NOW) == (False, 99 * SECOND, 0, 100 * SECOND)
    assert take_token(buckets, key, SECOND, 2, NOW + 99 * SECOND) == (True, 0, 0, 2 * SECOND)


def test_intervals_of_days(buckets: Buckets) -> None:
    day, key = 86400 * SECOND, buckets.key(b"a")
    assert take_tokens(buckets, key, day, 365, NOW, 1000) == 365
    assert take_token(buckets, key, day, 365, NOW) == (False, day, 0, 365 * day)
    assert take_token(buckets, key, day, 365, NOW + day)[0]


@pytest.mark.parametrize(("interval", "burst"), [(0, 1), (1, 0), (1 << 40, 1 << 22), (-1, 1)])
def test_what_cannot_be_counted_is_refused(buckets: Buckets, interval: int, burst: int) -> None:
    with pytest.raises((ValueError, OverflowError)):
        take_token(buckets, 1, interval, burst, NOW)


def test_zero_is_no_key(buckets: Buckets) -> None:
    with pytest.raises(ValueError, match="no key"):
        take_token(buckets, 0, 1, 1, NOW)


@pytest.mark.slow
@examples(200)
@given(
    st.integers(1, 10**12),
    st.integers(1, 1000),
    st.lists(st.tuples(st.integers(0, 10**13), st.integers(1, 20)), min_size=1, max_size=30),
)
def test_like_a_bucket_of_tokens(interval: int, burst: int, steps: list[tuple[int, int]]) -> None:
    """The same as a plain bucket that counts in fractions of a token (in ns: exact)."""
    segment = Segment.create(1, endpoint_capacity=1, series_capacity=1, bucket_sets=1)
    buckets, key, now, level = Buckets(segment), 7, NOW, interval * burst
    for pause, asked in steps:
        now += pause
        level = min(interval * burst, level + pause)
        for _ in range(asked):
            admitted, wait, remaining, reset = take_token(buckets, key, interval, burst, now)
            assert admitted == (level >= interval)
            if admitted:
                level -= interval
            assert wait == (0 if admitted else interval - level)
            assert remaining == level // interval
            assert reset == interval * burst - level
    segment.close()


def test_exact_over_processes(buckets: Buckets) -> None:
    got = run(buckets, "hammer", 4, 200_000, 123_457)
    assert sum(got) == 123_457
    assert take_tokens(buckets, buckets.key(b"one"), INTERVAL, 123_457, NOW, 10) == 0


def test_new_buckets_are_exact_too(buckets: Buckets) -> None:
    """Workers that meet a key for the first time at the same moment make one bucket of it, not two."""
    admitted = run(buckets, "fresh", 4, 3000, 3)
    assert set(admitted) == {3}
    assert all(count_buckets(buckets, buckets.key(b"fresh-%d" % i)) == 1 for i in range(3000))


@pytest.mark.slow
def test_death_at_any_moment_leaves_a_bucket_that_works(buckets: Buckets) -> None:
    burst = 300_000
    got = run(buckets, "storm", 3, 60, burst)
    # A process may die between its token and its word about it.
    left = take_tokens(buckets, buckets.key(b"storm"), INTERVAL, burst, NOW, 2 * burst)
    assert burst - 60 - 3 <= got + left <= burst
    assert count_buckets(buckets, buckets.key(b"storm")) == 1


def of_one_set(buckets: Buckets, count: int) -> list[int]:
    """Keys whose buckets share a set: any, where there is one set."""
    return [buckets.key(b"%d" % i) for i in range(count)]


def test_a_full_bucket_makes_room_first() -> None:
    segment = Segment.create(1, endpoint_capacity=1, series_capacity=1, bucket_sets=1)
    buckets = Buckets(segment)
    assert buckets.capacity == 8
    keys = of_one_set(buckets, 9)
    for i, key in enumerate(keys[:8]):
        assert take_tokens(buckets, key, SECOND, 10, NOW, 10 if i else 1) == (10 if i else 1)
    later = NOW + 5 * SECOND  # the first is full again, the others are not
    assert take_tokens(buckets, keys[8], SECOND, 10, later, 99) == 10
    assert buckets.evicted == 0
    assert count_buckets(buckets, keys[0]) == 0
    assert all(take_tokens(buckets, key, SECOND, 10, later, 99) == 5 for key in keys[1:8])
    segment.close()


def test_inventing_keys_does_not_free_the_one_over_its_limit() -> None:
    segment = Segment.create(1, endpoint_capacity=1, series_capacity=1, bucket_sets=1)
    buckets = Buckets(segment)
    busy, *others = of_one_set(buckets, 1000)
    assert take_tokens(buckets, busy, SECOND, 10, NOW, 10) == 10
    for key in others:
        assert take_token(buckets, key, SECOND, 10, NOW)[0]
        assert not take_token(buckets, busy, SECOND, 10, NOW)[0]
    assert buckets.evicted == len(others) - 7
    segment.close()


def test_a_key_that_was_pushed_out_begins_anew() -> None:
    segment = Segment.create(1, endpoint_capacity=1, series_capacity=1, bucket_sets=1)
    buckets = Buckets(segment)
    keys = of_one_set(buckets, 20)
    for key in keys:
        assert take_token(buckets, key, SECOND, 5, NOW) == (True, 0, 4, SECOND)
    assert take_token(buckets, keys[0], SECOND, 5, NOW) == (True, 0, 4, SECOND)
    segment.close()


def test_the_hash_is_the_segments_own(buckets: Buckets) -> None:
    other = Segment.create(1, endpoint_capacity=1, series_capacity=1)
    assert Buckets(other).key(b"a") != buckets.key(b"a")
    other.close()


def test_the_segment_stays_while_its_buckets_are_used() -> None:
    buckets = Buckets(Segment.create(1, endpoint_capacity=1, series_capacity=1))
    assert take_token(buckets, 1, 1, 1, NOW)[0]
    buckets.segment.close()
    for call in (lambda: take_token(buckets, 1, 1, 1, NOW), lambda: buckets.key(b"a"), lambda: buckets.evicted):
        with pytest.raises(TidegateError, match="closed"):
            call()
