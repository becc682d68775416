"""Endpoints from DNS: the addresses of a name, or what its SRV records say, for as long as their TTL."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

from lb.config.address import HostPort, parse_address
from lb.config.plan import EndpointSpec
from lb.config.schema import DnsSourceConfig, PoolConfig
from lb.discovery.pauses import Pauses
from lb.discovery.source import DiscoveryError, Found, Source

if TYPE_CHECKING:
    from lb.discovery.queries import Queries, Records, Target

_FAMILIES = ("A", "AAAA")
_AT_ONCE = 16  # targets of SRV records that are looked up at the same time
_MOST_WEIGHT = 1000  # of an endpoint; a record has 16 bits


class DnsSource(Source):
    """Asks with Queries; what the answers mean for the pool is decided here."""

    Options = DnsSourceConfig
    options: DnsSourceConfig

    def __init__(self, pool: str, options: DnsSourceConfig, config: PoolConfig) -> None:
        super().__init__(pool, options, config)
        self._queries: Queries | None = None
        self._denials = Pauses(options.negative_ttl)  # after those that do not say how long they count

    async def look(self) -> Found:
        """Raises DiscoveryError when there is no answer, or none with an address in it."""
        if self._queries is None:
            # dnspython takes a tenth of a second to import: only those who use it should pay for it.
            from lb.discovery.queries import Queries

            self._queries = Queries(self.options)
        specs, ttl = await (self._services() if self.options.type == "SRV" else self._addresses())
        self._denials.reset()
        return Found(specs, min(max(ttl, self.options.min_ttl), self.options.max_ttl))

    def describe(self) -> str:
        port = f":{self.options.port}" if self.options.port is not None else ""
        return f"{self.options.type or 'A+AAAA'} {self.options.name}{port}"

    async def _addresses(self) -> tuple[tuple[EndpointSpec, ...], int]:
        host, port = self.options.name.rstrip("."), self.options.port
        assert port is not None
        families = _FAMILIES if self.options.type is None else (self.options.type,)
        hosts, ttl = await self._hosts(self.options.name, families)
        return tuple(EndpointSpec(_address(ip, port), host=host) for ip in hosts), ttl

    async def _hosts(
        self, name: str, families: Sequence[str], known: Mapping[str, Records] = MappingProxyType({})
    ) -> tuple[list[str], int]:
        """The addresses of a name, in order, IPv4 first, and how long they count, in ns. `known` are not asked for."""
        queries = self._queries
        assert queries is not None

        async def ask(family: str) -> Records:
            return known[family] if family in known else await queries.addresses(name, family)

        return self._joined(name, families, await asyncio.gather(*map(ask, families)))

    def _joined(self, name: str, families: Sequence[str], answers: Sequence[Records]) -> tuple[list[str], int]:
        good = [answer for answer in answers if answer.values]
        if not good:
            raise self._nothing(f"{name} has no {' or '.join(families)} record{_because(answers)}", answers)
        return [ip for answer in good for ip in sorted(answer.values, key=_order)], min(a.ttl_ns for a in good)

    async def _services(self) -> tuple[tuple[EndpointSpec, ...], int]:
        assert self._queries is not None
        name = self.options.name
        answer, targets = await self._queries.services(name)
        offered = [target for target in targets if target.host and target.port]
        if not offered:
            why = "has no SRV record with a port" if targets else f"has no SRV record{_because([answer])}"
            if targets and not any(target.host for target in targets):
                why = "says that the service is not offered"
            raise self._nothing(f"{name} {why}", [answer])
        chosen = sorted(offered, key=lambda t: (t.priority, t.host, t.port))
        gate = asyncio.Semaphore(_AT_ONCE)

        async def hosts(target: Target) -> tuple[list[str], int] | DiscoveryError:
            async with gate:
                try:
                    return await self._hosts(target.host, _FAMILIES, target.known)
                except NothingThereError as error:
                    return error

        found = await asyncio.gather(*map(hosts, chosen))
        specs: dict[str, EndpointSpec] = {}
        ttl = answer.ttl_ns
        for target, (rank, weight), result in zip(chosen, places(chosen), found, strict=True):
            if isinstance(result, DiscoveryError):
                continue
            ttl = min(ttl, result[1])
            for ip in result[0]:
                address = _address(ip, target.port)
                specs.setdefault(address, EndpointSpec(address, weight, target.host.rstrip("."), priority=rank))
        if not specs:
            raise next(result for result in found if isinstance(result, DiscoveryError))
        return tuple(specs.values()), ttl

    def _nothing(self, message: str, answers: Sequence[Records]) -> NothingThereError:
        ttl = min(answer.ttl_ns for answer in answers)
        if not all(answer.lasting for answer in answers):
            ttl = self._denials.next()
        return NothingThereError(message, max(min(ttl, self.options.negative_ttl), self.options.min_ttl))


class NothingThereError(DiscoveryError):
    """DNS answered, and has no address for us."""


def places(targets: Sequence[Target]) -> list[tuple[int, int]]:
    """Of each of `targets`, its priority as that of an endpoint (0 first, without gaps) and its weight among those of
    its priority."""
    ranks = {priority: rank for rank, priority in enumerate(sorted({target.priority for target in targets}))}
    weights = {
        priority: iter(endpoint_weights([target.weight for target in targets if target.priority == priority]))
        for priority in ranks
    }
    return [(ranks[target.priority], next(weights[target.priority])) for target in targets]


def endpoint_weights(weights: Sequence[int]) -> list[int]:
    """Weights of SRV records (0 to 65535) as those of endpoints (1 to 1000), in proportion.

    0 stands for "a very small chance" beside others, and for nothing in particular where all are 0 (RFC 2782).
    """
    most = max(weights)
    if most == 0:
        return [1] * len(weights)
    scale = min(1.0, _MOST_WEIGHT / most)
    return [max(1, round(weight * scale)) for weight in weights]


def _because(answers: Sequence[Records]) -> str:
    return " (NXDOMAIN)" if all(answer.nxdomain for answer in answers) else ""


def _address(ip: str, port: int) -> str:
    return str(parse_address(str(HostPort(ip, port, True))))


def _order(ip: str) -> tuple[int, str]:
    return len(ip), ip
