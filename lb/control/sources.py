"""Whether endpoints can be reached from where the configuration says: addresses of this machine, clients' own."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator

from lb.config.plan.plan import SourcePlan
from lb.config.schema.file import Config
from lb.config.schema.pools.source import source_plan

Found = tuple[str, str]

# What the socket module does not name (Linux): linux/in.h.
_IP_TRANSPARENT = 19


def check_sources(config: Config) -> list[Found]:
    """Sources of pools that cannot be, as (path, message): a check for lb.config.load, of reloads too."""
    plans = {name: source_plan(pool.source) for name, pool in config.pools.items() if pool.source is not None}
    return [(f"pools.{name}.source", text) for name, plan in plans.items() for text in _problems(plan)]


def _problems(plan: SourcePlan) -> Iterator[str]:
    with socket.socket(socket.AF_INET6 if ":" in plan.address else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            if plan.address:
                sock.bind((plan.address, 0))
            else:
                sock.setsockopt(socket.IPPROTO_IP, _IP_TRANSPARENT, 1)
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                yield f"no interface of this machine has {plan.address}"
            elif error.errno == errno.EPERM:
                yield "client needs CAP_NET_ADMIN: AmbientCapabilities=CAP_NET_ADMIN in the unit"
            else:
                yield f"{plan.address}: {error.strerror}"
    with open("/proc/sys/net/ipv4/ip_local_port_range") as file:
        first, last = map(int, file.read().split())
    if plan.last and not first <= plan.first <= plan.last <= last:
        yield (
            f"{plan.first}-{plan.last} is not within {first}-{last}, which the system gives out "
            "(sysctl net.ipv4.ip_local_port_range): it would not keep to it"
        )
