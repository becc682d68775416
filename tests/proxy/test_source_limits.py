"""Connections by network: as a plain counter, however networks come and go."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from lb.proxy.accept.source_limits import Sources


def test_as_a_plain_counter() -> None:
    rng = random.Random(3)
    made, reference, held = Sources(), Counter[str](), list[str]()
    texts = [f"10.0.{a}.{b}" for a in range(20) for b in range(20)] + [f"2001:db8:0:{a:x}::1" for a in range(300)]
    for _ in range(40_000):
        if held and rng.random() < (0.35 if len(held) < 600 else 0.65):
            text = held.pop(rng.randrange(len(held)))
            made.remove(text)
            reference[text] -= 1
        else:
            text = rng.choice(texts)
            assert made.add(text)
            reference[text] += 1
            held.append(text)
    for text in texts:
        assert made[text] == reference[text]
    assert made.networks == sum(1 for count in reference.values() if count)
    for text in held:
        made.remove(text)
    assert made.networks == 0
    assert all(made[text] == 0 for text in texts)


def test_the_limit_is_per_network() -> None:
    made = Sources()
    assert made.add("10.0.0.1", 2)
    assert made.add("10.0.0.1", 2)
    assert not made.add("10.0.0.1", 2)
    assert not made.add("::ffff:10.0.0.1", 2)  # the same address
    assert made.add("10.0.0.2", 2)
    made.remove("10.0.0.1")
    assert made.add("10.0.0.1", 2)
    assert made["10.0.0.1"] == 2


def test_ipv6_counts_by_the_first_64_bits() -> None:
    made = Sources()
    assert made.add("2001:db8::1", 2)
    assert made.add("2001:db8::ffff:1", 2)
    assert not made.add("2001:db8::2", 2)
    assert made.add("2001:db8:0:1::1", 2)
    assert made.networks == 2


def test_families_are_told_apart() -> None:
    made = Sources()
    made.add("0.0.0.1")
    made.add("::1:0:0:0:0")  # the same number as a /64
    assert made.networks == 2


def test_a_unix_socket_has_no_network() -> None:
    made = Sources()
    assert all(made.add("", 1) for _ in range(10))
    made.remove("")
    assert made.networks == 0
    with pytest.raises(KeyError):
        made[""]


def test_one_that_was_not_counted_changes_nothing() -> None:
    made = Sources()
    made.add("10.0.0.1")
    made.remove("10.0.0.2")
    assert made["10.0.0.1"] == 1
    assert made.networks == 1
