"""Maps: what each kind finds, held against a plain reference, and what routes make of it."""

from __future__ import annotations

import ipaddress
import random
import re
from pathlib import Path
from typing import Any

import pytest
from datapath import Site
from routing_site import curl, routing_gate, shown

from lb.config.schema.access import read_keys
from lb.config.schema.maps import MapConfig, entries_of
from lb.config.sources import networks_in
from lb.proxy.routing.values.lookup import Lookup, build

H = "-H"
KEY = "\U000f0010request.host\U000f0012"


def looked_up(entries: dict[bytes, bytes], kind: str, text: bytes) -> bytes | None:
    """As `Lookup`, in a line for each kind."""
    found = {
        "exact": [key for key in entries if key == text],
        "prefix": [key for key in entries if text.startswith(key)],
        "suffix": [key for key in entries if text.endswith(key)],
        "domain": [key for key in entries if key and (b"." + text.removesuffix(b".")).endswith(b"." + key)],
    }[kind]  # fmt: skip
    return entries[max(found, key=len)] if found else None


@pytest.mark.parametrize("kind", ["exact", "prefix", "suffix", "domain"])
def test_a_map_finds_what_a_plain_search_does(kind: str) -> None:
    rng = random.Random(kind)
    for _ in range(60):
        parts = [bytes(rng.choice(b"ab.") for _ in range(rng.randrange(0 if kind != "domain" else 1, 6)))
                 for _ in range(rng.randrange(12))]  # fmt: skip
        entries = {key.strip(b".") if kind == "domain" else key: b"v%d" % i for i, key in enumerate(parts)}
        entries.pop(b"", None) if kind == "domain" else None
        lookup = Lookup(build(entries, kind))
        assert lookup.size == len(entries)
        for _ in range(60):
            text = bytes(rng.choice(b"ab.") for _ in range(rng.randrange(8)))
            if kind == "domain" and (text.endswith(b"..") or b".." in text):
                continue
            assert lookup.get(text) == looked_up(entries, kind, text), (entries, text)


def test_networks_are_found_as_by_a_plain_search() -> None:
    rng = random.Random("network")
    kinds: list[tuple[int, Any]] = [(32, ipaddress.IPv4Address), (128, ipaddress.IPv6Address)]
    for bits, kind in kinds:
        for _ in range(80):
            around = rng.getrandbits(bits)
            networks = set()
            for _ in range(rng.randrange(14)):
                length = rng.choice([0, 1, bits - 9, bits - 4, bits - 3, bits - 1, bits])
                address = kind(around ^ rng.getrandbits(5) if rng.random() < 0.8 else rng.getrandbits(bits))
                networks.add(ipaddress.ip_network((address, length), strict=False))
            entries = {str(network).encode(): b"v%d" % i for i, network in enumerate(networks)}
            lookup = Lookup(build(entries, "network"))
            assert lookup.size == len(entries)
            for _ in range(60):
                address = kind(around ^ rng.getrandbits(7) if rng.random() < 0.9 else rng.getrandbits(bits))
                found = [network for network in networks if address in network]
                wanted = entries[str(max(found, key=lambda n: n.prefixlen)).encode()] if found else None
                assert lookup.get(str(address).encode()) == wanted, (entries, address)


def test_networks_of_both_families() -> None:
    entries = {b"10.0.0.0/8": b"a", b"10.1.2.3": b"b", b"2001:db8::/32": b"c", b"::/0": b"d"}
    lookup = Lookup(build(entries, "network"))
    for text, wanted in {
        b"10.255.255.255": b"a", b"10.1.2.3": b"b", b"::ffff:10.1.2.3": b"b", b"11.0.0.0": None, b"9.255.255.255": None,
        b"2001:db8:ffff::1": b"c", b"2001:db9::": b"d", b"fe80::1%eth0": None, b"": None, b"10.1": None,
        b"10.1.2.3:80": None, b"10.1.2.3\x00": None, b"x" * 2000: None,
    }.items():  # fmt: skip
        assert lookup.get(text) == wanted, text
    assert Lookup(build({}, "network")).get(b"10.0.0.1") is None
    for bad in (
        b"10.0.0.1/8", b"10.0.0", b"\xff", b"fe80::1%eth0", b"", b"10.0.0.0/33", b"10.0.0.0/", b"0.0.0.0", b"1::/129",
        b"10.0.0.0/+8", b"10.0.0.0/ 8", b"10.0.0.0\x00/8", b"010.0.0.0/8", b"::1/64", b"::ffff:1.2.3.4/100",
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"network|scope|bits|nobody|mapped"):
            build({bad: b""}, "network")
    masked = Lookup(build({b"10.0.0.0/255.0.0.0": b"a", b"0.0.0.0/0": b"b", b"1.0.0.0/08": b"c"}, "network"))
    assert [masked.get(text) for text in (b"10.9.9.9", b"0.0.0.0", b"1.1.1.1", b"::1")] == [b"a", b"b", b"c", None]
    with pytest.raises(ValueError, match="is there twice"):
        build({b"10.0.0.0/8": b"", b"::ffff:10.0.0.0/104": b""}, "network")


