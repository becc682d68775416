"""The parts of cache tiers that need no server: breaker, encoding, placement of keys."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from lb.cache.tiers.breaker import FIRST_PAUSE, IN_A_ROW, LONGEST_PAUSE, Breaker
from lb.cache.tiers.entry import GENERATION, LONGEST_TAG, MOST_TAGS, Codec, Entry
from lb.cache.tiers.ketama import Ketama
from lb.cache.tiers.keys import pool_key
from lb.config.units import MILLISECOND, SECOND

SLOW = 5 * MILLISECOND
NOW = 1_000 * SECOND
KEY = bytes(range(32))


def closed(seed: int = 1) -> Breaker:
    breaker = Breaker(SLOW, random.Random(seed))
    breaker.probe()
    breaker.probe_succeeded(NOW)
    return breaker


def test_a_breaker_begins_open_with_a_probe_due() -> None:
    breaker = Breaker(SLOW)
    assert breaker.state == "open"
    assert breaker.retry_at <= NOW
    breaker.probe()
    assert breaker.state == "half_open"
    breaker.probe_succeeded(NOW)
    assert (breaker.state, breaker.opened) == ("closed", 0)


def test_it_opens_after_failures_in_a_row_and_not_for_scattered_ones() -> None:
    breaker = closed()
    for _ in range(200):
        assert not any(breaker.failed(NOW) for _ in range(IN_A_ROW - 3))
        assert not any(breaker.succeeded(NOW, SLOW) for _ in range(4))
    assert [breaker.failed(NOW) for _ in range(IN_A_ROW)] == [False] * (IN_A_ROW - 1) + [True]
    assert (breaker.state, breaker.opened) == ("open", 1)
    assert not breaker.failed(NOW)  # of a call that began before
    assert breaker.opened == 1


def test_it_opens_while_most_answers_are_slow_and_not_for_a_third() -> None:
    breaker = closed()
    for i in range(3000):
        assert not breaker.succeeded(NOW, SLOW + 1 if i % 3 == 0 else SLOW)
    calls = 1
    while not breaker.succeeded(NOW, SLOW + 1):
        calls += 1
    assert calls < 30
    breaker.probe()
    breaker.probe_succeeded(NOW)
    assert breaker.slow_share == 0  # what was before counts no more


def test_pauses_grow_with_jitter_and_begin_anew_after_a_good_while() -> None:
    def pauses(breaker: Breaker, now: int, times: int) -> list[int]:
        found = []
        for _ in range(times):
            found.append(breaker.retry_at - now)
            now = breaker.retry_at
            breaker.probe()
            breaker.probe_failed(now)
        return found

    def opened(breaker: Breaker, now: int) -> Breaker:
        while not breaker.failed(now):
            pass
        return breaker

    seen = [pauses(opened(closed(seed), NOW), NOW, 9) for seed in range(50)]
    for i, of_all in enumerate(zip(*seen, strict=True)):
        full = min(FIRST_PAUSE << i, LONGEST_PAUSE)
        assert all(full / 2 <= pause <= full for pause in of_all)
        assert len(set(of_all)) == 50
    # Back for a moment: the pause goes on to grow. Back for longer than the longest pause: it begins anew.
    for well, full in ((LONGEST_PAUSE - 1, 2 * FIRST_PAUSE), (LONGEST_PAUSE, FIRST_PAUSE)):
        breaker = opened(closed(), NOW)
        breaker.probe()
        breaker.probe_succeeded(NOW)
        opened(breaker, NOW + well)
        assert full / 2 <= breaker.retry_at - NOW - well <= full


_TAG = st.binary(min_size=1, max_size=LONGEST_TAG)
_TIME = st.integers(0, 2**64 - 1)
_ENTRIES = st.builds(
    Entry, st.binary(max_size=300), _TIME, _TIME, _TIME,
    st.lists(st.tuples(_TAG, st.binary(min_size=GENERATION, max_size=GENERATION)), max_size=4).map(tuple), _TIME,
)  # fmt: skip


@given(_ENTRIES, st.binary(min_size=1, max_size=40), st.data())
def test_an_entry_comes_back_as_it_was_or_not_at_all(entry: Entry, key: bytes, data: st.DataObject) -> None:
    codec = Codec(b"secret")
    encoded = codec.encode(key, entry)
    assert codec.fits(entry)
    assert codec.decode(key, encoded) == entry
    at = data.draw(st.integers(0, len(encoded) - 1))
    bit = data.draw(st.integers(0, 7))
    assert codec.decode(key, encoded[:at]) is None
    assert codec.decode(key, encoded[:at] + bytes([encoded[at] ^ 1 << bit]) + encoded[at + 1 :]) is None
    assert codec.decode(key + b"x", encoded) is None
    assert Codec(b"another").decode(key, encoded) is None


@given(st.binary(max_size=200), st.booleans())
def test_rubbish_is_no_entry(data: bytes, magic: bool) -> None:
    assert Codec(b"secret").decode(KEY, b"TgC1" * magic + data) is None


def test_the_encoding_is_the_documented_one() -> None:
    codec = Codec(b"secret")
    encoded = codec.encode(KEY, Entry(b"value", 1, 2, 3, ((b"tag", b"g" * 24),), 4))
    head = b"TgC1" + b"\1\0" + b"\4" + bytes(7) + b"\1" + bytes(7) + b"\2" + bytes(7) + b"\3" + bytes(7) + b"\5\0\0\0"
    assert encoded[:-16] == head + b"\3\0tag" + b"g" * 24 + b"value"
    # Another layout needs another magic: daemons of two versions share a tier during an upgrade.
    assert encoded[-16:].hex() == "c19c4f4add9f5d5594d97704859e3c72"


def test_entries_that_do_not_fit() -> None:
    codec = Codec(b"secret")
    one = (b"t", bytes(GENERATION))
    assert codec.fits(Entry(b"", 1, 2, 3, (one,) * MOST_TAGS))
    assert not codec.fits(Entry(b"", 1, 2, 3, (one,) * (MOST_TAGS + 1)))
    assert not codec.fits(Entry(b"", 1, 2, 3, ((b"t" * (LONGEST_TAG + 1), bytes(GENERATION)),)))
    assert not codec.fits(Entry(b"", 1, 2, 3, ((b"t", b""),)))


def test_generations_are_of_their_tag_and_secret() -> None:
    codec = Codec(b"secret")
    token = codec.new_generation(b"model:chat")
    assert codec.is_generation(b"model:chat", token)
    assert token != codec.new_generation(b"model:chat")
    for tag, its, by in (
        (b"model:code", token, codec),
        (b"model:chat", token[:-1], codec),
        (b"model:chat", None, codec),
        (b"model:chat", token, Codec(b"another")),
    ):
        assert not by.is_generation(tag, its)


def test_a_first_generation_is_told_from_one_of_a_purge() -> None:
    codec = Codec(b"secret")
    for _ in range(50):
        first, purged = codec.new_generation(b"t", purged=False), codec.new_generation(b"t")
        assert codec.is_first_generation(b"t", first)
        assert not codec.is_first_generation(b"t", purged)
        assert codec.is_generation(b"t", first)
        # Whoever has no secret says neither.
        assert not codec.is_first_generation(b"t", bytes([purged[0] & 0xFE]) + purged[1:])
    assert not codec.is_first_generation(b"t", None)
    assert not codec.is_first_generation(b"t", b"")


def test_keys_of_pools_are_of_the_secret_and_the_name() -> None:
    keys = {
        pool_key(secret, pool) for secret in (b"a" * 32, b"a" * 100, b"b" * 32) for pool in ("", "one", "two", "zwölf")
    }
    assert len(keys) == 12
    # The same in every release: daemons of two versions share a tier during an upgrade.
    assert pool_key(b"a" * 32, "one").hex() == "dae1c1bcc719b6946821b8d25b63e92c9bbf73747b69d63dfd2e031e863948be"


def test_servers_are_chosen_as_libmemcached_chooses_them() -> None:
    """Where pylibmc 1.6.3 with ketama_weighted and hash md5 put the keys; the last server has the default port."""
    ketama = Ketama(["127.0.0.1:21511", "127.0.0.1:21512", "127.0.0.1:11211"])
    expected = "200102100101212000022120220200100001100210202121121111101010"
    assert "".join(str(ketama.server(b"tidegate:e:%d" % i)) for i in range(60)) == expected


def test_a_server_more_takes_its_share_and_moves_no_other_key() -> None:
    names = [f"10.0.0.{i}:11211" for i in range(1, 6)]
    before, after = Ketama(names[:4]), Ketama(names)
    keys = [b"key %d" % i for i in range(5000)]
    moved = Counter(after.server(key) for key in keys if after.server(key) != before.server(key))
    assert set(moved) == {4}
    assert 0.1 < moved[4] / len(keys) < 0.3
    assert len({before.server(key) for key in keys}) == 4
