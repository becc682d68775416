"""Which of several Memcached servers has a key: consistent hashing as libmemcached's weighted ketama does it with equal
weights, so that other programs with the same list of servers find the same server.

Source: libmemcached, libmemcached/hosts.cc (update_continuum) and hash.cc (dispatch_host).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from hashlib import md5

_POINTS = 40  # digests of a server, each of which gives four points
_DEFAULT_PORT = ":11211"


class Ketama:
    """Servers by their names, `HOST:PORT`; the points of a server do not depend on the others."""

    def __init__(self, servers: Sequence[str]) -> None:
        points = []
        for number, server in enumerate(servers):
            # libmemcached leaves the default port out of what it hashes.
            name = server.removesuffix(_DEFAULT_PORT)
            for i in range(_POINTS):
                digest = md5(f"{name}-{i}".encode(), usedforsecurity=False).digest()
                points += [(int.from_bytes(digest[at : at + 4], "little"), number) for at in range(0, 16, 4)]
        points.sort()
        self._points = [point for point, _ in points]
        self._servers = [number for _, number in points]

    def server(self, key: bytes) -> int:
        """Place in the list of the server that has `key`."""
        digest = md5(key, usedforsecurity=False).digest()
        at = bisect_left(self._points, int.from_bytes(digest[:4], "little"))
        return self._servers[at % len(self._servers)]