def test_a_file_of_networks_is_checked_line_by_line() -> None:
    config = MapConfig.model_validate({"key": "x", "file": "/x", "match": "network"})
    assert entries_of(config, b"10.0.0.0/8 a b\n# no\n2001:DB8::/32\n") == {
        b"10.0.0.0/8": b"a b",
        b"2001:DB8::/32": b"",
    }
    with pytest.raises(ValueError, match=r"line 2: '10.0.0.1/8' has bits set behind its prefix"):
        entries_of(config, b"10.0.0.0/9 a\n10.0.0.1/8 b\n")
    with pytest.raises(ValueError, match=r"line 3: .* is there twice"):
        entries_of(config, b"10.0.0.0/9 a\n\n::ffff:10.0.0.0/105 b\n")


def test_case_and_expressions() -> None:
    assert Lookup(build({b"abc": b"1"}, "prefix", True)).get(b"ABCd") == b"1"
    assert Lookup(build({b"abc": b"1"}, "exact", True)).get(b"aBC") == b"1"
    assert Lookup(build({b"abc": b"1"}, "exact")).get(b"aBC") is None
    regex = Lookup(build({b"^/a": b"first", b"/a/b": b"second", b"c$": b"third"}, "regex"))
    assert [regex.get(text) for text in (b"/a/b", b"/x/a/b", b"abc", b"")] == [b"first", b"second", b"third", None]
    with pytest.raises(ValueError, match="is not a regular expression"):
        build({b"(": b""}, "regex")
    with pytest.raises(ValueError, match="256 are the most"):
        build({b"%d" % i: b"" for i in range(257)}, "regex")


def test_long_texts_and_foreign_blocks() -> None:
    lookup = Lookup(build({b"x" * 1024: b"1", b"": b"empty"}, "prefix"))
    assert lookup.get(b"x" * 5000) == b"1"
    assert lookup.get(b"y" * 5000) == b"empty"
    assert Lookup(build({b"x" * 1024: b"1"}, "suffix", True)).get(b"y" * 9 + b"X" * 1024) == b"1"
    assert Lookup(build({b"x" * 1024: b"1"}, "exact")).get(b"x" * 1025) is None
    with pytest.raises(ValueError, match="at most 1024 bytes"):
        build({b"x" * 1025: b""}, "exact")
    block = build({b"a": b"1"}, "exact")
    for bad in (b"", block[:-1], block + b"x", b"\0" * len(block)):
        with pytest.raises(ValueError, match="not a map's block"):
            Lookup(bad)


def test_a_hundred_thousand_entries() -> None:
    entries = {b"tenant-%d.example.org" % i: b"pool-%d" % (i % 7) for i in range(100_000)}
    block = build(entries, "domain")
    assert len(block) < 8 << 20
    lookup = Lookup(block)
    for i in range(0, 100_000, 997):
        assert lookup.get(b"www.Tenant-%d.example.org" % i) == b"pool-%d" % (i % 7)
    assert lookup.get(b"tenant-100000.example.org") is None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a 1\nb 2\na 3\n", "line 3: 'a' is there twice"),
        (b"# list\n\na\x01 1\n", "line 3: has a control character"),
        (b"a 1\n\xffa \x002", "line 2: has a control character"),
        (b"a 1\r\nb 2\r3\r\n", "line 2: has a control character"),
    ],
)
def test_a_file_with_a_mistake_names_the_line(tmp_path: Path, content: bytes, said: str) -> None:
    config = MapConfig.model_validate({"key": KEY, "file": "/x"})
    with pytest.raises(ValueError, match=re.escape(said)):
        entries_of(config, content)


