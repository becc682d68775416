"""Networks as the configuration spells them: `10.0.0.0/8`, `2001:db8::/32`, or one address."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Mapping
from typing import NamedTuple

_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def parse_network(text: str) -> Network:
    """`text` as a network; ValueError says what is wrong with it.

    An IPv4 network that is mapped into IPv6 (RFC 4291 section 2.5.5.2) is the IPv4 network: addresses are compared
    so, too.
    """
    address, slash, _ = text.partition("/")
    if "%" in text:
        raise ValueError(f"{text!r} has a scope, which is not supported")
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{text!r} is not a network; write 10.0.0.0/8, 2001:db8::/32 or an address") from None
    if slash and ipaddress.ip_address(address) != network.network_address:
        raise ValueError(f"{text!r} has bits set behind its prefix; write {network}")
    return canonical(network)


def _every(network: Network) -> str:
    return f"{network.network_address}/0 for every address"


def canonical(network: Network) -> Network:
    """The IPv4 network where `network` is one that is mapped into IPv6. ValueError where it has a scope, or is the one
    address that nobody has."""
    if network.prefixlen == network.max_prefixlen and network.network_address.is_unspecified:
        raise ValueError(f"{str(network.network_address)!r} is an address that nobody has; write {_every(network)}")
    if isinstance(network, ipaddress.IPv6Network) and network.network_address.scope_id:
        raise ValueError(f"{str(network)!r} has a scope, which is not supported")
    if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED):
        start = ipaddress.IPv4Address(int(network.network_address) & 0xFFFFFFFF)
        return ipaddress.IPv4Network((start, network.prefixlen - 96))
    return network


class Block(NamedTuple):
    """A network as numbers: of many there are."""

    bits: int  # of the family's addresses, 32 or 128
    first: int
    length: int  # of the prefix

    @property
    def last(self) -> int:
        return self.first | ((1 << (self.bits - self.length)) - 1)


def parse_block(text: str) -> Block:
    """As `parse_network`, in a fraction of the time; ValueError says the same."""
    address, slash, prefix = text.partition("/")
    family, bits = (socket.AF_INET6, 128) if ":" in address else (socket.AF_INET, 32)
    try:
        first = int.from_bytes(socket.inet_pton(family, address), "big")
    except (OSError, ValueError):
        first = 0
    length = int(prefix) if prefix.isascii() and prefix.isdecimal() else bits
    # What is odd in any way is looked at closely: a mapped one, a mask, a mistake, the address that nobody has.
    odd = not first or first >> 32 == 0xFFFF or length > bits or (slash != "" and prefix != str(length))
    if odd or first & ((1 << (bits - length)) - 1):
        network = parse_network(text)
        return Block(network.max_prefixlen, int(network.network_address), network.prefixlen)
    return Block(bits, first, length)


def ranges(values: Mapping[Block, int], bits: int) -> tuple[list[int], list[int]]:
    """The addresses of the family with `bits`, cut into ranges that have one value each: where each range begins, in
    order from 0 on, and the value of the narrowest network that has it; 0 where none has."""
    starts, found = [0], [0]
    around: list[tuple[int, int]] = []  # networks that have what comes next, the narrowest last: last address, value

    def begin(start: int, value: int) -> None:
        if start == starts[-1]:
            found[-1] = value
        else:
            starts.append(start)
            found.append(value)

    def end_below(limit: int) -> None:
        while around and around[-1][0] < limit:
            last, _ = around.pop()
            if last + 1 < 1 << bits:
                begin(last + 1, around[-1][1] if around else 0)

    for block in sorted(block for block in values if block.bits == bits):  # the wider one of two first
        end_below(block.first)
        begin(block.first, values[block])
        around.append((block.last, values[block]))
    end_below(1 << bits)
    return starts, found
