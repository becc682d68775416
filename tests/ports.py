"""Ports for servers that have to be told theirs."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import time
from pathlib import Path

_given: set[int] = set()


def free_port() -> int:
    """A port that nothing holds by TCP or UDP over IPv4, and that neither this process nor one beside it that runs a
    part of the tests (pytest-xdist) ever gave out before.

    It lies below the range that outgoing connections take theirs from, so that none of them is met there later.
    """
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    part = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    parts = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    candidates = (range(10_000, lowest) if lowest > 12_000 else range(20_000, 60_000))[part::parts]
    for port in random.sample(candidates, len(candidates)):
        if port not in _given and _is_free(port):
            _given.add(port)
            return port
    raise AssertionError("no port is free")


def wait_for_port(port: int, seconds: float = 60) -> None:
    """Returns once something accepts connections there. Raises TimeoutError."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.01)
    raise TimeoutError(f"nothing listens on port {port}")


def _is_free(port: int) -> bool:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(type=kind) as probe:
            try:
                probe.bind(("", port))
            except OSError:
                return False
    return True