HOST, ADDRESS, PATH, HEADER = (
    f"\U000f0010{name}\U000f0012" for name in ("request.host", "client.address", "request.path", "header.x")
)
ODD = [
    (HOST, "exact", "*.example.org", "with match: domain, example.org is the name and all names below it"),
    (HOST, "exact", ".example.org", "with match: domain, example.org is"),
    (HOST, "domain", "*.example.org", "with match: domain, example.org is"),
    (HOST, "exact", "~^www", "an expression is written without ~, in a map with match: regex"),
    (HOST, "domain", "default", "what the map does not have is written ${map.NAME:-default}"),
    (HOST, "exact", "example.org:8080", "hosts are looked up without their port"),
    (HOST, "exact", "[::1]:80", "hosts are looked up without their port"),
    (HOST, "exact", "example.org.", "hosts are looked up without a dot at their end"),
    (HOST, "exact", "2001:db8::1", "stands in brackets: '[2001:db8::1]'"),
    (HOST, "exact", "http://example.org/", "a host has no slash"),
    (ADDRESS, "exact", "10.0.0.0/8", "networks need match: network"),
    (ADDRESS, "exact", "2001:DB8::1", "addresses are looked up as 2001:db8::1"),
    (ADDRESS, "exact", "::ffff:10.0.0.1", "addresses are looked up as 10.0.0.1"),
    (ADDRESS, "exact", "default", "it is not an address"),
    (PATH, "exact", "index.html", "a path begins with a slash"),
    (PATH, "prefix", "default", "a path begins with a slash"),
    (HEADER, "exact", "~*bot", "an expression is written without ~"),
    (HEADER, "prefix", "~^Mozilla", "an expression is written without ~"),
]


@pytest.mark.parametrize(("key", "match", "entry", "said"), ODD)
def test_keys_that_no_request_has_say_what_to_write(key: str, match: str, entry: str, said: str) -> None:
    """Keys as nginx and HAProxy have them would be found for nobody: in the configuration and in a file."""
    config = MapConfig.model_validate({"key": key, "match": match, "entries": {entry: "v"}})
    with pytest.raises(ValueError, match=re.escape(f"{entry!r}: ") + ".*" + re.escape(said)):
        entries_of(config, b"")
    config = MapConfig.model_validate({"key": key, "match": match, "file": "/x"})
    good = {HOST: b"a.org", ADDRESS: b"1.2.3.4", PATH: b"/a", HEADER: b"a"}[key]
    for ending in (b"\n", b"\r\n", b" v\n", b""):
        with pytest.raises(ValueError, match=re.escape(f"line 3: {entry!r}: ") + ".*" + re.escape(said)):
            entries_of(config, b"# list\n" + good + b" v\n" + entry.encode() + ending)


def test_keys_that_some_request_has_stay() -> None:
    keys = {
        (HOST, "exact"): ["A.org", "localhost", "[2001:db8::1]", "10.0.0.1", ""],
        (HOST, "domain"): ["a.org", ".b.org", "c.org."],
        (HOST, "suffix"): [".org", ":x"],
        (HOST, "prefix"): ["www.", "default"],
        (ADDRESS, "exact"): ["10.0.0.1", "2001:db8::1", ""],
        (ADDRESS, "prefix"): ["10.", "2001:"],
        (PATH, "exact"): ["/", "/~me", "*", ""],
        (PATH, "suffix"): [".png"],
        (HEADER, "exact"): ["~", "~me", "*", "default", "a/b"],
    }
    for (key, match), entries in keys.items():
        config = MapConfig.model_validate({"key": key, "match": match, "file": "/x"})
        assert len(entries_of(config, "\n".join(entries).encode())) == len([entry for entry in entries if entry])
        entries_of(MapConfig.model_validate({"key": key, "match": match, "entries": dict.fromkeys(entries, "v")}), b"")


