"""What the options of an address to listen on cannot be together with it."""

from __future__ import annotations

from collections.abc import Iterator

from lb.config.address import UnixPath
from lb.config.schema.listeners.bind import BindConfig

Found = tuple[str, str]


def check_bind(path: str, bind: BindConfig, protocol: str) -> Iterator[Found]:
    """The problems of `bind`, which stands at `path`, in a listener of `protocol`."""
    address = bind.sockets()[0].address
    if isinstance(address, UnixPath):
        if protocol == "udp":
            yield path, "a udp listener has an IP address"
        for name in ("interface", "transparent"):
            if getattr(bind, name):
                yield f"{path}.{name}", "not for a Unix socket"
    if not bind.ipv6only and (isinstance(address, UnixPath) or address.host != "::"):
        yield f"{path}.ipv6only", "false is only for [::], which is every address"
    if not isinstance(address, UnixPath) and "%" in address.host and bind.interface:
        yield f"{path}.interface", "the address says it already"
