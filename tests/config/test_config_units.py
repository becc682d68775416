"""Spellings of durations, sizes and addresses."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lb.config.address import (
    Bind,
    HostPort,
    UnixPath,
    collide,
    is_loopback,
    overlap,
    parse_address,
    parse_bind,
    parse_bind_range,
    parse_socket,
    parse_target,
    sockets_shown,
)
from lb.config.schema.listeners.listener import ListenerConfig
from lb.config.schema.pools.agent import AgentConfig
from lb.config.units import (
    MAX_DURATION,
    MAX_SIZE,
    format_duration,
    format_size,
    parse_duration,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("0s", 0),
        ("250us", 250_000),
        ("250ms", 250_000_000),
        ("1.5s", 1_500_000_000),
        ("0.001us", 1),
        ("5m", 300_000_000_000),
        ("1h", 3_600_000_000_000),
        ("365d", MAX_DURATION),
    ],
)
def test_duration(text: str, ns: int) -> None:
    assert parse_duration(text) == ns


@pytest.mark.parametrize(
    "text",
    [
        "",
        "5",
        "s",
        "-1s",
        "+1s",
        "1 s",
        "1S",
        "1sec",
        "1m30s",
        "1e3s",
        ".5s",
        "1.s",
        "0.0001us",
        "366d",
        "٣s",
        "9" * 30 + "s",
    ],
)
def test_not_a_duration(text: str) -> None:
    with pytest.raises(ValueError, match=r"duration|longer"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size"), [("0B", 0), ("512B", 512), ("64KiB", 65536), ("1.5MiB", 1572864), ("2GiB", 2 << 30)]
)
def test_size(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "5", "5KB", "5kib", "5K", "-5B", "0.5B", "2000TiB", "5 MiB"])
def test_not_a_size(text: str) -> None:
    with pytest.raises(ValueError, match=r"size|larger"):
        parse_size(text)


@given(st.integers(0, MAX_DURATION))
def test_duration_is_read_back(ns: int) -> None:
    assert parse_duration(format_duration(ns)) == ns


@given(st.integers(0, MAX_SIZE))
def test_size_is_read_back(size: int) -> None:
    assert parse_size(format_size(size)) == size


@given(st.text())
def test_any_text_is_a_unit_or_a_value_error(text: str) -> None:
    for parse in (parse_duration, parse_size, parse_address, parse_bind):
        with contextlib.suppress(ValueError):
            parse(text)


@pytest.mark.parametrize(
    ("text", "canonical", "literal"),
    [
        ("127.0.0.1:80", "127.0.0.1:80", True),
        ("[::1]:80", "[::1]:80", True),
        ("[0:0:0:0:0:0:0:1]:80", "[::1]:80", True),
        ("[2001:DB8::A]:443", "[2001:db8::a]:443", True),
        ("Models.Example.org:8001", "models.example.org:8001", False),
        ("a_b:1", "a_b:1", False),
        ("[::ffff:127.0.0.1]:80", "127.0.0.1:80", True),
        ("[::FFFF:0a00:9]:80", "10.0.0.9:80", True),
        ("[0:0:0:0:0:ffff:192.0.2.1]:80", "192.0.2.1:80", True),
        ("[::127.0.0.1]:80", "[::7f00:1]:80", True),
        ("[64:ff9b::192.0.2.1]:80", "[64:ff9b::c000:201]:80", True),
    ],
)
def test_host_and_port(text: str, canonical: str, literal: bool) -> None:
    address = parse_address(text)
    assert isinstance(address, HostPort)
    assert (str(address), address.literal) == (canonical, literal)
    assert parse_address(canonical) == address


def test_unix_path() -> None:
    assert parse_address("unix:/run/d.sock") == UnixPath("/run/d.sock")
    assert parse_address("unix:/" + "a" * 106) == UnixPath("/" + "a" * 106)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("127.0.0.1", "no port"),
        ("127.0.0.1:", "no valid port"),
        ("127.0.0.1:65536", "no valid port"),
        ("127.0.0.1:-1", "no valid port"),
        ("127.0.0.1:٣", "no valid port"),
        ("127.0.0.256:80", "not an IPv4 address"),
        ("127.1:80", "not an IPv4 address"),
        ("::1:80", "brackets"),
        ("[::1", "brackets"),
        ("[::g]:80", "not an IPv6 address"),
        ("[fe80::1%a/b]:80", "IPv6|interface"),
        (":80", "no host"),
        ("-a:80", "host name"),
        ("a..b:80", "host name"),
        ("http://a:80", "is a URL; write HOST:PORT"),
        ("http://a", "is a URL"),
        ("unix:run.sock", "absolute path"),
        ("unix:", "absolute path"),
        ("unix:/run/", "absolute path"),
        ("unix:/" + "a" * 107, "107 bytes"),
    ],
)
def test_not_an_address(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_address(text)


def test_bind() -> None:
    assert str(parse_bind("localhost:80")) == "127.0.0.1:80"
    assert str(parse_bind("[::]:0")) == "[::]:0"
    assert str(parse_bind("[::ffff:0.0.0.0]:80")) == "0.0.0.0:80"
    assert is_loopback(parse_bind("[::ffff:127.0.0.1]:80"))
    assert not is_loopback(parse_bind("[::ffff:0.0.0.0]:80"))
    for text, message in (
        (":80", "0.0.0.0:80"),
        ("*:80", "0.0.0.0:80"),
        ("example.org:80", "is a name"),
        ("80", "no port"),
        ("[fe80::1]:80", r"link-local address, which needs its interface; write \[fe80::1%eth0\]:80"),
        ("[::1%eth0]:80", "only link-local addresses"),
        ("[fe80::1%a:b]:80", "is not the name of an interface"),
        ("[fe80::1%]:80", "is not an IPv6 address"),
        ("unix:@", "is not a name of an abstract socket"),
        ("unix:@a b", "is not a name of an abstract socket"),
    ):
        with pytest.raises(ValueError, match=message):
            parse_bind(text)


def test_targets() -> None:
    """Whom one can connect to: a link-local address needs its interface, which nothing here can name."""
    assert str(parse_target("[::ffff:10.0.0.1]:80")) == "10.0.0.1:80"
    assert str(parse_target("models.test:80")) == "models.test:80"
    assert str(parse_target("[FE80::1%eth0]:80")) == "[fe80::1%eth0]:80"
    assert str(parse_target("unix:@models")) == "unix:@models"
    for text in ("[fe80::1]:80", "[febf::1]:80", "[2001:db8::1%eth0]:80"):
        with pytest.raises(ValueError, match=r"link-local|scope"):
            parse_target(text)


@pytest.mark.parametrize(
    ("text", "ports"),
    [("127.0.0.1:80", [80]), ("127.0.0.1:80-80", [80]), ("[::1]:9000-9002", [9000, 9001, 9002]), ("localhost:0", [0])],
)
def test_ranges_of_ports(text: str, ports: list[int]) -> None:
    found = parse_bind_range(text)
    assert [a.port for a in found if isinstance(a, HostPort)] == ports
    assert len(found) == len(ports)
    assert parse_bind_range(str(found)) == found


@pytest.mark.parametrize("text", ["127.0.0.1:81-80", "127.0.0.1:0-5", "127.0.0.1:80-65536", "127.0.0.1:80-", "a:1-2"])
def test_what_is_no_range_of_ports(text: str) -> None:
    with pytest.raises(ValueError, match=r"range|port|name"):
        parse_bind_range(text)


def test_a_socket_as_text() -> None:
    binds = [
        Bind(parse_bind(address), ipv6only, interface, transparent)
        for address in ("127.0.0.1:80", "[::]:80", "[fe80::1%eth0]:80")
        for ipv6only in (True, False)
        for interface in ("", "vrf-blue")
        for transparent in (True, False)
    ]
    binds += [Bind(parse_bind("unix:/a b"), True), Bind(parse_bind("unix:@a"))]
    assert [parse_socket(str(bind)) for bind in binds] == binds
    assert len({str(bind) for bind in binds}) == len(binds)


def test_sockets_are_shown_as_ss_shows_them() -> None:
    binds = {
        "0.0.0.0:80 interface=eth0": "0.0.0.0%eth0:80",
        "0.0.0.0:80 interface=eth1": "0.0.0.0%eth1:80",
        "[::]:80": "[::]:80",
        "[::]:80 ipv6only=off interface=eth2": "*%eth2:80",
        "[fe80::1%eth0]:80": "[fe80::1%eth0]:80",
        "10.0.0.5:80 transparent": "10.0.0.5:80 transparent",
        "unix:/run/a b 0.sock": "unix:/run/a b 0.sock",
        "unix:@app": "unix:@app",
    }
    assert sockets_shown((bind, str(parse_socket(bind).address)) for bind in binds) == list(binds.values())
    assert sockets_shown([("127.0.0.1:0", "127.0.0.1:40000")]) == ["127.0.0.1:40000"]
    ports = [*range(9000, 9003), 9004, 9003]
    assert sockets_shown((f"10.0.0.5:{port}", f"10.0.0.5:{port}") for port in ports) == [
        "10.0.0.5:9000-9002", "10.0.0.5:9004", "10.0.0.5:9003",
    ]  # fmt: skip
    assert sockets_shown([("10.0.0.5:80", "10.0.0.5:80"), ("10.0.0.5:81 transparent", "10.0.0.5:81")]) == [
        "10.0.0.5:80", "10.0.0.5:81 transparent",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("a", "b", "clash"),
    [
        ("[::]:80 ipv6only=off", "0.0.0.0:80", True),
        ("[::]:80 ipv6only=off", "127.0.0.1:80", True),
        ("[::]:80 ipv6only=off", "127.0.0.1:81", False),
        ("[::]:80 ipv6only=off", "[::1]:80", True),
        ("[::]:80 ipv6only=off", "[::]:80 ipv6only=off", True),
        ("[::]:80", "0.0.0.0:80", False),
        ("[::]:0 ipv6only=off", "0.0.0.0:0", False),
        ("0.0.0.0:80 interface=a", "0.0.0.0:80 interface=b", False),
        ("0.0.0.0:80 interface=a", "127.0.0.1:80", True),
        ("unix:@a", "unix:@a", True),
        ("unix:@a", "unix:/a", False),
        ("unix:@a", "[::]:80 ipv6only=off", False),
    ],
)
def test_sockets_that_collide(a: str, b: str, clash: bool) -> None:
    assert collide(parse_socket(a), parse_socket(b)) is clash
    assert collide(parse_socket(b), parse_socket(a)) is clash


@pytest.mark.parametrize(
    ("a", "b", "clash"),
    [
        ("127.0.0.1:80", "127.0.0.1:80", True),
        ("127.0.0.1:80", "127.0.0.2:80", False),
        ("127.0.0.1:80", "127.0.0.1:81", False),
        ("0.0.0.0:80", "127.0.0.1:80", True),
        ("[::]:80", "[::1]:80", True),
        ("[::ffff:127.0.0.1]:80", "127.0.0.1:80", True),
        ("[::ffff:127.0.0.1]:80", "0.0.0.0:80", True),
        ("[::ffff:127.0.0.1]:80", "[::]:80", False),
        ("[::]:80", "127.0.0.1:80", False),
        ("127.0.0.1:0", "127.0.0.1:0", False),
        ("unix:/a", "unix:/a", True),
        ("unix:/a", "unix:/b", False),
        ("unix:/a", "127.0.0.1:80", False),
    ],
)
def test_overlap(a: str, b: str, clash: bool) -> None:
    assert overlap(parse_bind(a), parse_bind(b)) is clash
    assert overlap(parse_bind(b), parse_bind(a)) is clash


def test_loopback() -> None:
    assert all(is_loopback(parse_bind(t)) for t in ("127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "localhost:1", "unix:/a"))
    assert not any(is_loopback(parse_bind(t)) for t in ("0.0.0.0:1", "[::]:1", "10.0.0.1:1"))


def test_networks_are_mapped_back_wherever_they_stand() -> None:
    """Clients' addresses are: a network in the other form would hold for nobody."""
    mapped, plain = "::ffff:10.0.0.0/104", "10.0.0.0/8"
    route = {"pool": "a", "match": {"source": [mapped], "not_source": [mapped]}}
    web = ListenerConfig.model_validate(
        {"bind": "127.0.0.1:0", "protocol": "http", "trusted_proxies": [mapped], "routes": [route]}
    )
    assert web.trusted_proxies == [plain]
    assert (web.routes[0].match.source, web.routes[0].match.not_source) == ([plain], [plain])
    assert AgentConfig.model_validate({"host": "::ffff:10.0.0.1", "port": 1}).host == "10.0.0.1"
    for broken in (
        {"trusted_proxies": ["fe80::%eth0/64"]},
        {"routes": [{"pool": "a", "match": {"source": ["fe80::1%eth0"]}}]},
    ):
        with pytest.raises(ValueError, match=r"scope|is not a network"):
            ListenerConfig.model_validate({"bind": "127.0.0.1:0", "protocol": "http", "routes": [route], **broken})
    for host in ("fe80::1", "fe80::1%eth0"):
        with pytest.raises(ValueError, match="link-local"):
            AgentConfig.model_validate({"host": host, "port": 1})