def test_a_file_as_an_editor_of_windows_writes_it() -> None:
    """The mark of UTF-8 at the beginning is no part of the first key."""
    config = MapConfig.model_validate({"key": HOST, "file": "/x"})
    assert entries_of(config, b"\xef\xbb\xbfa.org gold\r\nb.org silver") == {b"a.org": b"gold", b"b.org": b"silver"}
    assert [str(network) for network in networks_in(b"\xef\xbb\xbf10.0.0.0/8\r\n")] == ["10.0.0.0/8"]
    keys = b"\xef\xbb\xbfci:sha256:" + b"0" * 64 + b"\r\n"
    assert [name for name, _, _ in read_keys(keys)] == ["ci"]


def test_a_file_as_nginx_has_it() -> None:
    config = MapConfig.model_validate({"key": HEADER, "file": "/x"})
    for line in (b"a gold;", b'a "gold";', b"a 'two words' ;"):
        with pytest.raises(ValueError, match="line 1: ends with a semicolon, as nginx has it"):
            entries_of(config, line + b"\nb silver;\n")
    assert entries_of(config, b"a default-src 'self'; script-src 'none';\n")


def test_a_file_as_haproxy_has_it() -> None:
    config = MapConfig.model_validate({"key": KEY, "file": "/x", "match": "domain"})
    content = b"# tenants\r\n\n  .Example.org.  gold  member \nb.org\tsilver\nlist-only\n"
    assert entries_of(config, content) == {b"example.org": b"gold  member", b"b.org": b"silver", b"list-only": b""}


# At the wire.

TENANTS = {"key": "${request.host}", "match": "domain", "entries": {"a.org": "gold", "x.a.org": "silver"}}


async def test_values_of_maps_in_texts_and_conditions(site: Site) -> None:
    made, pools = await shown(site, "a", "b")
    maps = {
        "tenants": TENANTS,
        "bots": {"key": "${header.a}", "match": "prefix", "ignore_case": True, "entries": {"curl/": "", "wget": ""}},
    }
    routes: list[dict[str, Any]] = [
        {"match": {"headers": {"x-agent": {"map": "bots"}}}, "respond": {"body": "bot"}},
        {"match": {"maps": {"tenants": "silver"}}, "pool": "b"},
        {"pool": "a", "request_headers": {"set": {"X-Tier": "${map.tenants:-none}"}}},
    ]
    gate = await routing_gate(site, routes, pools, maps=maps)
    assert (await curl(gate, "/", H, "X-Agent: CURL/8")).body == "bot"
    assert (await curl(gate, "/", H, "X-Agent: mozilla")).body == "a"
    for host, pool, tier in (("a.org", "a", "gold"), ("y.x.A.org:8", "b", ""), ("b.org", "a", "none")):
        assert (await curl(gate, "/", H, f"Host: {host}")).body == pool
        if tier:
            assert f"x-tier: {tier}\r\n".encode() in made["a"].last.lower()


async def test_the_zone_of_a_client(site: Site) -> None:
    entries = {"127.0.0.0/8": "inside", "127.0.0.1": "here", "192.0.2.0/24": "out"}
    maps = {
        "zone": {"key": "${client.address}", "match": "network", "entries": entries},
        "said": {"key": "${header.x-from}", "match": "network", "entries": entries},
    }
    routes = [
        {"match": {"maps": {"said": "out"}}, "respond": {"status": 403}},
        {"respond": {"body": "${map.zone} ${map.said:-nowhere}"}},
    ]
    gate = await routing_gate(site, routes, {"a": ["127.0.0.1:1"]}, maps=maps)
    assert (await curl(gate, "/", H, "X-From: 127.9.9.9")).body == "here inside"
    assert (await curl(gate, "/", H, "X-From: 192.0.2.77")).status == 403
    assert (await curl(gate, "/", H, "X-From: unknown")).body == "here nowhere"


