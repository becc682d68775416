"""Sources as keys: addresses of one network have one key."""

from __future__ import annotations

import ipaddress
import random

import pytest
from compiled.bytes_to_values import source_key

from lb.shared.hashing import hash64_bytes


def test_the_whole_address_is_its_text() -> None:
    for text in ("10.0.0.7", "2001:db8::1", ""):
        assert source_key(text, 32, 128) == hash64_bytes(text.encode())


@pytest.mark.parametrize("bits", [1, 7, 8, 9, 16, 20, 24, 31])
def test_networks_of_ipv4(bits: int) -> None:
    chance = random.Random(bits)
    for _ in range(200):
        address = ipaddress.IPv4Address(chance.getrandbits(32))
        network = ipaddress.IPv4Network((address, bits), strict=False)
        key = source_key(str(address), bits, 64)
        assert key == hash64_bytes(network.network_address.packed)
        assert key == source_key(f"::ffff:{address}", bits, 64)
        other = ipaddress.IPv4Address(int(address) ^ (1 << (32 - bits)))
        assert key != source_key(str(other), bits, 64)


@pytest.mark.parametrize("bits", [1, 32, 48, 56, 63, 64, 65, 127])
def test_networks_of_ipv6(bits: int) -> None:
    chance = random.Random(bits)
    for _ in range(200):
        address = ipaddress.IPv6Address(chance.getrandbits(128) | 1 << 125)
        network = ipaddress.IPv6Network((address, bits), strict=False)
        key = source_key(str(address), 24, bits)
        assert key == hash64_bytes(network.network_address.packed)
        other = ipaddress.IPv6Address(int(address) ^ (1 << (128 - bits)))
        assert key != source_key(str(other), 24, bits)


def test_what_is_no_address_is_its_text() -> None:
    for text in ("", "unix", "10.0.0", "1::2::3"):
        assert source_key(text, 24, 64) == hash64_bytes(text.encode())
