"""Free ports of this machine for servers that are told where to listen."""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import Iterator
from pathlib import Path

from lb.errors import StartError

_CONNECTIONS = Path("/proc/sys/net/ipv4/ip_local_port_range")
_FIRST = 20_000
_LEAST = 1000  # ports that a range of our own choice has at least
_TRIES = 200  # of the kernel's choice, where there is no such range


class Ports:
    """A port is one server's from `take` to `give_back`, so that no two servers are told the same one.

    The ports lie below those that the kernel gives to connections: there a connection could take a port between our
    look and the server's. Where the kernel leaves no room below, it chooses.
    """

    def __init__(self) -> None:
        self._taken: set[int] = set()
        self._last: dict[tuple[int, int], int] = {}  # by range: a port rests as long as possible before it comes again

    def take(self, wanted: tuple[int, int] | None = None) -> int:
        """A port of the range `wanted`, both ends included. Raises StartError when none is free."""
        found = next((p for p in self._candidates(wanted) if p not in self._taken and _is_free(p)), None)
        if found is None:
            raise StartError(f"no port of {wanted[0]}-{wanted[1]} is free" if wanted else "no port is free")
        self._taken.add(found)
        return found

    def keep(self, port: int) -> None:
        """One that a server has had from before."""
        self._taken.add(port)

    def give_back(self, port: int) -> None:
        self._taken.discard(port)

    def _candidates(self, wanted: tuple[int, int] | None) -> Iterator[int]:
        span = wanted or _own_range()
        if span is None:
            for _ in range(_TRIES):
                with socket.socket() as probe:
                    probe.bind(("", 0))
                    yield probe.getsockname()[1]
            return
        low, high = span
        count = high - low + 1
        last = self._last.get(span)
        # Daemons beside each other begin at different places.
        begin = (low if wanted else random.randint(low, high)) if last is None else last + 1  # noqa: S311
        for step in range(count):
            port = low + (begin - low + step) % count
            self._last[span] = port
            yield port


def port_range(port: int | str | None) -> tuple[int, int] | None:
    """The `port` of a `serve` section as a range with both ends."""
    if port is None:
        return None
    low, dash, high = str(port).partition("-")
    return int(low), int(high if dash else low)


def _own_range() -> tuple[int, int] | None:
    with contextlib.suppress(OSError, ValueError):
        low = int(_CONNECTIONS.read_text().split()[0])
        if low >= _FIRST + _LEAST:
            return _FIRST, low - 1
    return None


def _is_free(port: int) -> bool:
    """Whether nobody has it on any address."""
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True