async def test_a_text_names_the_pool(site: Site) -> None:
    _, pools = await shown(site, "a", "b", "c")
    maps = {"tenants": {"key": "${request.host}", "entries": {"b.org": "b"}}}
    route = {
        "pools": [{"pool": "a"}, {"pool": "b", "weight": 0}, {"pool": "c", "weight": 0}],
        "pool_by": "${map.tenants:-${header.x-pool}}",
    }
    gate = await routing_gate(site, [route], pools, maps=maps)
    for host, pool, answer in (
        ("b.org", "c", "b"), ("x.org", "c", "c"), ("x.org", "nope", "a"), ("x.org", "", "a"),
    ):  # fmt: skip
        assert (await curl(gate, "/", H, f"Host: {host}", H, f"X-Pool: {pool}")).body == answer
    counts = gate.total(gate.plan.listeners[0].routes[0].series)
    assert counts["unknown_pools"] == 1, "of a name that is none; a request without one names nothing"


async def test_a_name_with_letters_around_it_is_told_once_a_minute(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    _, pools = await shown(site, "team-", "team-b")
    route = {"pools": [{"pool": "team-"}, {"pool": "team-b", "weight": 0}], "pool_by": "team-${header.x-team}"}
    gate = await routing_gate(site, [route], pools)
    for team, answer in (("b", "team-b"), ("", "team-"), ("d\xff" + "e" * 99, "team-"), ("f", "team-")):
        assert (await curl(gate, "/", H, f"X-Team: {team}")).body == answer
    assert gate.total(gate.plan.listeners[0].routes[0].series)["unknown_pools"] == 2
    (said,) = [record.getMessage() for record in caplog.records if "pool_by" in record.getMessage()]
    assert "pool_by names 'team-" in said
    assert "e" * 50 in said
    assert "e" * 70 not in said


@pytest.mark.parametrize("kind", ["exact", "prefix", "suffix", "domain", "regex"])
async def test_a_host_is_found_however_a_client_spells_it(site: Site, kind: str) -> None:
    """Routes take B.ORG. for b.org; a map of denied hosts must not let it through."""
    maps = {
        "denied": {"key": "${request.host}", "match": kind, "entries": {"B.org": "1"}},
        "both": {"key": "${request.method} ${request.host}", "entries": {"GET c.org": "yes"}},
    }
    routes = [
        {"match": {"host": "x.org"}, "respond": {"body": "${request.host}"}},
        {"match": {"any": [{"maps": {"denied": "1"}}, {"maps": {"both": "yes"}}]}, "respond": {"status": 403}},
        {"respond": {"status": 204}},
    ]
    gate = await routing_gate(site, routes, {"a": ["127.0.0.1:1"]}, maps=maps)
    for host in ("b.org", "B.org", "b.ORG.", "B.ORG.:81", "b.org:", "C.org", "c.org."):
        assert (await curl(gate, "/", H, f"Host: {host}")).status == 403, host
    assert (await curl(gate, "/", H, "Host: z.org")).status == 204
    assert (await curl(gate, "/", H, "Host: X.Org.:8")).body == "x.org"


async def test_a_map_has_the_urls_of_redirects_and_the_paths_of_rewrites(site: Site) -> None:
    """They are the file's, and no client's: whole, with slashes and escapes. A request without an entry is refused."""
    maps = {
        "moved": {
            "key": "${request.path}",
            "entries": {"/a": "https://far.org/x?y=%20z#w", "/b": "/near", "/c": "https://far.org/\u00fc x"},
        },
        "paths": {"key": "${query.q}", "entries": {"one": "deep/er%20path", "up": "../../etc"}},
    }
    routes = [
        {"match": {"path": {"prefix": "/p"}}, "pool": "p", "rewrite": {"path": "/x/${map.paths}"}},
        {"redirect": {"location": "${map.moved}", "status": 308}},
    ]
    made, pools = await shown(site, "p")
    gate = await routing_gate(site, routes, pools, maps=maps)

    async def location(path: str) -> tuple[str, str]:
        head = (await gate.exchange(f"GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n".encode())).decode()
        found = re.search("(?m)^Location: (.*)\r$", head)
        return head.split()[1], found[1] if found else ""

    assert await location("/a") == ("308", "https://far.org/x?y=%20z#w")
    assert await location("/b") == ("308", "/near")
    assert await location("/c") == ("308", "https://far.org/%C3%BC%20x")
    assert await location("//evil.org") == ("400", "")
    assert (await location("/p?q=one"))[0] == "200"
    assert made["p"].last.startswith(b"GET /x/deep/er%20path?q=one ")
    assert (await location("/p?q=up"))[0] == "400"
