"""The result cache against a model: what it returns, for how long, and how much it keeps."""

import hashlib
import os
import subprocess
import sys

import pytest
from compiled.result_cache import first_shard, get_bytes, get_entry, lock_owner, put_bytes
from hypothesis import given, settings
from hypothesis import strategies as st

from lb.cache import freshness, lookup, owner, shard, store
from lb.cache.store import ResultCache
from lb.errors import TidegateError
from lb.shared.segment import Segment

SECOND = 1_000_000_000
FIRST_CHUNK, CHUNK = 424, 512


@pytest.mark.parametrize("module", [store, shard, lookup, owner, freshness])
def test_is_compiled(module):
    assert module.__file__.endswith(".so")


SIZES = [0, 1, FIRST_CHUNK - 1, FIRST_CHUNK, FIRST_CHUNK + 1, FIRST_CHUNK + CHUNK, FIRST_CHUNK + CHUNK + 1, 99_999]


@pytest.mark.parametrize("size", SIZES)
def test_round_trip(make_cache, key, size):
    cache = make_cache()
    value = os.urandom(size)
    assert get_bytes(cache, key(1), 0) is None
    assert put_bytes(cache, key(1), value, 100, SECOND) == 1
    assert get_entry(cache, key(1), 140) == (value, 40, SECOND - 40)
    assert get_bytes(cache, key(2), 140) is None
    stats = cache.stats()
    assert (stats["entries"], stats["hits"], stats["misses"], stats["stored"]) == (1, 1, 2, 1)
    assert stats["bytes"] == (CHUNK - FIRST_CHUNK + size + CHUNK - 1) // CHUNK * CHUNK


def test_time_to_live(make_cache, key):
    cache = make_cache()
    put_bytes(cache, key(1), b"value", 1000, 10)
    assert get_entry(cache, key(1), 1009) == (b"value", 9, 1)
    assert cache.has(key(1), 1009)
    assert get_bytes(cache, key(1), 1010) is None
    assert not cache.has(key(1), 1010)
    # A reader's clock, read once per batch, may be behind the writer's.
    assert get_entry(cache, key(1), 990) == (b"value", 0, 20)


def test_time_to_live_does_not_overflow(make_cache, key):
    cache = make_cache()
    assert put_bytes(cache, key(1), b"value", 5, 2**64 - 1) == 1
    assert get_bytes(cache, key(1), 2**63) == b"value"


def test_no_time_to_live_is_not_kept(make_cache, key):
    cache = make_cache()
    assert put_bytes(cache, key(1), b"value", 5, 0) == 0
    assert not cache.has(key(1), 5)


def test_replacing_and_dropping(make_cache, key):
    cache = make_cache()
    put_bytes(cache, key(1), b"old" * 1000, 0, SECOND)
    put_bytes(cache, key(1), b"new", 1, SECOND)
    assert get_bytes(cache, key(1), 2) == b"new"
    assert (cache.stats()["entries"], cache.stats()["bytes"]) == (1, CHUNK)
    cache.drop(key(1), 2)
    cache.drop(key(2), 2)
    assert get_bytes(cache, key(1), 2) is None
    assert (cache.stats()["entries"], cache.stats()["bytes"]) == (0, 0)


def test_too_large_is_declined(make_cache, key):
    cache = make_cache(max_object=10_000)
    assert cache.max_object == 10_000
    assert put_bytes(cache, key(1), bytes(10_001), 0, SECOND) == 0
    assert put_bytes(cache, key(1), bytes(10_000), 0, SECOND) == 1
    assert cache.stats()["rejected_size"] == 1


def test_largest_object_is_at_most_half_a_shard(make_cache, key):
    cache = make_cache(size=256 << 10, max_object=1 << 40)
    assert 100 << 10 < cache.max_object <= 128 << 10
    value = os.urandom(cache.max_object)
    for number in range(5):
        while put_bytes(cache, key(number), value, 0, SECOND) == 0:
            assert cache.stats()["rejected_value"] < 100
        assert get_bytes(cache, key(number), 0) == value


def test_every_worker_sees_the_same(make_cache, key):
    cache = make_cache()
    segment = Segment.attach(os.dup(cache.segment.fd), 1)
    other = ResultCache(segment, 1 << 20)
    put_bytes(cache, key(1), b"shared", 0, SECOND)
    assert get_bytes(other, key(1), 0) == b"shared"
    other.drop(key(1), 0)
    assert get_bytes(cache, key(1), 0) is None
    assert cache.stats() == other.stats()
    assert cache.stats()["hits"] == cache.stats()["misses"] == 1
    segment.close()


def test_layout_is_decided_once(make_cache, key):
    cache = make_cache(size=64 << 20, max_object=1 << 20)
    assert cache.shard_count == 8
    for number in range(200):
        put_bytes(cache, key(number), b"%d" % number, 0, SECOND)
    later = ResultCache(cache.segment, 1 << 14)  # would have chosen more shards
    assert later.shard_count == 8
    assert all(get_bytes(later, key(number), 0) == b"%d" % number for number in range(200))


@pytest.mark.parametrize("size", [0, 4096, 8192, 12288, 16384])
def test_a_region_too_small_is_refused(make_cache, size):
    with pytest.raises(TidegateError, match="needs more than"):
        make_cache(size=size)


