"""From where endpoints are reached."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Sequence
from typing import Annotated

from pydantic import AfterValidator

from lb.config.address import HostPort, parse_address
from lb.config.plan.plan import SourcePlan
from lb.config.schema.base import problem

CLIENT = "client"
_TEXT = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+))(?::([0-9]{1,5})-([0-9]{1,5}))?", re.ASCII)


def _source(value: str) -> str:
    if value == CLIENT:
        return value
    found = _TEXT.fullmatch(value)
    if found is None:
        raise problem("source", f"{value!r} is no source; write IP, [IPV6], IP:FIRST-LAST or client")
    try:
        address = ipaddress.ip_address(found[1] or found[2])
    except ValueError:
        raise problem("source", f"{found[1] or found[2]!r} is not an IP address") from None
    if address.is_unspecified or address.is_multicast:
        raise problem("source", f"{address} is no address to come from; without source the system chooses one")
    if found[3] is None:
        return f"[{address}]" if address.version == 6 else str(address)
    first, last = int(found[3]), int(found[4])
    if not 0 < first <= last < 65536:
        raise problem("source", f"{found[3]}-{found[4]} is no range of ports; write the lower port first, from 1 on")
    return f"[{address}]:{first}-{last}" if address.version == 6 else f"{address}:{first}-{last}"


Source = Annotated[str, AfterValidator(_source)]
"""An address of this machine, with a range of ports or without, or `client`."""


def source_plan(source: str) -> SourcePlan:
    """The plan of a pool's `source`."""
    if source == CLIENT:
        return SourcePlan()
    found = _TEXT.fullmatch(source)
    assert found is not None
    return SourcePlan(found[1] or found[2], int(found[3] or 0), int(found[4] or 0))


def check_source(path: str, source: str, protocol: str, endpoints: Sequence[str]) -> Iterator[tuple[str, str]]:
    """What `source`, which stands at `path`, cannot be in a pool of `protocol` with the addresses `endpoints`, as
    (path, message)."""
    if source == CLIENT:
        if protocol not in ("tcp", "udp"):
            yield (
                path,
                "client is only for protocols tcp and udp: connections of other pools are shared by many clients",
            )
        return
    version = 6 if source.startswith("[") else 4
    for text in endpoints:
        address = parse_address(text)
        if isinstance(address, HostPort) and address.literal and (6 if ":" in address.host else 4) != version:
            yield path, f"is of IPv{version}, and the endpoint {text} is not"
            return
