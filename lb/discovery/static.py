"""Endpoints written in the configuration: host names become the addresses that they have now."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from lb.config.address import HostPort, UnixPath, parse_address, parse_target
from lb.config.plan.plan import EndpointSpec
from lb.config.schema.file import Config, EndpointConfig, PoolConfig
from lb.discovery.source import DiscoveryError, Found, Source
from lb.errors import ConfigError

# Lookups wait for the network; in turn, a few dead name servers would add up to minutes.
MAX_LOOKUPS = 16


Lookup = Callable[[str], Iterable[str]]
"""The IP addresses of a host name; raises OSError when there are none or nobody can be asked."""


def system_lookup(host: str) -> list[str]:
    """What the machine's resolver says: /etc/hosts, DNS and whatever else nsswitch.conf names. Blocks."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return [str(info[4][0]) for info in found if info[0] in (socket.AF_INET, socket.AF_INET6)]


def literal(ip: str, port: int) -> HostPort | UnixPath | None:
    """The address that a resolver gives; None for one that cannot be connected to: a link-local one without its
    interface, which a record does not name."""
    try:
        return parse_target(str(HostPort(ip, port, True)))
    except ValueError:
        return None


def resolve(address: str, lookup: Lookup = system_lookup) -> tuple[str, ...]:
    """`HOST:PORT`, `[IPV6]:PORT` or `unix:/PATH` as literal addresses, in the resolver's order, each once.

    Raises ConfigError when it is no address or its name has none. Blocks while a name is looked up.
    """
    try:
        parsed = parse_address(address)
    except ValueError as error:
        raise ConfigError([str(error)]) from None
    if isinstance(parsed, UnixPath) or parsed.literal:
        return (str(parsed),)
    try:
        hosts = lookup(parsed.host)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError([f"{parsed.host} cannot be resolved: {reason}"]) from None
    usable = tuple(dict.fromkeys(str(found) for host in hosts if (found := literal(host, parsed.port)) is not None))
    if not usable:
        raise ConfigError([f"{parsed.host} has no usable address"])
    return usable


class StaticEndpoints:
    """The endpoints of pools with an `endpoints` list, resolved.

    `check` is a hook for lb.config.load, so that a name that cannot be resolved is reported with its line; `endpoints`
    then holds the result for compile_plan.
    """

    def __init__(self, lookup: Lookup = system_lookup) -> None:
        self._lookup = lookup
        self.endpoints: Mapping[str, tuple[EndpointSpec, ...]] = {}

    def check(self, config: Config) -> list[tuple[str, str]]:
        """Resolve every endpoint of `config`; problems as (path, message). Blocks while names are looked up."""
        pools = {name: pool for name, pool in config.pools.items() if pool.endpoints}
        answers = _resolve_all({e.address for pool in pools.values() for e in pool.endpoints}, self._lookup)
        problems: list[tuple[str, str]] = []
        self.endpoints = {
            name: _specs(f"pools.{name}.endpoints", pool.endpoints, answers, problems) for name, pool in pools.items()
        }
        return problems


class StaticSource(Source):
    """A list that never changes, as a source: `options` are the endpoints. Host names are looked up once.

    Other sources use it for lists that they have read.
    """

    def __init__(
        self, pool: str, options: Sequence[EndpointConfig], config: PoolConfig, lookup: Lookup = system_lookup
    ) -> None:
        super().__init__(pool, options, config)
        self._lookup = lookup

    async def look(self) -> Found:
        """Raises DiscoveryError when a name cannot be resolved, or two of them lead to one address."""
        answers = await asyncio.to_thread(_resolve_all, {e.address for e in self.options}, self._lookup)
        problems: list[tuple[str, str]] = []
        specs = _specs("endpoints", self.options, answers, problems)
        if problems:
            raise DiscoveryError("; ".join(f"{path}: {text}" for path, text in problems))
        return Found(specs, None)

    def describe(self) -> str:
        return f"{len(self.options)} endpoints"


def _resolve_all(addresses: Iterable[str], lookup: Lookup) -> dict[str, tuple[str, ...] | ConfigError]:
    def one(address: str) -> tuple[str, ...] | ConfigError:
        try:
            return resolve(address, lookup)
        except ConfigError as error:
            return error

    answers = {address: one(address) for address in addresses if _literal(address)}
    names = sorted(set(addresses) - answers.keys())
    with ThreadPoolExecutor(MAX_LOOKUPS, "resolve") as executor:
        return answers | dict(zip(names, executor.map(one, names), strict=True))


def _literal(address: str) -> bool:
    parsed = parse_address(address)
    return isinstance(parsed, UnixPath) or parsed.literal


def _specs(
    place: str,
    endpoints: Sequence[EndpointConfig],
    answers: Mapping[str, tuple[str, ...] | ConfigError],
    problems: list[tuple[str, str]],
) -> tuple[EndpointSpec, ...]:
    owners: dict[str, int] = {}
    specs: list[EndpointSpec] = []
    for i, endpoint in enumerate(endpoints):
        path, answer = f"{place}[{i}]", answers[endpoint.address]
        if isinstance(answer, ConfigError):
            problems.append((path, str(answer)))
            continue
        parsed = parse_address(endpoint.address)
        host = parsed.host.rstrip(".") if isinstance(parsed, HostPort) and not parsed.literal else ""
        for address in answer:
            if owners.setdefault(address, i) == i:
                specs.append(endpoint.spec(address, host))
            elif endpoint.address != endpoints[owners[address]].address:  # the same text is reported by the loader
                problems.append((path, f"{endpoint.address} is {address}, which endpoint {owners[address]} is already"))
    return tuple(specs)
