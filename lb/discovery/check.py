"""What has to hold for endpoints that a source gave, before they come near a plan."""

from __future__ import annotations

from collections.abc import Sequence

from lb.config.address import HostPort, parse_address
from lb.config.checks.endpoints import check_endpoints, unnamed
from lb.config.plan.plan import EndpointSpec
from lb.config.schema.pools.pool import EndpointConfig, PoolConfig
from lb.discovery.source import DiscoveryError

_WEIGHTS = range(1001)


def check_specs(name: str, pool: PoolConfig, specs: Sequence[EndpointSpec]) -> None:
    """Raises DiscoveryError when one of `specs` cannot be an endpoint of the pool `name`."""
    for spec in specs:
        try:
            address = parse_address(spec.address)
        except ValueError as error:
            raise DiscoveryError(str(error)) from None
        if isinstance(address, HostPort) and not address.literal:
            raise DiscoveryError(f"{spec.address} is a name, not an address")
        if str(address) != spec.address:
            raise DiscoveryError(f"{spec.address} is not spelled as addresses are: {address}")
        if spec.weight not in _WEIGHTS or spec.max_in_flight < 0:
            raise DiscoveryError(f"{spec.address} has a weight or a limit that is none")
        if spec.priority < 0:
            raise DiscoveryError(f"{spec.address} has a priority below 0")
    endpoints = [EndpointConfig.model_construct(address=s.address, server_id=s.server_id or None) for s in specs]
    for _, text in check_endpoints("", name, pool, endpoints):
        raise DiscoveryError(text)
    address_without_name = unnamed(pool, endpoints)
    if address_without_name is not None:
        raise DiscoveryError(f"{address_without_name} has no name that its certificate could be checked for")
