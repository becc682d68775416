"""DNS as a source, against a name server on real sockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import dns.rcode
import pytest
from discovery_pools import addresses, pool
from discovery_pools import dns as options
from name_server import NameServer, name_server
from source_contract import SourceContract

from lb.config.plan.plan import EndpointSpec
from lb.config.units import MILLISECOND, MINUTE, SECOND
from lb.discovery.dns import DnsSource, endpoint_weights
from lb.discovery.source import DiscoveryError

NAME = "models.test."
SERVICE = "_oip._tcp.test."


@pytest.fixture
async def server() -> AsyncIterator[NameServer]:
    async with name_server() as running:
        yield running


def source(server: NameServer, **settings: Any) -> DnsSource:
    return DnsSource("models", options(resolvers=[server.address], **{"timeout": "5s", **settings}), pool())


def services(server: NameServer, **settings: Any) -> DnsSource:
    return source(server, name="_oip._tcp.test", port=None, type="SRV", **settings)


async def failure(asked: DnsSource) -> DiscoveryError:
    with pytest.raises(DiscoveryError) as caught:
        await asked.look()
    return caught.value


class TestContract(SourceContract):
    @pytest.fixture(autouse=True)
    def _server(self, server: NameServer) -> None:
        self.server = server

    def build(self) -> DnsSource:
        return source(self.server)

    def put(self, hosts: list[str]) -> None:
        self.server.fault = None
        self.server.set(NAME, "A", *hosts)

    def damage(self) -> None:
        self.server.fault = dns.rcode.SERVFAIL


async def test_both_families_by_default_and_the_name_for_certificates(server: NameServer) -> None:
    server.set(NAME, "A", "10.0.0.2", "10.0.0.1")
    server.set(NAME, "AAAA", "fd00::1", "::ffff:10.0.0.9")
    found = await source(server).look()
    assert addresses(found) == ["10.0.0.1:9001", "10.0.0.2:9001", "[fd00::1]:9001", "10.0.0.9:9001"]
    assert {endpoint.host for endpoint in found.endpoints} == {"models.test"}
    assert addresses(await source(server, type="AAAA").look()) == ["[fd00::1]:9001", "10.0.0.9:9001"]
    assert addresses(await source(server, type="A").look()) == ["10.0.0.1:9001", "10.0.0.2:9001"]
    assert server.asked(NAME, "A") == server.asked(NAME, "AAAA") == 2


@pytest.mark.parametrize(
    ("ttl", "wait"), [(7, 7 * SECOND), (0, 500 * MILLISECOND), (86_400, 5 * MINUTE)], ids=["ttl", "least", "most"]
)
async def test_an_answer_counts_for_its_ttl_within_bounds(server: NameServer, ttl: int, wait: int) -> None:
    server.set(NAME, "A", "10.0.0.1", ttl=ttl)
    assert (await source(server, min_ttl="500ms").look()).refresh_ns == wait


async def test_of_several_ttls_the_shortest_counts(server: NameServer) -> None:
    server.set(NAME, "A", "10.0.0.1", ttl=9)
    server.set(NAME, "AAAA", "fd00::1", ttl=4)
    assert (await source(server).look()).refresh_ns == 4 * SECOND
    # Of the family that is not there nothing is said but for how long: what is there decides.
    del server.records[NAME, "AAAA"]
    server.negative = 1
    assert (await source(server).look()).refresh_ns == 9 * SECOND


@pytest.mark.parametrize("chase", [True, False])
async def test_aliases_are_followed_and_their_ttl_counts(server: NameServer, chase: bool) -> None:
    server.chase = chase
    server.set(NAME, "CNAME", "a.test.", ttl=50)
    server.set("a.test.", "CNAME", "b.test.", ttl=3)
    server.set("b.test.", "A", "10.0.0.1", ttl=60)
    found = await source(server, type="A").look()
    assert (addresses(found), found.refresh_ns) == (["10.0.0.1:9001"], 3 * SECOND)
    assert found.endpoints[0].host == "models.test", "certificates are for the name that was asked for"


async def test_an_endless_chain_of_aliases_is_an_error(server: NameServer) -> None:
    server.chase = False
    server.set(NAME, "CNAME", "a.test.")
    server.set("a.test.", "CNAME", NAME)
    assert str(await failure(source(server, type="A"))) == "A models.test: more than 8 aliases"


async def test_a_truncated_answer_is_asked_for_again_over_tcp(server: NameServer) -> None:
    server.truncate = True
    server.set(NAME, "A", *(f"10.0.1.{n}" for n in range(1, 251)))
    assert len((await source(server, type="A").look()).endpoints) == 250
    assert [by for _, _, by in server.questions] == ["udp", "tcp"]


async def test_a_name_that_is_not_there_counts_as_long_as_its_soa_says(server: NameServer) -> None:
    server.negative = 5
    error = await failure(source(server))
    assert str(error) == "models.test has no A or AAAA record (NXDOMAIN)"
    assert error.retry_ns == 5 * SECOND
    server.negative = 3000
    assert (await failure(source(server))).retry_ns == 30 * SECOND
    assert (await failure(source(server, negative_ttl="2s"))).retry_ns == 2 * SECOND
    server.negative = 0
    assert (await failure(source(server))).retry_ns == 1 * SECOND


async def test_an_empty_answer_is_an_error(server: NameServer) -> None:
    server.set(NAME, "TXT", "hello")
    server.negative = 7
    error = await failure(source(server, type="A"))
    assert (str(error), error.retry_ns) == ("models.test has no A record", 7 * SECOND)


@pytest.mark.parametrize("exists", [False, True], ids=["no such name", "no records"])
async def test_a_denial_without_soa_is_asked_again_soon_and_then_ever_later(server: NameServer, exists: bool) -> None:
    if exists:
        server.set(NAME, "TXT", "hello")
    server.negative = None
    asked = source(server, negative_ttl="5s")
    assert [(await failure(asked)).retry_ns for _ in range(4)] == [n * SECOND for n in (1, 2, 4, 5)]
    server.set(NAME, "A", "10.0.0.1")
    await asked.look()
    del server.records[NAME, "A"]
    assert (await failure(asked)).retry_ns == SECOND
    server.negative = 4
    assert (await failure(asked)).retry_ns == 4 * SECOND


async def test_failing_and_silent_name_servers_are_named(server: NameServer) -> None:
    server.fault = dns.rcode.SERVFAIL
    assert str(await failure(source(server, type="A", timeout="300ms"))) == f"A models.test: {server.address}: SERVFAIL"
    server.fault = "silence"
    error = await failure(source(server, type="A", timeout="300ms"))
    assert str(error) == f"A models.test: {server.address}: no answer in time"
    assert error.retry_ns is None, "the pause is the watch's to choose"


async def test_the_next_name_server_is_asked_when_one_fails(server: NameServer) -> None:
    async with name_server() as other:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as nobody:
            nobody.bind(("127.0.0.1", 0))
            server.fault = "silence"
            other.set(NAME, "A", "10.0.0.1")
            resolvers = [f"127.0.0.1:{nobody.getsockname()[1]}", server.address, other.address]
            asked = DnsSource("models", options(resolvers=resolvers, timeout="100ms", type="A"), pool())
            assert addresses(await asked.look()) == ["10.0.0.1:9001"]
    assert server.asked(NAME, "A") == 1


def refuse(server: NameServer, wanted: Callable[[bytes], bool]) -> None:
    """From now on the name server refuses the questions that are `wanted`."""
    answer = NameServer.answer.__get__(server)

    def some(wire: bytes, by: str) -> bytes | None:
        server.fault = dns.rcode.REFUSED if wanted(wire) else None
        return answer(wire, by)

    server.answer = some  # type: ignore[method-assign]


def asks_aaaa(wire: bytes) -> bool:
    return b"\x00\x1c\x00\x01" in wire


async def test_half_an_answer_beats_none_until_there_was_a_whole_one(server: NameServer) -> None:
    """Later, half of the endpoints would be taken for all of them."""
    server.set(NAME, "A", "10.0.0.1", ttl=60)
    asked = source(server)
    refuse(server, asks_aaaa)
    half = f"AAAA models.test: {server.address}: REFUSED"
    for pause in (1, 2, 4):
        found = await asked.look()
        assert (addresses(found), found.missing, found.refresh_ns) == (["10.0.0.1:9001"], half, pause * SECOND)
    refuse(server, lambda wire: False)
    found = await asked.look()
    assert (addresses(found), found.missing, found.refresh_ns) == (["10.0.0.1:9001"], "", 60 * SECOND)
    refuse(server, asks_aaaa)
    assert str(await failure(asked)) == half
    refuse(server, lambda wire: True)
    assert "REFUSED" in str(await failure(source(server))), "nothing has answered"


async def test_a_denial_is_no_missing_half(server: NameServer) -> None:
    server.set(NAME, "A", "10.0.0.1")
    asked = source(server)
    assert (await asked.look()).missing == ""
    del server.records[NAME, "A"]
    refuse(server, asks_aaaa)
    assert "AAAA models.test" in str(await failure(source(server))), "IPv4 has denied, IPv6 has not answered"


async def test_targets_that_answer_beat_none_until_all_have(server: NameServer) -> None:
    server.set(SERVICE, "SRV", "0 1 9001 a.test.", "0 1 9002 b.test.")
    server.set("a.test.", "A", "10.0.0.1")
    server.set("b.test.", "A", "10.0.0.2")
    asked = services(server)
    refuse(server, lambda wire: b"\x01b\x04test" in wire)
    found = await asked.look()
    assert addresses(found) == ["10.0.0.1:9001"]
    assert "b.test" in found.missing
    refuse(server, lambda wire: False)
    found = await asked.look()
    assert (addresses(found), found.missing) == (["10.0.0.1:9001", "10.0.0.2:9002"], "")
    refuse(server, lambda wire: b"\x01b\x04test" in wire)
    assert "b.test" in str(await failure(asked))


@pytest.mark.parametrize(("families", "kind", "other"), [(["ipv4"], "A", "AAAA"), (["ipv6"], "AAAA", "A")])
async def test_one_family_only(server: NameServer, families: list[str], kind: str, other: str) -> None:
    values = {"A": "10.0.0.1", "AAAA": "fd00::1"}
    server.set(SERVICE, "SRV", "0 1 9001 a.test.")
    for name in ("a.test.", NAME):
        for family, value in values.items():
            server.set(name, family, value)
    refuse(server, lambda wire: asks_aaaa(wire) == (other == "AAAA") and b"\x00\x21\x00\x01" not in wire)
    for asked, name in ((services(server, families=families), "a.test."), (source(server, families=families), NAME)):
        found = await asked.look()
        assert ([values[kind] in address for address in addresses(found)], found.missing) == ([True], "")
        assert server.asked(name, other) == 0
    assert services(server, families=families).describe() == f"SRV ({kind}) {SERVICE.rstrip('.')}"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"type": "A", "families": ["ipv4"]}, "families has no effect with type: A"),
        ({"families": ["ipv4", "ipv4"]}, "named twice"),
        ({"families": []}, "at least 1"),
        ({"families": ["inet"]}, "'ipv4' or 'ipv6'"),
    ],
)
async def test_families_that_are_refused(server: NameServer, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        source(server, **settings)


async def test_link_local_addresses_are_left_out(server: NameServer) -> None:
    """They need an interface, which no record names."""
    server.set(NAME, "AAAA", "fe80::1", "fd00::1")
    assert addresses(await source(server).look()) == ["[fd00::1]:9001"]
    server.set(NAME, "AAAA", "fe80::1")
    assert str(await failure(source(server))) == "models.test has no usable address"


async def test_srv_records_give_ports_weights_names_and_priorities(server: NameServer) -> None:
    server.set(SERVICE, "SRV", "10 3 9001 b.test.", "10 1 9002 a.test.", "20 9 9003 c.test.", ttl=30)
    server.set("a.test.", "A", "10.0.0.1", ttl=8)
    server.set("b.test.", "A", "10.0.0.2", ttl=60)
    server.set("b.test.", "AAAA", "fd00::2", ttl=60)
    server.set("c.test.", "A", "10.0.0.3", ttl=60)
    found = await services(server).look()
    assert found.endpoints == (
        EndpointSpec("10.0.0.1:9002", 1, "a.test"),
        EndpointSpec("10.0.0.2:9001", 3, "b.test"),
        EndpointSpec("[fd00::2]:9001", 3, "b.test"),
        EndpointSpec("10.0.0.3:9003", 9, "c.test", priority=1),
    )
    assert found.refresh_ns == 8 * SECOND
    server.set(SERVICE, "SRV", "20 60000 9003 c.test.", "30 1 9002 a.test.", "30 1 9003 c.test.")
    assert (await services(server).look()).endpoints == (
        EndpointSpec("10.0.0.3:9003", 1000, "c.test"),
        EndpointSpec("10.0.0.1:9002", 1, "a.test", priority=1),
    ), "weights are those among one priority, and an address has the best that it is named with"


async def test_addresses_that_come_with_srv_records_are_used(server: NameServer) -> None:
    server.set(SERVICE, "SRV", "0 0 9001 a.test.", ttl=30)
    server.extra = [("a.test.", "A", 4, ["10.0.0.7"]), ("a.test.", "AAAA", 9, ["fd00::7"])]
    found = await services(server).look()
    assert (addresses(found), found.refresh_ns) == (["10.0.0.7:9001", "[fd00::7]:9001"], 4 * SECOND)
    assert [kind for _, kind, _ in server.questions] == ["SRV"]


async def test_the_family_that_did_not_come_along_is_asked_for(server: NameServer) -> None:
    """Servers leave out of the additional section what does not fit, and say nothing about it (RFC 2181 section 9)."""
    server.set(SERVICE, "SRV", "0 0 9001 a.test.", ttl=30)
    server.set("a.test.", "A", "10.0.0.7")
    server.set("a.test.", "AAAA", "fd00::7", ttl=3)
    server.extra = [("a.test.", "A", 4, ["10.0.0.7"])]
    found = await services(server).look()
    assert (addresses(found), found.refresh_ns) == (["10.0.0.7:9001", "[fd00::7]:9001"], 3 * SECOND)
    assert [kind for _, kind, _ in server.questions] == ["SRV", "AAAA"]
    del server.records["a.test.", "AAAA"]
    assert addresses(await services(server).look()) == ["10.0.0.7:9001"]


async def test_addresses_that_came_along_in_a_full_message_may_not_be_all(server: NameServer) -> None:
    """dnsmasq cuts off in the midst of them, and begins with others each time."""
    hosts = [f"10.0.0.{n}" for n in range(1, 101)]
    server.set(SERVICE, "SRV", "0 0 9001 a.test.", ttl=30)
    server.set("a.test.", "A", *hosts)
    server.extra = [("a.test.", "A", 4, hosts[:27])]
    assert len((await services(server).look()).endpoints) == 100
    # Over TCP there is room for all.
    server.questions.clear()
    server.truncate = True
    server.extra = [("a.test.", "A", 4, hosts), ("a.test.", "AAAA", 4, ["fd00::1"])]
    assert len((await services(server).look()).endpoints) == 101
    assert [(kind, by) for _, kind, by in server.questions] == [("SRV", "udp"), ("SRV", "tcp")]


async def test_a_record_without_a_port_is_left_out(server: NameServer) -> None:
    """As of services that were registered without one."""
    server.set(SERVICE, "SRV", "0 1 0 a.test.", "0 1 9001 b.test.")
    server.set("a.test.", "A", "10.0.0.1")
    server.set("b.test.", "A", "10.0.0.2")
    assert addresses(await services(server).look()) == ["10.0.0.2:9001"]
    server.set(SERVICE, "SRV", "0 1 0 a.test.")
    assert str(await failure(services(server))) == "_oip._tcp.test has no SRV record with a port"


async def test_a_target_without_addresses_is_left_out(server: NameServer) -> None:
    server.set(SERVICE, "SRV", "0 1 9001 a.test.", "0 1 9001 gone.test.")
    server.set("a.test.", "A", "10.0.0.1")
    assert addresses(await services(server).look()) == ["10.0.0.1:9001"]
    del server.records["a.test.", "A"]
    assert "has no A or AAAA record" in str(await failure(services(server)))


async def test_srv_without_a_service(server: NameServer) -> None:
    server.set(SERVICE, "SRV", "0 0 0 .")
    assert str(await failure(services(server))) == "_oip._tcp.test says that the service is not offered"
    del server.records[SERVICE, "SRV"]
    assert str(await failure(services(server))) == "_oip._tcp.test has no SRV record (NXDOMAIN)"


@pytest.mark.parametrize(
    ("records", "endpoints"),
    [
        ([0, 0], [1, 1]),
        ([0, 5], [1, 5]),
        ([1000, 10], [1000, 10]),
        ([65535, 6553, 1, 0], [1000, 100, 1, 1]),
    ],
)
def test_weights_of_records(records: list[int], endpoints: list[int]) -> None:
    assert endpoint_weights(records) == endpoints


async def test_the_systems_name_servers_by_default(server: NameServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """No server of the test can be the system's: what is read is the file, at each look."""
    asked = DnsSource("models", options(name="models.invalid.", timeout="10ms"), pool())
    read: list[str] = []
    import dns.asyncresolver

    def configure(self: Any, filename: str = "/etc/resolv.conf") -> bool:
        read.append(filename)
        self.nameservers = [server.address.partition(":")[0]]
        self.port = int(server.address.partition(":")[2])
        return True

    monkeypatch.setattr(dns.asyncresolver.Resolver, "read_resolv_conf", configure)
    server.set("models.invalid.", "A", "10.0.0.1")
    server.set("models.invalid.", "AAAA", "fd00::1")
    assert addresses(await asked.look()) == ["10.0.0.1:9001", "[fd00::1]:9001"]
    await asyncio.sleep(0)
    assert read == ["/etc/resolv.conf"] * 2
