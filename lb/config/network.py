"""Networks as the configuration spells them: `10.0.0.0/8`, `2001:db8::/32`, or one address."""

from __future__ import annotations

import ipaddress

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
