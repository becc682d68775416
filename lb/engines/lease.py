"""The interface of leases: which of the daemons of a pool scales it, and what each of them says of its load.

A lease only translates. A Membership asks it in its own rhythm and decides by its own clock, as daemons' clocks differ.
"""

from __future__ import annotations

import os
import secrets
import socket
from abc import ABC, abstractmethod
from collections.abc import Mapping

from msgspec import Struct


class Standing(Struct, frozen=True):
    """What a renewal found. `holder` is the identity of the daemon that has the lease, "" where nobody has; `token`
    grows with every change of the holder; `said` is what each daemon has published last, by identity, this one left
    out."""

    holder: str
    token: int
    said: Mapping[str, str]


class Lease(ABC):
    """The lease of one pool, as the daemon `identity`. Every call raises lb.platforms.error.PlatformError."""

    identity: str

    @abstractmethod
    async def renew(self, load: str) -> Standing:
        """Publish `load`, take the lease if nobody has it, and keep it if this daemon has."""

    @abstractmethod
    async def confirm(self, token: int) -> None:
        """Raises ConflictError unless this daemon still has the lease of `token`."""

    @abstractmethod
    async def resign(self) -> None:
        """Give the lease up, if this daemon has it, and take back what it has published: its requests are over."""

    async def forget(self, identity: str) -> None:
        """Take back what a daemon has published that is gone for good."""
        return

    @abstractmethod
    def describe(self) -> str:
        """Where the lease is, in few words."""

    async def close(self) -> None:
        return


def own_identity() -> str:
    """A name of this daemon that no other has, also after a restart: the host's (in Kubernetes the pod's), the process
    and something drawn."""
    host = "".join(c if c.isalnum() else "-" for c in socket.gethostname().lower()).strip("-") or "tidegate"
    return f"{host[:63]}-{os.getpid()}-{secrets.token_hex(3)}"
