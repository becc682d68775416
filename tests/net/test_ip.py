"""Sets of networks: the same answers as the standard library's, for networks of every size that touch and overlap."""

from __future__ import annotations

import ipaddress
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lb.config.network import parse_network
from lb.net.ip import Networks

MAPPED = "::ffff:"
NOBODYS = ("0.0.0.0/32", "::/128")  # which no network may be


def networks(draw_bits: int, width: int) -> st.SearchStrategy[str]:
    """Networks in a corner of the address space, so that they meet."""
    kind = ipaddress.IPv4Network if width == 32 else ipaddress.IPv6Network
    return st.builds(
        lambda low, prefix: str(kind((low << (width - draw_bits - 8), prefix), strict=False)),
        st.integers(0, (1 << draw_bits) - 1),
        st.integers(0, width),
    ).filter(lambda text: text not in NOBODYS)


@pytest.mark.slow
@given(st.lists(networks(8, 32)), st.lists(st.integers(0, 2**32 - 1), min_size=1))
def test_ipv4_as_the_standard_library(texts: list[str], addresses: list[int]) -> None:
    made = Networks(texts)
    reference = [ipaddress.IPv4Network(text) for text in texts]
    edges = [int(n.network_address) + d for n in reference for d in (-1, 0)]
    edges += [int(n.broadcast_address) + d for n in reference for d in (0, 1)]
    for value in [*addresses, *edges]:
        address = ipaddress.IPv4Address(value % 2**32)
        inside = any(address in network for network in reference)
        assert (str(address) in made) == inside
        assert (f"{MAPPED}{address}" in made) == inside


@pytest.mark.slow
@given(st.lists(networks(16, 128)), st.lists(st.integers(0, 2**128 - 1), min_size=1))
def test_ipv6_as_the_standard_library(texts: list[str], addresses: list[int]) -> None:
    made = Networks(texts)
    reference = [ipaddress.IPv6Network(text) for text in texts]
    edges = [int(n.network_address) + d for n in reference for d in (-1, 0)]
    edges += [int(n.broadcast_address) + d for n in reference for d in (0, 1)]
    for value in [*addresses, *edges]:
        address = ipaddress.IPv6Address(value % 2**128)
        if address.ipv4_mapped is None:
            assert (str(address) in made) == any(address in network for network in reference)


def test_many_networks() -> None:
    rng = random.Random(1)
    chosen = {rng.randrange(1 << 24) for _ in range(5000)}
    made = Networks([f"{ipaddress.IPv4Address(n << 8)}/24" for n in chosen])
    assert len(made) <= len(chosen)
    for n in [*chosen, *(rng.randrange(1 << 24) for _ in range(5000))]:
        assert (str(ipaddress.IPv4Address((n << 8) + rng.randrange(256))) in made) == (n in chosen)


def test_all_of_a_family_is_not_the_other() -> None:
    assert "10.0.0.1" in Networks(["0.0.0.0/0"])
    assert "::ffff:10.0.0.1" in Networks(["0.0.0.0/0"])
    assert "::1" not in Networks(["0.0.0.0/0"])
    assert "::1" in Networks(["::/0"])
    assert "10.0.0.1" not in Networks(["::/0"])
    assert "10.0.0.1" not in Networks([])


def test_a_mapped_network_is_that_of_ipv4() -> None:
    made = Networks(["::ffff:10.0.0.0/104"])
    assert "10.255.0.1" in made
    assert "11.0.0.1" not in made


def test_what_is_no_address_is_in_no_network() -> None:
    made = Networks(["0.0.0.0/0", "::/0"])
    for text in ("", "x", "1.2.3", "1.2.3.4\0", "1.2.3.4 ", "::1%lo", "1" * 100):
        assert text not in made


def test_neighbours_become_one_range() -> None:
    assert len(Networks(["10.0.0.0/9", "10.128.0.0/9", "10.1.2.3", "11.0.0.0/8"])) == 1
    assert len(Networks(["10.0.0.1", "10.0.0.3"])) == 2


@pytest.mark.parametrize(
    "text", ["", "10.0.0.0/33", "10.0.0.1/8", "2001:db8::1/32", "fe80::1%eth0", "name", "1.2.3.4/"]
)
def test_what_is_no_network_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"network|prefix|scope"):
        parse_network(text)
    with pytest.raises(ValueError, match=r"network|prefix|scope"):
        Networks([text])