def test_a_region_with_something_else_is_refused(make_cache):
    cache = make_cache()
    segment = cache.segment
    start = os.fstat(segment.fd).st_size - segment.cache_size
    for word in (b"notcache", b"\3\0\0\0\x35\x43\x47\x54", b"\0\0\0\0\x35\x43\x47\x54"):
        os.pwrite(segment.fd, word, start)
        with pytest.raises(TidegateError, match="not a result cache"):
            ResultCache(segment, 1000)


def test_wrong_arguments(make_cache, key):
    cache = make_cache()
    for call in (lambda: get_bytes(cache, b"short", 0), lambda: put_bytes(cache, b"x" * 33, b"", 0, 1)):
        with pytest.raises(ValueError, match="32 bytes"):
            call()
    with pytest.raises(ValueError, match="max_object"):
        ResultCache(cache.segment, 0)
    cache.segment.close()
    with pytest.raises(TidegateError, match="closed"):
        get_bytes(cache, key(1), 0)


operation = st.one_of(
    st.tuples(st.just("put"), st.integers(0, 11), st.sampled_from([*SIZES, 3000, 20_000]), st.integers(1, 50)),
    st.tuples(st.just("get"), st.integers(0, 11), st.just(0), st.just(0)),
    st.tuples(st.just("drop"), st.integers(0, 11), st.just(0), st.just(0)),
    st.tuples(st.just("wait"), st.just(0), st.just(0), st.integers(1, 20)),
)


@pytest.mark.parametrize(("size", "evicts"), [(2 << 20, False), (128 << 10, True)])
@settings(max_examples=60)
@given(operations=st.lists(operation, max_size=60))
def test_against_a_model(key, size, evicts, operations):
    segment = Segment.create(1, endpoint_capacity=1, series_capacity=1, cache_size=size)
    cache = ResultCache(segment, 50_000 if evicts else 100_000)
    model = {}
    now = 0
    for serial, (what, number, length, time) in enumerate(operations):
        if what == "put":
            value = hashlib.shake_128(b"%d" % serial).digest(length)
            expected = int(length <= cache.max_object)
            assert put_bytes(cache, key(number), value, now, time) == expected
            if expected:
                model[number] = value, now, now + time
        elif what == "drop":
            cache.drop(key(number), now)
            model.pop(number, None)
        elif what == "wait":
            now += time
        for candidate in range(12):
            found = get_entry(cache, key(candidate), now)
            value, stored, expires = model.get(candidate, (b"", 0, 0))
            if now < expires and (found is not None or not evicts):
                assert found == (value, now - stored, expires - now)
            else:
                assert found is None
            assert cache.has(key(candidate), now) == (found is not None)
        stats = cache.stats()
        assert stats["bytes"] <= stats["capacity"] <= size
        assert stats["corrupt"] == stats["rejected_busy"] == 0
    segment.close()


def hold_lock_forever(cache, key):
    """Write a living process's token into the lock of the key's shard (the only one); returns that process."""
    code = (
        "import os, sys; text = open('/proc/self/stat').read(); "
        "start = int(text.rsplit(')', 1)[1].split()[19]); "
        "os.pwrite(int(sys.argv[1]), ((os.getpid() << 32) | (start & 0xffffffff)).to_bytes(8, 'little'), "
        "int(sys.argv[2])); print(flush=True); sys.stdin.read()"
    )
    segment = cache.segment
    lock = first_shard(cache)
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(segment.fd), str(lock)],
        pass_fds=[segment.fd],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    child.stdout.readline()
    assert lock_owner(cache, key) == child.pid
    return child


def test_a_busy_shard_declines_and_a_dead_owners_lock_is_broken(make_cache, key):
    cache = make_cache()
    put_bytes(cache, key(1), b"before", 0, SECOND)
    child = hold_lock_forever(cache, key(1))
    try:
        assert put_bytes(cache, key(2), b"rejected", 0, SECOND) == 0
        assert get_bytes(cache, key(1), 0) == b"before"  # readers do not care
        cache.drop(key(1), 0)
        assert get_bytes(cache, key(1), 0) is None  # dropped although the lock is taken
        assert cache.recover(1) == 0
        assert (cache.stats()["rejected_busy"], cache.stats()["broken_locks"]) == (1, 0)
    finally:
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # a zombie from here on
    try:
        assert put_bytes(cache, key(2), b"still believed alive", 1, SECOND) == 0
        later = SECOND // 100
        assert put_bytes(cache, key(2), b"stored", later, SECOND) == 1
        assert get_bytes(cache, key(2), later) == b"stored"
        assert lock_owner(cache, key(2)) == 0
        assert cache.stats()["broken_locks"] == 1
        assert cache.stats()["entries"] == 1
    finally:
        child.communicate()


def test_a_lock_of_a_reused_process_number_is_broken(make_cache, key):
    cache = make_cache()
    child = hold_lock_forever(cache, key(1))
    child.communicate()
    lock = first_shard(cache)
    # Our own number with another start time: as if the number had come round to us.
    os.pwrite(cache.segment.fd, ((os.getpid() << 32) | 1).to_bytes(8, "little"), lock)
    assert cache.recover(0) == 1
    assert put_bytes(cache, key(1), b"x", 0, SECOND) == 1
