"""A proxy under test, as the bench sees it: how to configure it, start it and name it."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

# What a proxy is asked to do with a connection: pass on HTTP/1.1 requests, pass on bytes, turn an inference request of
# HTTP/1.1 into what the model server speaks, or answer a repeated inference request from its cache.
Job = Literal["http", "tcp", "oip", "cache"]
# What the server behind the proxy speaks.
Upstream = Literal["http", "grpc"]


@dataclass(frozen=True)
class Setup:
    """One arrangement: the job, the proxy's port, the server's port, and what else a configuration needs."""

    job: Job
    port: int
    server_port: int
    admin_port: int
    directory: Path
    max_connections: int = 8_000


class Proxy(Protocol):
    """A program that can stand between the load and the server."""

    name: str
    package: str

    def version(self) -> str | None:
        """Its version, or None if it is not installed."""

    def upstream(self, job: Job) -> Upstream:
        """What it speaks to the server for this job."""

    def config(self, setup: Setup) -> str:
        """Its configuration for one CPU. Raises Cannot where it has no way to do the job."""

    def command(self, path: Path) -> list[str]:
        """The command that runs it in the foreground on the configuration at `path`."""

    def check_command(self, path: Path) -> list[str]:
        """The command that checks the configuration at `path` and exits with 0 if it is valid."""


def version_of(command: list[str], pattern: str) -> str | None:
    """The first group of `pattern` in what the command prints; None if it cannot be run or says something else."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except FileNotFoundError:
        return None
    found = re.search(pattern, done.stdout + done.stderr)
    return found[1] if found else None
