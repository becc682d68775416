"""Endpoints from DNS: the addresses of a name, or what its SRV records say, for as long as their TTL."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

from lb.config.plan.plan import EndpointSpec
from lb.config.schema.file import DnsSourceConfig, PoolConfig
from lb.discovery.pauses import Pauses
from lb.discovery.source import DiscoveryError, Found, Source
from lb.discovery.static import literal
from lb.discovery.watch import LAST_RETRY

if TYPE_CHECKING:
    from lb.discovery.queries import Queries, Records, Target

_RECORDS = {"ipv4": "A", "ipv6": "AAAA"}
Answer = tuple[tuple[EndpointSpec, ...], int, list[str]]
"""Endpoints, how long they count, in ns, and why some are missing."""

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
        self._parts = Pauses(LAST_RETRY)  # after answers of which something is missing
        self._whole = False  # an answer was complete: from then on a part of one is an error
        self._families = tuple(_RECORDS[family] for family in options.families)

    async def look(self) -> Found:
        """Raises DiscoveryError when there is no answer, or none with an address in it, or a part of it is missing.

        Until an answer was complete, a part is taken: half of the endpoints are better than none, and later half of
        them would be taken for all.
        """
        if self._queries is None:
            # dnspython takes a tenth of a second to import: only those who use it should pay for it.
            from lb.discovery.queries import Queries

            self._queries = Queries(self.options)
        specs, ttl, missing = await (self._services() if self.options.type == "SRV" else self._addresses())
        self._denials.reset()
        refresh = min(max(ttl, self.options.min_ttl), self.options.max_ttl)
        if missing:
            return Found(specs, min(refresh, self._parts.next()), "; ".join(missing))
        self._whole = True
        return Found(specs, refresh)

    def describe(self) -> str:
        port = f":{self.options.port}" if self.options.port is not None else ""
        asked = self.options.type or "+".join(self._families)
        if asked == "SRV" and len(self._families) == 1:
            asked = f"SRV ({self._families[0]})"
        return f"{asked} {self.options.name}{port}"

    async def _addresses(self) -> Answer:
        host, port = self.options.name.rstrip("."), self.options.port
        assert port is not None
        families = self._families if self.options.type is None else (self.options.type,)
        hosts, ttl, missing = await self._hosts(self.options.name, families)
        found = dict.fromkeys(str(address) for ip in hosts if (address := literal(ip, port)) is not None)
        if not found:
            raise DiscoveryError(f"{self.options.name} has no usable address")
        return tuple(EndpointSpec(address, host=host) for address in found), ttl, missing

    async def _hosts(
        self, name: str, families: Sequence[str], known: Mapping[str, Records] = MappingProxyType({})
    ) -> tuple[list[str], int, list[str]]:
        """The addresses of a name, in order, IPv4 first, how long they count, in ns, and why some are missing. `known`
        are not asked for."""
        queries = self._queries
        assert queries is not None

        async def ask(family: str) -> Records | DiscoveryError:
            try:
                return known[family] if family in known else await queries.addresses(name, family)
            except DiscoveryError as error:
                return error

        answers = await asyncio.gather(*map(ask, families))
        failed = [answer for answer in answers if isinstance(answer, DiscoveryError)]
        given = [answer for answer in answers if not isinstance(answer, DiscoveryError)]
        good = [answer for answer in given if answer.values]
        if failed and (self._whole or not good):
            raise failed[0]
        if not good:
            raise self._nothing(f"{name} has no {' or '.join(families)} record{_because(given)}", given)
        hosts = [ip for answer in good for ip in sorted(answer.values, key=_order)]
        return hosts, min(answer.ttl_ns for answer in good), [str(error) for error in failed]

    async def _services(self) -> Answer:
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

        async def hosts(target: Target) -> tuple[list[str], int, list[str]] | DiscoveryError:
            async with gate:
                try:
                    return await self._hosts(target.host, self._families, target.known)
                except DiscoveryError as error:
                    return error

        found = await asyncio.gather(*map(hosts, chosen))
        failed = [result for result in found if isinstance(result, DiscoveryError)]
        silent = [error for error in failed if not isinstance(error, NothingThereError)]
        if silent and self._whole:
            raise silent[0]
        specs: dict[str, EndpointSpec] = {}
        ttl = answer.ttl_ns
        missing = [str(error) for error in silent]
        for target, (rank, weight), result in zip(chosen, places(chosen), found, strict=True):
            if isinstance(result, DiscoveryError):
                continue
            ttl = min(ttl, result[1])
            missing += result[2]
            for ip in result[0]:
                address = literal(ip, target.port)
                if address is not None:
                    spec = EndpointSpec(str(address), weight, target.host.rstrip("."), priority=rank)
                    specs.setdefault(spec.address, spec)
        if not specs:
            raise next(iter(silent or failed), DiscoveryError(f"{name} has no usable address"))
        return tuple(specs.values()), ttl, missing

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


def _order(ip: str) -> tuple[int, str]:
    return len(ip), ip
