"""Questions to name servers, by dnspython: the only module that knows it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import dns.asyncresolver
import dns.exception
import dns.message
import dns.name
import dns.nameserver
import dns.rdataclass
import dns.rdatatype
import dns.resolver
from msgspec import Struct
from msgspec.structs import replace

from lb.config.address import HostPort, parse_address
from lb.config.schema.file import DnsSourceConfig
from lb.config.units import SECOND
from lb.discovery.source import DiscoveryError

_ROUNDS = 2  # how often each name server is asked, as `attempts` of resolv.conf(5)
_MOST_ALIASES = 8  # CNAMEs that we follow where the name server did not
_UDP_LIMIT = 512  # bytes of an answer to a question without EDNS, as ours are (RFC 1035 section 4.2.1)
_ADDRESS = 26  # bytes of an AAAA record behind its name


class Records(Struct, frozen=True):
    """What a question got. Without values the TTL is that of the denial: the lesser of the SOA record's TTL and its
    minimum (RFC 2308 section 5). One without an SOA record, as dnsmasq's for its own names, says nothing of how long it
    counts (`lasting` is False) and is not to be kept at all, says that section."""

    values: tuple[str, ...]
    ttl_ns: int
    nxdomain: bool = False
    lasting: bool = True


class Target(Struct, frozen=True):
    """An SRV record; `host` is empty where it says that there is no service. `known` are the addresses that came with
    it, by family: a family that is not there has to be asked for."""

    priority: int
    weight: int
    port: int
    host: str
    known: Mapping[str, Records]


class Queries:
    """Questions under the settings of `options`. Raises DiscoveryError when no name server gives a proper answer."""

    def __init__(self, options: DnsSourceConfig) -> None:
        self._options = options

    async def addresses(self, name: str, family: str) -> Records:
        """Records of type A or AAAA (`family`), as text."""
        records, rrset, _ = await self._ask(name, family)
        return replace(records, values=tuple(dict.fromkeys(r.to_text() for r in rrset)))

    async def services(self, name: str) -> tuple[Records, tuple[Target, ...]]:
        """Records of type SRV."""
        records, rrset, response = await self._ask(name, "SRV")
        targets = tuple(
            Target(r.priority, r.weight, r.port, "" if r.target == dns.name.root else r.target.to_text().lower(), known)
            for r in rrset
            for known in [_additional(response, r.target)]
        )
        return records, targets

    async def _ask(
        self, name: str, kind: str
    ) -> tuple[Records, dns.rdataset.Rdataset | tuple[()], dns.message.Message | None]:
        try:
            resolver = await asyncio.to_thread(self._resolver)
        except (dns.exception.DNSException, OSError) as error:
            raise DiscoveryError(f"no name server is known: {error}") from None
        wanted: dns.name.Name | str = name
        ttl = dns.ttl.MAX_TTL
        for _ in range(_MOST_ALIASES):
            try:
                answer = await resolver.resolve(wanted, kind, raise_on_no_answer=False)
            except dns.resolver.NXDOMAIN as error:
                return _denial(error), (), None
            except (dns.exception.DNSException, OSError, EOFError) as error:
                raise DiscoveryError(f"{kind} {name}: {_reason(error)}") from None
            ttl = min(ttl, answer.chaining_result.minimum_ttl)
            if answer.rrset is not None:
                return Records((), ttl * SECOND), answer.rrset, answer.response
            alias = answer.canonical_name
            if alias == answer.qname:
                return Records((), ttl * SECOND, lasting=_has_soa(answer.response)), (), None
            wanted = alias
        raise DiscoveryError(f"{kind} {name}: more than {_MOST_ALIASES} aliases")

    def _resolver(self) -> dns.asyncresolver.Resolver:
        given = self._options.resolvers
        resolver = dns.asyncresolver.Resolver(configure=not given)
        if given:
            parsed = [address for address in map(parse_address, given) if isinstance(address, HostPort)]
            resolver.nameservers = [dns.nameserver.Do53Nameserver(a.host, a.port) for a in parsed]
        resolver.use_search_by_default = not given
        resolver.timeout = self._options.timeout / SECOND
        resolver.lifetime = resolver.timeout * max(1, len(resolver.nameservers)) * _ROUNDS
        return resolver


def _denial(error: dns.resolver.NXDOMAIN) -> Records:
    """A name that does not exist counts as that for the shortest time of those tried (search list)."""
    ttls = []
    responses: dict[dns.name.Name, dns.message.QueryMessage] = error.kwargs["responses"]
    for response in responses.values():
        try:
            ttls.append(response.resolve_chaining().minimum_ttl)
        except dns.exception.DNSException:
            ttls.append(dns.message.NEGATIVE_TTL_WITHOUT_SOA)
    ttl = min(ttls, default=dns.message.NEGATIVE_TTL_WITHOUT_SOA)
    return Records((), ttl * SECOND, nxdomain=True, lasting=all(map(_has_soa, responses.values())))


def _has_soa(response: dns.message.Message) -> bool:
    return any(rrset.rdtype == dns.rdatatype.SOA for rrset in response.authority)


def _additional(response: dns.message.Message | None, host: dns.name.Name) -> dict[str, Records]:
    """The addresses of `host` that came along, by family.

    Over UDP servers leave out what does not fit and say nothing about it: whole families, as RFC 2181 section 9 wants,
    or some of the addresses (dnsmasq). So a message that had no room for one more counts for nothing. One above the
    limit came over TCP, where there is room.
    """
    size = len(response.wire or b"") if response is not None else 0
    one_more = sum(len(label) + 1 for label in host.labels) + _ADDRESS
    if response is None or size <= _UDP_LIMIT < size + one_more:
        return {}
    return {
        dns.rdatatype.to_text(rrset.rdtype): Records(tuple(r.to_text() for r in rrset), rrset.ttl * SECOND)
        for rrset in response.additional
        if rrset.name == host and rrset.rdtype in (dns.rdatatype.A, dns.rdatatype.AAAA)
    }


def _reason(error: Exception) -> str:
    """What went wrong with each name server, or what dnspython says."""
    if isinstance(error, dns.resolver.NoNameservers | dns.resolver.LifetimeTimeout):
        last = {}
        for server, _, port, problem, _ in error.kwargs.get("errors") or ():
            last[f"{server}"] = f"{_server(str(server), port)}: {_problem(problem)}"
        if last:
            return "; ".join(last.values())
    return str(error) or type(error).__name__


def _server(text: str, port: int) -> str:
    host = text.removeprefix("Do53:").rpartition("@")[0] or text.removeprefix("Do53:")
    return str(HostPort(host, port, True))


def _problem(problem: object) -> str:
    if isinstance(problem, dns.exception.Timeout):
        return "no answer in time"
    return str(problem) or type(problem).__name__
