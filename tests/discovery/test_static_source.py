"""A fixed list as a source; how the `endpoints` of a configuration are resolved is in tests/config."""

from __future__ import annotations

import pytest
from discovery_pools import addresses, pool
from source_contract import SourceContract

from lb.config.schema.file import EndpointConfig
from lb.discovery.source import DiscoveryError, SourceOptions
from lb.discovery.static import StaticSource


class TestContract(SourceContract):
    """Its world is a constructor's argument."""

    changes = False
    hosts = ["127.0.0.1"]

    def put(self, hosts: list[str]) -> None:
        self.hosts = hosts

    def damage(self) -> None:
        self.hosts = ["nowhere.test"]

    def build(self) -> StaticSource:
        def lookup(host: str) -> list[str]:
            raise OSError(-2, "Name or service not known")

        endpoints = [EndpointConfig(address=f"{host}:9001") for host in self.hosts]
        return StaticSource("models", endpoints, pool(), lookup)


def test_a_list_has_no_options() -> None:
    assert StaticSource.Options is SourceOptions
    assert SourceOptions.model_fields == {}


async def test_names_that_lead_to_one_address_are_an_error() -> None:
    endpoints = [EndpointConfig(address="a.test:1"), EndpointConfig(address="b.test:1")]
    source = StaticSource("models", endpoints, pool(), lambda host: ["10.0.0.1"])
    with pytest.raises(DiscoveryError, match=r"endpoints\[1\]: b.test:1 is 10.0.0.1:1, which endpoint 0 is already"):
        await source.look()
    found = await StaticSource("models", endpoints[:1], pool(), lambda host: ["10.0.0.1", "10.0.0.2"]).look()
    assert addresses(found) == ["10.0.0.1:1", "10.0.0.2:1"]
