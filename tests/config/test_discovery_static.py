"""Static endpoints: names to addresses."""

import socket

import pytest

from lb.config.plan.plan import EndpointSpec
from lb.config.schema.file import Config
from lb.discovery.static import StaticEndpoints, resolve
from lb.errors import ConfigError

HOSTS = {
    "two.test": ["10.0.0.1", "10.0.0.2", "10.0.0.1"],
    "six.test": ["2001:db8::1"],
    "link.test": ["fe80::1"],
    "scoped.test": ["fe80::1%2"],
    "same.test": ["10.0.0.2"],
}


def lookup(host: str) -> list[str]:
    try:
        return HOSTS[host]
    except KeyError:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known") from None


def config_of(*endpoints: object) -> Config:
    return Config.model_validate({"pools": {"a": {"protocol": "http", "endpoints": list(endpoints)}}})


@pytest.mark.parametrize(
    ("address", "literal"),
    [
        ("127.0.0.1:80", ("127.0.0.1:80",)),
        ("[::1]:80", ("[::1]:80",)),
        ("unix:/run/a.sock", ("unix:/run/a.sock",)),
        ("two.test:80", ("10.0.0.1:80", "10.0.0.2:80")),
        ("six.test:80", ("[2001:db8::1]:80",)),
        ("scoped.test:80", ("[fe80::1%2]:80",)),
    ],
)
def test_resolve(address: str, literal: tuple[str, ...]) -> None:
    assert resolve(address, lookup) == literal


def test_the_machines_resolver_knows_localhost() -> None:
    assert set(resolve("localhost:80")) & {"127.0.0.1:80", "[::1]:80"}


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("none.test:80", "none.test cannot be resolved: Name or service not known"),
        ("link.test:80", "no usable address"),
        ("localhost", "no port"),
    ],
)
def test_what_cannot_be_resolved(address: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve(address, lookup)


def test_a_name_that_no_encoding_takes_is_a_problem() -> None:
    def broken(host: str) -> list[str]:
        raise UnicodeError("label too long")

    with pytest.raises(ConfigError, match="label too long"):
        resolve("a.test:80", broken)


def test_every_address_of_a_name_is_an_endpoint_with_its_weight() -> None:
    static = StaticEndpoints(lookup)
    assert static.check(config_of({"address": "two.test:80", "weight": 3}, "127.0.0.1:1")) == []
    assert static.endpoints == {
        "a": (
            EndpointSpec("10.0.0.1:80", 3, "two.test"),
            EndpointSpec("10.0.0.2:80", 3, "two.test"),
            EndpointSpec("127.0.0.1:1", 1),
        )
    }


def test_every_problem_has_its_path() -> None:
    static = StaticEndpoints(lookup)
    assert static.check(config_of("none.test:80", "two.test:80", "same.test:80", "gone.test:80")) == [
        ("pools.a.endpoints[0]", "none.test cannot be resolved: Name or service not known"),
        ("pools.a.endpoints[2]", "same.test:80 is 10.0.0.2:80, which endpoint 1 is already"),
        ("pools.a.endpoints[3]", "gone.test cannot be resolved: Name or service not known"),
    ]


def test_managed_pools_are_left_alone() -> None:
    static = StaticEndpoints(lookup)
    config = Config.model_validate({"pools": {"m": {"protocol": "oip", "serve": {"models": "/m"}}}})
    assert static.check(config) == []
    assert static.endpoints == {}
