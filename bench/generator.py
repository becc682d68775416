"""A load generator as the bench sees it: a program that sends for some seconds and then says what it counted."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class Target:
    """Where the load goes: 127.0.0.1:`port`, with `threads` CPUs to send from and a directory for scripts.

    `authority` is the certificate to trust if the port speaks TLS. `more_ports` are those of further proxies beside the
    first, each of which gets an equal share of the load.
    """

    port: int
    threads: int
    directory: Path
    authority: Path | None = None
    more_ports: tuple[int, ...] = ()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"


@dataclass(frozen=True)
class Counted:
    """What a generator counted: `operations` that succeeded, failures by kind, bytes received, and its own report."""

    operations: int
    duration_ns: int
    errors: dict[str, int] = field(default_factory=dict)
    bytes: int = 0
    raw: dict[str, Any] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Operations per second."""
        return self.operations * 1e9 / self.duration_ns


class Generator(Protocol):
    """Makes the load of a scenario."""

    @property
    def name(self) -> str:
        """The program's name, for messages."""

    def version(self) -> str | None:
        """The program's version; None if it is not installed."""

    def command(self, target: Target, seconds: float) -> list[str]:
        """Writes what it needs into `target.directory`; returns the command that sends for so long and then ends."""

    def parse(self, output: str) -> Counted:
        """Reads what the command printed. Raises BenchError if that is no result, or nothing was answered."""
