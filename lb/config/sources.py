"""Networks that may connect to a listener and networks that may not, as one set of ranges of addresses.

The most exact network decides, whichever list it is in; what is in none may connect unless there is a list of those
that may. Resolved once, by whoever reads the files: workers look an address up by one binary search.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping

from lb.config.network import Network, parse_network

Ranges = tuple[bytes, bytes]
"""Of IPv4 and of IPv6, as lb.net.ip.Networks takes them: sorted pairs of a first and a last address in the machine's
order of bytes, each of 32 bits, or of 128 with the high half first."""

_HALF = (1 << 64) - 1


def networks_in(content: bytes) -> Iterator[Network]:
    """The networks of a file, one on each line; `#` begins a comment. Raises ValueError with the line's number."""
    for number, line in enumerate(content.decode("utf-8-sig", "replace").splitlines(), 1):
        word = line.partition("#")[0].strip()
        if word:
            try:
                yield parse_network(word)
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from None


def refused_ranges(allow: Iterable[Network] | None, deny: Iterable[Network]) -> Ranges:
    """Who may not connect; `allow` is None where there is no such list, so that everybody may who is not denied. Raises
    ValueError for a network that is in both."""
    verdicts: dict[Network, bool] = dict.fromkeys(allow or (), False)
    for network in deny:
        if verdicts.setdefault(network, True) is False:
            raise ValueError(f"{network} is allowed and denied")
    four = _resolved({n: v for n, v in verdicts.items() if n.version == 4}, 32, allow is not None)
    six = _resolved({n: v for n, v in verdicts.items() if n.version == 6}, 128, allow is not None)
    halves = [half for pair in six for bound in pair for half in (bound >> 64, bound & _HALF)]
    return array("I", [bound for pair in four for bound in pair]).tobytes(), array("Q", halves).tobytes()


def _resolved(verdicts: Mapping[Network, bool], bits: int, otherwise: bool) -> list[tuple[int, int]]:
    """The ranges whose innermost network has the verdict True. Networks nest or lie apart, so a stack has those around
    the place that was reached."""
    found: list[tuple[int, int]] = []
    around = [((1 << bits) - 1, otherwise)]
    reached = 0

    def go(to: int) -> None:
        nonlocal reached
        if to > reached and around[-1][1]:
            if found and found[-1][1] == reached - 1:
                found[-1] = found[-1][0], to - 1
            else:
                found.append((reached, to - 1))
        reached = max(reached, to)

    for network in sorted(verdicts, key=lambda n: (int(n.network_address), n.prefixlen)):
        first, last = int(network.network_address), int(network.broadcast_address)
        while around[-1][0] < first:
            go(around[-1][0] + 1)
            around.pop()
        go(first)
        around.append((last, verdicts[network]))
    while around:
        go(around[-1][0] + 1)
        around.pop()
    return found
