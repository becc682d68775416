"""The result cache between processes: real ones, at once, and killed at any moment."""

import json
import platform
import subprocess
import sys
from pathlib import Path

import cache_children
import pytest
from cache_children import KEYS, LIFE, SKIP, is_right, key_of, store
from children import ENVIRONMENT
from compiled.result_cache import get_bytes, lock_owner

SCRIPT = Path(cache_children.__file__)
ROOT = SCRIPT.parents[2]


def run(cache, mode, *arguments):
    fd = cache.segment.fd
    child = subprocess.run(
        [sys.executable, str(SCRIPT), mode, str(fd), *map(str, arguments)],
        pass_fds=[fd],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    if child.returncode == SKIP:
        pytest.skip("ptrace is not permitted here")
    assert child.returncode == 0, child.stdout + child.stderr
    return json.loads(child.stdout)


def assert_sound(cache, key, now):
    """Every value is right, no lock is held, and the whole capacity can be filled again: nothing has leaked."""
    for number in range(KEYS):
        value = get_bytes(cache, key_of(number), now)
        assert value is None or is_right(key_of(number), value)
        assert lock_owner(cache, key_of(number)) == 0
    now += 2 * LIFE  # everything is stale
    capacity = cache.stats()["capacity"]
    for number in range(capacity // 512 * 3):
        assert store(cache, key(("fill", number)), b"%d" % number, now) == 1
    assert cache.stats()["bytes"] == capacity
    assert cache.stats()["entries"] == capacity // 512
    right = sum(get_bytes(cache, key(("fill", n)), now) == b"%d" % n for n in range(capacity // 512 * 3))
    assert right == capacity // 512


def test_many_processes_at_once_read_only_right_values(make_cache, key):
    cache = make_cache(size=1 << 20, workers=4)
    result = run(cache, "hammer", 4, 15_000)
    assert result["statuses"] == [0, 0, 0, 0]
    stats = cache.stats()
    assert stats["corrupt"] == stats["broken_locks"] == 0
    assert stats["evictions"] > 1000
    assert stats["hits"] > 1000
    assert_sound(cache, key, LIFE // 1000)


@pytest.mark.parametrize(("size", "max_object"), [(512 << 10, 1 << 20), (16 << 20, 1 << 18)])
def test_a_storm_of_kills(make_cache, key, size, max_object):
    cache = make_cache(size=size, max_object=max_object, workers=3)
    result = run(cache, "storm", 250, 3)
    assert result["statuses"] == [-9]  # killed, and none of them had seen a wrong value
    cache.recover(LIFE // 1000)
    assert cache.stats()["broken_locks"] > 0  # the kills did hit what they were meant to hit
    assert_sound(cache, key, LIFE // 1000)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "aarch64"), reason="needs PTRACE_SINGLESTEP")
@pytest.mark.parametrize(("victim", "stride"), [("put", 29), ("break", 97), ("purged", 31)])
def test_death_after_any_instruction_under_the_lock(make_cache, key, victim, stride):
    cache = make_cache(size=96 << 10)
    result = run(cache, "steps", stride, victim)
    assert result["wrong"] == 0
    assert result["deaths"] > 10
    assert_sound(cache, key, LIFE)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "aarch64"), reason="needs PTRACE_SINGLESTEP")
def test_a_purge_has_happened_or_not_after_any_instruction(make_cache):
    cache = make_cache()
    assert run(cache, "purge")["seen"] == [[True] * 12, [True, False] * 6]
    assert cache.stats()["purges"] == 1
